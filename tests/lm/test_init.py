"""The first values of the speech half: a code starts as the spelling of what it sounds like."""

import numpy as np
import pytest
import torch
from lm_toys import small_model
from tokenizers import Tokenizer

from mossrepro.data.token_store import code_table
from mossrepro.lm.init import SPELLING, spell_codes
from mossrepro.lm.task import LayerSplitTask
from mossrepro.lm.tokenizer import mini_tokenizer
from mossrepro.speech.normalise import PHONES
from mossrepro.utils.errors import ConfigError


def tokenizer() -> Tokenizer:
    return mini_tokenizer(["the cat sat on the mat", "she sings"], 300)


def one_sound_each(codes: int) -> torch.Tensor:
    """Code k sounds like phone k: (codes, 40)."""
    return torch.eye(codes, 1 + len(PHONES))


def test_every_phone_has_a_spelling() -> None:
    assert set(SPELLING) == set(PHONES)


def test_a_code_starts_as_the_letters_of_its_sound() -> None:
    tok = tokenizer()
    model = small_model(text_vocab=tok.get_vocab_size())
    before = model.speech_embed.weight.clone()
    spell_codes(model, tok, one_sound_each(40))
    row = 1 + PHONES.index("B")
    assert torch.equal(model.speech_embed.weight[row], model.text_embed.weight[tok.encode("b").ids[0]])
    assert torch.equal(model.speech_embed.weight[40:], before[40:])  # EOSP and the spare rows sound like nothing


def test_a_code_of_two_sounds_starts_between_their_letters() -> None:
    tok = tokenizer()
    model = small_model(text_vocab=tok.get_vocab_size())
    sounds = torch.zeros(40, 40)
    sounds[3, [1 + PHONES.index("T"), 1 + PHONES.index("K")]] = torch.tensor([0.75, 0.25])
    spell_codes(model, tok, sounds)
    t, k = (model.text_embed.weight[tok.encode(letter).ids[0]] for letter in "tk")
    assert torch.allclose(model.speech_embed.weight[3], 0.75 * t + 0.25 * k)


def test_sounds_of_another_codebook_are_refused() -> None:
    tok = tokenizer()
    with pytest.raises(ConfigError, match="codebook of 40"):
        spell_codes(small_model(text_vocab=tok.get_vocab_size()), tok, one_sound_each(24))


def test_a_store_without_sounds_is_named(tmp_path) -> None:
    with pytest.raises(ConfigError, match=r"sounds\.npy: cannot be read"):
        code_table(str(tmp_path), "sounds", 64)


def test_sounds_of_fewer_codes_are_refused_when_they_are_read(tmp_path) -> None:
    np.save(tmp_path / "sounds.npy", one_sound_each(24).numpy())
    with pytest.raises(ConfigError, match="24 rows"):
        code_table(tmp_path, "sounds", 64)


def test_the_flag_of_stage_one(tmp_path) -> None:
    np.save(tmp_path / "sounds.npy", one_sound_each(64).numpy())
    plain, spelled = (LayerSplitTask("smollm2", 64, code_phone_probs=sounds) for sounds in (None, str(tmp_path)))
    letter = spelled.model.text_embed.weight[spelled.tokenizer.encode("b").ids[0]]
    assert torch.equal(spelled.model.speech_embed.weight[1 + PHONES.index("B")], letter)
    assert not torch.equal(plain.model.speech_embed.weight[1 + PHONES.index("B")], letter)
