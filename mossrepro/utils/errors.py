"""Errors that a user can correct: one line each, which names what is wrong and what to do.

The command line prints them without a traceback and exits with code 2.
"""


class MossError(Exception):
    """Base of every error that a user can correct."""


class AudioError(MossError):
    """A sound file that cannot be used: missing, empty, silent, not finite, or not audio."""


class AssetError(MossError):
    """An embedded asset (weights, voices, tables) that is missing or has the wrong hash."""


class ConfigError(MossError):
    """A setting that contradicts another one or the model."""


class CheckpointError(MossError):
    """Weights on disk that do not fit the model they are loaded into."""


class DataError(MossError):
    """A corpus, manifest or token store that cannot be read."""


class Interrupted(MossError):
    """A fit that was asked to stop and saved its state first; the same command continues it."""
