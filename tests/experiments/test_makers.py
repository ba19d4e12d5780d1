"""Nothing in the cache is taken for what today's code would make: a maker's code and its version go together.

makers.json holds, for every maker, its version and a fingerprint of its code (comments and docstrings stripped). When
code changes, say which it is:

    python tests/experiments/test_makers.py same-result MAKER ...   the result is bit-identical (you have compared it)
    python tests/experiments/test_makers.py new-version MAKER ...   it is not, and VERSIONS has been raised
"""

import ast
import hashlib
import json
import sys
from pathlib import Path

import pytest

from mossrepro.experiments.stages import VERSIONS

PACKAGE = Path(__file__).parents[2] / "mossrepro"
RECORD = Path(__file__).with_name("makers.json")
LAYERS, FEATURES = ["utils/layers.py", "utils/random.py"], ["utils/audio.py"]
CODEC = ["codec/model.py", "codec/encoder.py", "codec/quantiser.py", "codec/finite_scalar.py", *FEATURES]
LM = [
    "lm/config.py",
    "lm/model.py",
    "lm/mouth.py",
    "lm/grid.py",
    "lm/documents.py",
    "lm/twins.py",
    "lm/word_states.py",
    "lm/validation.py",
    "lm/data.py",
    "lm/task.py",
    "lm/losses.py",
    "lm/init.py",
    "lm/init_from.py",
    *LAYERS,
]
SOUND = [
    "vocoder/task.py",
    "vocoder/data.py",
    "vocoder/clips.py",
    "vocoder/streaming.py",
    "vocoder/sampling.py",
    *LAYERS,
    *FEATURES,
]
DRAWN = ("sentences", "script", "facts", "families", "fact_tables", "practice_tables")
MAKERS = {
    "known": [
        *("lm/decode.py", "lm/grid.py", "experiments/knowledge.py"),
        *("data/facts.py", "data/families.py", "data/fact_tables.py"),
    ],
    "tokenizer": ["lm/tokenizer.py"],
    "tokens": [*CODEC, "data/token_store.py"],
    "codec": [*CODEC, "codec/task.py", "codec/data.py", "data/degrade.py"],
    "acoustic": ["codec/acoustic.py", "codec/acoustic_task.py", "codec/data.py"],
    "recogniser": ["codec/recogniser.py", "codec/recogniser_task.py", "codec/recogniser_data.py"],
    "adapt": ["codec/recogniser.py", "codec/recogniser_task.py", "codec/recogniser_data.py"],
    "adapt_codec": [*CODEC, *(f"codec/{name}.py" for name in ("adapt_task", "adapt_data", "data", "recogniser"))],
    "backbone": [*LM, "lm/mini.py"],
    "counterfactual": [*LM, "lm/mini.py"],
    **dict.fromkeys(("style", "stage1", "sft", "edit"), [*LM, "lm/lora.py", "lm/ears.py"]),
    "stage2": [*LM, *(f"lm/{name}.py" for name in ("lora", "ears", "inner_ear"))],
    "mouth": [*LM, "lm/mouth_task.py"],
    "word_reader": [
        *(f"codec/{name}.py" for name in ("recogniser", "recogniser_task", "recogniser_data", "lines_data")),
        *("data/facts.py", "data/script.py", "speech/normalise.py", "speech/sphinx.py"),
    ],
    "text_to_code": [f"codec/{name}.py" for name in ("text_to_code", "text_to_code_task", "text_to_code_data")],
    "inner_ear": [
        *("utils/layers.py", "training/muon.py", "speech/sphinx.py"),
        *(f"lm/{name}.py" for name in ("inner_ear", "inner_ear_task", "inner_ear_data")),
    ],
    "drawn": [
        "codec/text_to_code.py",
        *(f"data/{name}.py" for name in DRAWN),
        "experiments/drawn.py",
        "speech/sphinx.py",
    ],
    "replies": ["experiments/drawn.py", "lm/prose.py", "lm/decode.py", "lm/grid.py"],
    "prose": ["lm/prose.py", "lm/decode.py", "lm/grid.py", "data/open_questions.py"],
    "flow": [*SOUND, "vocoder/flow.py", "vocoder/flow_layers.py"],
    "vocoder": [*SOUND, "vocoder/generator.py", "vocoder/losses.py", "utils/spectral.py"],
    "adversarial": [*SOUND, "vocoder/generator.py", "vocoder/adversarial.py", "vocoder/adversarial_task.py"],
    "evaluation": [
        *(f"evaluation/{name}.py" for name in ("measure", "spoken_qa", "text_retention", "artifacts")),
        *("evaluation/one_word.py", "evaluation/open_answers.py"),
        *(f"speech/{name}.py" for name in ("normalise", "whisper", "mos", "voices", "sphinx")),
        *("codec/lexicon.py", "training/metrics.py", "data/facts.py", "lm/decode.py"),
    ],
}


def code(path: Path) -> str:
    """A module without comments, docstrings and imports."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            kept = [n for n in body if not isinstance(n, ast.Import | ast.ImportFrom)]
            node.body = [n for n in kept if not (isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant))]
    return ast.dump(tree)


def fingerprint(maker: str) -> str:
    return hashlib.sha256("".join(code(PACKAGE / name) for name in MAKERS[maker]).encode()).hexdigest()[:16]


@pytest.mark.parametrize("maker", MAKERS)
def test_code_and_version_go_together(maker):
    said = json.loads(RECORD.read_text())[maker]
    assert said["version"] == VERSIONS[maker], f"python {__file__} new-version {maker}"
    assert said["code"] == fingerprint(maker), (
        f"{', '.join(MAKERS[maker])} changed. Is what {maker!r} makes the same? Then run "
        f"python {__file__} same-result {maker}. "
        f"If not, raise VERSIONS[{maker!r}] and run it with new-version"
    )


def test_every_maker_has_its_version():
    assert set(VERSIONS) == set(MAKERS)


def test_comments_do_not_count(tmp_path):
    (tmp_path / "a.py").write_text('"""One."""\nimport os\nx = 1  # one\n')
    (tmp_path / "b.py").write_text('"""Two."""\nx = 1\n')
    (tmp_path / "c.py").write_text("x = 2\n")
    one, two, three = (code(tmp_path / f"{name}.py") for name in "abc")
    assert one == two != three


if __name__ == "__main__":
    word, *makers = sys.argv[1:] or [""]
    if word not in ("same-result", "new-version") or not MAKERS.keys() >= set(makers):
        sys.exit(__doc__)
    record = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    for maker in makers or MAKERS:
        before = record.get(maker, {}).get("version")
        if word == "same-result" and before not in (None, VERSIONS[maker]):
            sys.exit(f"{maker}: its version was raised from {before} to {VERSIONS[maker]}; say new-version")
        if word == "new-version" and before == VERSIONS[maker]:
            sys.exit(f"{maker}: VERSIONS[{maker!r}] is still {before}; raise it")
        record[maker] = {"version": VERSIONS[maker], "code": fingerprint(maker)}
    RECORD.write_text(json.dumps(dict(sorted(record.items())), indent=1) + "\n")
