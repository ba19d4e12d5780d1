"""MOSS-Speech (arXiv 2510.00499), reproduced at a scale that one person can run.

answer = Assistant.from_run("runs/small").answer("question.wav")
"""

import importlib
import os
from typing import Any

__version__ = "0.2.0"

# Nothing is sent anywhere (SECURITY.md). onnxruntime from 1.29 on reports its use as soon as it is imported, and the
# hub's client when it fetches. Processes of ours inherit this; who wants to report sets them otherwise.
for _silence in ("ORT_DISABLE_TELEMETRY", "HF_HUB_DISABLE_TELEMETRY"):
    os.environ.setdefault(_silence, "1")

_HOMES = {
    "Assistant": "mossrepro.pipeline",
    "SpeechCodec": "mossrepro.codec.model",
    "LayerSplitLM": "mossrepro.lm.model",
    "FlowDecoder": "mossrepro.vocoder.flow",
    "Vocoder": "mossrepro.vocoder.generator",
}
__all__ = ["Assistant", "FlowDecoder", "LayerSplitLM", "SpeechCodec", "Vocoder", "__version__"]


def __getattr__(name: str) -> Any:
    """The public classes, imported when first asked for: `mossrepro --help` needs no torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'mossrepro' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
