"""The verb `mossrepro bench`."""

import argparse

from mossrepro.bench import codec, decode, train, voice
from mossrepro.utils.errors import ConfigError


def main(args: argparse.Namespace) -> int:
    """Runs one bench; its numbers go into the folder `args.output`. ConfigError for --run of one that takes none."""
    if args.what == "voice":
        voice.bench_voice(args.output, rounds=args.rounds, run=args.run)
        return 0
    if args.run is not None:
        raise ConfigError(f"bench {args.what} measures no run; leave out --run")
    benches = {"codec": codec.bench_codec, "decode": decode.bench_decode, "train": train.bench_train}
    benches[args.what](args.output, rounds=args.rounds)
    return 0
