"""A codec of a few hundred numbers, shared by the tests of the codec."""

from mossrepro.codec import CodecConfig

TINY = CodecConfig(
    codes=16, code_dim=8, width=32, heads=2, feedforward=48, layers=1, slow_layers=1, window=8, slow_window=4,
    reader_width=32, reader_layers=1, reader_kernel=3,
)  # fmt: skip
