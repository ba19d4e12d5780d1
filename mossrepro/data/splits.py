"""Which clips of a user's corpus are for training, validation and test."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace

from mossrepro.data.corpus import SPLITS, Clip, CorpusWriter

_SHARE = 0.05  # of the sound, for "valid" and for "test" each


def speaker_splits(clips: Iterable[Clip], seconds: Mapping[str, float]) -> dict[str, str]:
    """Speaker -> split, so that nobody is heard in two of them; speakers that are missing have their clips divided.

    "test" and "valid" get 5 % of the sound or a little less, but a speaker each. Who is in the corpus stays where he
    is; whose clips were divided before stays divided. Fewer than three speakers cannot be told apart: nobody is in it.

    Args:
        clips: what is in the corpus.
        seconds: speaker -> sound that may be added.
    """
    homes: dict[str, set[str]] = defaultdict(set)
    there: Counter[str] = Counter()
    for clip in clips:
        homes[clip.speaker].add(clip.split)
        there[clip.speaker] += clip.seconds
    total = {**there, **seconds}
    if len(total) < len(SPLITS):
        return {}
    found = {speaker: next(iter(splits)) for speaker, splits in homes.items() if len(splits) == 1}
    free = sorted((speaker for speaker in total if speaker not in homes), key=_mix)
    have: Counter[str] = Counter()  # seconds of each split
    for clip in clips:
        have[clip.split] += 0 if clip.speaker in found else clip.seconds
    for speaker, split in found.items():
        have[split] += total[speaker]
    for split in ("test", "valid"):
        for speaker in free:
            if have[split] + total[speaker] <= _SHARE * sum(total.values()):
                found[speaker] = split
                have[split] += total[speaker]
        free = [speaker for speaker in free if speaker not in found]
        if not have[split] and len(free) > 1:
            found[min(free, key=lambda speaker: (total[speaker], _mix(speaker)))] = split
            free = [speaker for speaker in free if speaker not in found]
    return found | dict.fromkeys(free, "train")


def content_split(sound: str) -> str:
    """The split of a clip by the hash of its sound, 16 hex digits: 1 in 20 for "test", 1 in 20 for "valid"."""
    return {0: "test", 1: "valid"}.get(int(sound, 16) % 20, "train")


def fill_empty_splits(writer: CorpusWriter) -> None:
    """Give every split a clip, if there are three: chance leaves some without in a small corpus."""
    for split in SPLITS:
        counts = Counter(clip.split for clip in writer.clips.values())
        giver, most = counts.most_common(1)[0] if counts else ("", 0)
        if not counts[split] and most > 1:
            clip = min((clip for clip in writer.clips.values() if clip.split == giver), key=lambda clip: _mix(clip.id))
            writer.update(replace(clip, split=split))


def _mix(name: str) -> str:
    """Names in an order that has nothing to do with them."""
    return hashlib.sha256(name.encode()).hexdigest()
