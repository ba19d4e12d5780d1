"""Texts as they are spoken: the form in which two transcripts are compared."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

_SMALL = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
).split()
_TENS = "_ _ twenty thirty forty fifty sixty seventy eighty ninety".split()
_ORDINALS = {"one": "first", "two": "second", "three": "third", "five": "fifth", "eight": "eighth", "nine": "ninth",
             "twelve": "twelfth"}  # fmt: skip
_NUMBER_WORDS = {*_SMALL, *_TENS, "hundred", "thousand", "million"}
_SPELLINGS = {
    "cannot": "can not", "ok": "okay", "mr": "mister", "mrs": "missus", "dr": "doctor", "grey": "gray",
    "colour": "color", "favourite": "favorite", "neighbour": "neighbor", "centre": "center", "theatre": "theater",
    "metre": "meter", "metres": "meters", "aluminium": "aluminum", "sulphur": "sulfur", "gonna": "going to",
    "wanna": "want to", "mum": "mom", "programme": "program", "tyre": "tire", "litre": "liter",
}  # fmt: skip
_SYMBOLS = {"+": " plus ", "×": " times ", "*": " times ", "÷": " divided by ", "=": " equals ", "%": " percent ",
            "&": " and ", "°": " degrees "}  # fmt: skip
_ENDINGS = (("n't", " not"), ("'re", " are"), ("'ve", " have"), ("'ll", " will"), ("'m", " am"), ("'d", " would"))
# 3rd, 1980s; other letters are words of their own: 5kg, 2:45pm
_NUMBER = re.compile(r"(?P<whole>\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?P<fraction>\.\d+)?(?:(?P<ending>st|nd|rd|th|s)\b)?")
_IS = re.compile(r"\b(what|it|that|there|here|he|she|who|where|how|when)'s\b")


def _cardinal(value: int) -> str:
    """254 -> "two hundred fifty four"."""
    if value < 20:
        return _SMALL[value]
    if value < 100:
        return _TENS[value // 10] + ("" if value % 10 == 0 else " " + _SMALL[value % 10])
    for unit, name in ((1_000_000, "million"), (1_000, "thousand"), (100, "hundred")):
        if value >= unit:
            head, rest = divmod(value, unit)
            return f"{_cardinal(head)} {name}" + ("" if rest == 0 else " " + _cardinal(rest))
    raise AssertionError(value)


def _number(match: re.Match[str]) -> str:
    """A group of digits as it is spoken: years in pairs, decimals digit by digit, very long ones too."""
    whole, fraction, ending = match["whole"], match["fraction"], match["ending"]
    digits = whole.replace(",", "")
    value = int(digits) if len(digits) < 10 else 0
    if len(digits) >= 10 or (len(whole) > 1 and whole.startswith("0")):
        text = " ".join(_SMALL[int(digit)] for digit in digits)
    elif len(whole) == 4 and (1100 <= value < 2000 or 2010 <= value < 2100) and value % 100 and not fraction:
        text = f"{_cardinal(value // 100)} {'o ' if value % 100 < 10 else ''}{_cardinal(value % 100)}"
    else:
        text = _cardinal(value)
    if fraction:
        text += " point " + " ".join(_SMALL[int(digit)] for digit in fraction[1:])
    if ending:
        *head, last = text.split()
        stem = last[:-1] + "ie" if last.endswith("y") else last
        plural = stem + ("es" if last.endswith("x") else "s")
        text = " ".join([*head, plural if ending == "s" else _ORDINALS.get(last, stem + "th")])
    return f" {text} "


def normalise(text: str) -> str:
    """Normalise a transcript for comparison: lower-case words with single spaces.

    Digits become words ("3+4 is 7" -> "three plus four is seven", "1969" -> "nineteen sixty nine"), contractions are
    written out, some British spellings become American, punctuation goes.
    """
    text = unicodedata.normalize("NFKC", text).lower().replace("’", "'").replace("‘", "'")
    text = re.sub(r"(?<=\d)\s*[-−–]\s*(?=\d)", " minus ", text)
    text = re.sub(r"\$\s?([\d,.]*\d)", r"\1 dollars ", text)
    text = _NUMBER.sub(_number, text)
    for symbol, words in _SYMBOLS.items():
        text = text.replace(symbol, words)
    text = text.replace("won't", "will not").replace("can't", "can not").replace("let's", "let us")
    text = _IS.sub(r"\1 is", text)
    for ending, words in _ENDINGS:
        text = re.sub(rf"{ending}\b", words, text)
    text = unicodedata.normalize("NFD", text.replace("'", ""))
    words = re.sub(r"[^a-z]+", " ", "".join(c for c in text if not unicodedata.combining(c))).split()
    spelled = " ".join(_SPELLINGS.get(word, word) for word in words).split()
    return " ".join(
        word
        for i, word in enumerate(spelled)
        # "one hundred and five" is "one hundred five"
        if not (word == "and" and 0 < i < len(spelled) - 1 and spelled[i - 1] in ("hundred", "thousand", "million")
                and spelled[i + 1] in _NUMBER_WORDS)
    )  # fmt: skip


def word_error_rate(references: Sequence[str], hypotheses: Sequence[str]) -> float:
    """Word errors of the normalised hypotheses divided by the words of the normalised references."""
    import jiwer

    return float(jiwer.wer([normalise(text) for text in references], [normalise(text) for text in hypotheses]))


# The phones of the CMU pronouncing dictionary, as pocketsphinx names them.
PHONES = (
    "AA AE AH AO AW AY B CH D DH EH ER EY F G HH IH IY JH K L M N NG OW OY P R S SH T TH UH UW V W Y Z ZH"
).split()
