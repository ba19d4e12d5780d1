"""The verb `mossrepro bench`."""

import argparse

from mossrepro.bench import codec, decode, train


def main(args: argparse.Namespace) -> int:
    """Runs one bench; its numbers go into the folder `args.output`."""
    benches = {"codec": codec.bench_codec, "decode": decode.bench_decode, "train": train.bench_train}
    benches[args.what](args.output, rounds=args.rounds)
    return 0
