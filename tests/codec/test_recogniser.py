"""CTC labels and decoding; padding must not leak into a clip."""

import torch

from mossrepro.codec.recogniser import BLANK, LABELS, STEPS, Recogniser, ctc_labels, labels


def test_labels_are_the_phones_behind_the_blank():
    assert [LABELS[label] for label in labels(["HH", "AH", "L", "OW"])] == ["HH", "AH", "L", "OW"]
    assert len(LABELS) == 40 and BLANK not in labels(list(LABELS[1:]))


def test_ctc_merges_repeats_and_drops_blanks():
    assert ctc_labels(torch.tensor([0, 0, 5, 5, 0, 3, 0, 3, 3, 7, 0])) == [5, 3, 3, 7]
    assert ctc_labels(torch.zeros(0, dtype=torch.int64)) == []


@torch.no_grad()
def test_a_clip_is_read_the_same_alone_and_beside_a_longer_one():
    torch.manual_seed(1)
    reader = Recogniser(8, dim=16, layers=2, kernel=3).eval()
    frames = torch.randn(2, 9, 8)
    both = reader(frames, torch.tensor([5, 9]))
    alone = reader(frames[:1, :5])
    assert both.shape == (2, 9 * STEPS, len(LABELS))
    torch.testing.assert_close(both[:1, : 5 * STEPS], alone, rtol=0, atol=1e-5)
