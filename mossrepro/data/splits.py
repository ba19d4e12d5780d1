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

    Who is in the corpus stays where he is, and whose clips are divided has them divided. With fewer than three
    speakers there is nobody for a split of his own: all are missing.

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
    # As if all were new, so that a run that was cut short ends as one that was not.
    found = _divide(total) | {speaker: next(iter(splits)) for speaker, splits in homes.items() if len(splits) == 1}
    taken = set(found.values()).union(*homes.values())
    for split in ("test", "valid"):
        new = [speaker for speaker in found if found[speaker] == "train" and speaker not in homes]
        if split not in taken and len(new) > 1:  # who would have been in it was in the corpus before
            found[min(new, key=total.__getitem__)] = split
    return {speaker: split for speaker, split in found.items() if len(homes[speaker]) < 2}


def _divide(seconds: Mapping[str, float]) -> dict[str, str]:
    """Three or more speakers over the splits: "test" and "valid" get 5 % of the sound or less, but a speaker each."""
    order, found = sorted(seconds, key=_mix), {}
    for split, others in (("test", 2), ("valid", 1)):
        room, free = _SHARE * sum(seconds.values()), [speaker for speaker in order if speaker not in found]
        for speaker in free:
            if seconds[speaker] <= room and len(found) + others < len(order):
                found[speaker] = split
                room -= seconds[speaker]
        if split not in found.values():
            found[min(free, key=lambda speaker: seconds[speaker])] = split
    return dict.fromkeys(order, "train") | found


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
