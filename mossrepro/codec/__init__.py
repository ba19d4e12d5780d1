"""The speech tokenizer: causal, one code every 80 ms, trained by speech recognition alone."""

from mossrepro.codec.model import SAMPLES_PER_CODE, CodecConfig, SpeechCodec

__all__ = ["SAMPLES_PER_CODE", "CodecConfig", "SpeechCodec"]
