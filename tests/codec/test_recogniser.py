"""CTC labels and decoding; padding must not leak into a clip."""

import torch

from mossrepro.codec.recogniser import ALPHABET, BLANK, STEPS, Recogniser, ctc_text, labels


def test_labels_keep_letters_apostrophe_and_single_spaces():
    assert "".join(ALPHABET[label] for label in labels("  Don't  Stop-2 it!")) == "don't stop it"
    assert BLANK not in labels("any text at all _")


def test_ctc_merges_repeats_and_drops_blanks():
    steps = [ALPHABET.index(letter) for letter in "__hh_e_ll_llo__  _ tt_o_"]
    assert ctc_text(torch.tensor(steps)) == "hello to"
    assert ctc_text(torch.zeros(0, dtype=torch.int64)) == ""


@torch.no_grad()
def test_a_clip_is_read_the_same_alone_and_beside_a_longer_one():
    torch.manual_seed(1)
    reader = Recogniser(8, width=16, layers=2, kernel=3).eval()
    frames = torch.randn(2, 9, 8)
    both = reader(frames, torch.tensor([5, 9]))
    alone = reader(frames[:1, :5])
    assert both.shape == (2, 9 * STEPS, len(ALPHABET))
    torch.testing.assert_close(both[:1, : 5 * STEPS], alone, rtol=0, atol=1e-5)
