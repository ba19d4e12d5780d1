"""No tensor of a computation is made on the CPU by oversight: factories say on which device."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "mossrepro"
FACTORIES = {
    "arange", "as_tensor", "bartlett_window", "blackman_window", "empty", "eye", "from_numpy", "full",
    "hamming_window", "hann_window", "kaiser_window", "linspace", "logspace", "normal", "ones", "rand", "randint",
    "randn", "randperm", "tensor", "tril_indices", "triu_indices", "zeros",
}  # fmt: skip
# Files that compute and define no nn.Module: a call of theirs has its input's device.
MATHS = ("utils/audio.py", "utils/spectral.py", "vocoder/pitch.py", "vocoder/losses.py", "lm/losses.py",
         "lm/decode.py", "lm/init.py", "speech/mos.py", "vocoder/speech_decoder.py", "vocoder/session.py",
         "pipeline.py", "evaluation/text_retention.py", "evaluation/tokenizers.py", "evaluation/codec.py")  # fmt: skip
ALLOWED = {  # file: {function: why it may make tensors on the CPU}
    "codec/encoder.py": {"sinusoids": "a buffer's values, made by the constructor",
                         "_first_average": "initial values, made by the constructor"},
    "codec/model.py": {"EncoderSession.push": "samples come from NumPy; they are checked before they are sent",
                       "SpeechCodec.codes_of": "`encode` sends it"},
    "codec/tokenise.py": {"_Waves.__getitem__": "a batch of a loader; Lightning sends it"},
    "evaluation/codec.py": {"stoi_scores": "a measure of NumPy arrays, computed on the CPU",
                            "prosody_left": "`SpeechCodec.frames` sends it"},
    "evaluation/tokenizers.py": {"encodec": "sent one by one",
                                 "acoustic": "`AcousticCodec.decode` sends it",
                                 "acoustic_encoder": "`AcousticCodec.encode` sends it"},
    "lm/decode.py": {"DecodingState.step": "`generate` sends it", "pad_left": "`generate` sends it"},
    "lm/inner_ear_task.py": {"pronounced": "a buffer's values, made by the constructor"},
    "speech/speaker.py": {"SpeakerEncoder.embed": "samples of NumPy; their level is measured, then they are sent"},
    "speech/whisper.py": {"_float": "weights as the file has them",
                          "WhisperJudge._batch": "waves come from NumPy, and are sent as one tensor"},
    "utils/packed_linear.py": {"_can_pack": "it asks what the CPU can do"},
    "vocoder/flow.py": {"fixed_noise": "numbers of NumPy, the same on every machine; `forward` sends them"},
    "vocoder/generator.py": {"fixed_noise": "numbers of NumPy, the same on every machine; `forward` sends them"},
    "vocoder/session.py": {"as_codes": "codes of Python; they are checked before they are sent",
                           "DecoderSession.close": "no codes, as from Python"},
    "vocoder/task.py": {"FlowTask._losses": "the steps of the times that are drawn with the CPU's generator"},
}  # fmt: skip


def classes(tree: ast.AST) -> list[ast.ClassDef]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]


def networks() -> list[str]:
    """Files with a class that descends from nn.Module (a LightningModule is one)."""
    trees = {str(path.relative_to(PACKAGE)): ast.parse(path.read_text()) for path in sorted(PACKAGE.rglob("*.py"))}
    known, before = {"Module", "LightningModule"}, 0
    while len(known) > before:
        before = len(known)
        for tree in trees.values():
            for one in classes(tree):
                bases = [ast.unparse(base) for base in one.bases]
                if any(base.split(".")[-1] in known or base.startswith(("nn.", "torch.nn.")) for base in bases):
                    known.add(one.name)
    return [name for name, tree in trees.items() if known & {one.name for one in classes(tree)}]


FILES = sorted({*networks(), *MATHS})


def functions(tree: ast.AST, prefix: str = ""):
    """(qualified name, node) of every function; those inside a function belong to it."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ClassDef):
            yield from functions(node, f"{prefix}{node.name}.")
        elif isinstance(node, ast.FunctionDef):
            yield prefix + node.name, node


def is_sent(call: ast.Call, parents: dict[ast.AST, ast.AST]) -> bool:
    """Whether what the factory makes goes to a device in the same expression: `....to(...)` or `send(...)`."""
    node = call
    while isinstance(above := parents.get(node), ast.expr | ast.Starred | ast.keyword):
        if isinstance(above, ast.Call):
            name = above.func.attr if isinstance(above.func, ast.Attribute) else getattr(above.func, "id", "")
            if name in ("send", "to") and (above.func is node or node in above.args):
                return True
        node = above
    return False


def homeless(source: str) -> dict[str, list[str]]:
    """Function -> its factories that say no device and are not sent to one. Constructors do not count."""
    found = {}
    for name, function in functions(ast.parse(source)):
        if name.endswith("__init__"):
            continue
        parents = {child: node for node in ast.walk(function) for child in ast.iter_child_nodes(node)}
        for call in ast.walk(function):
            if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute):
                continue
            made = ast.unparse(call.func.value) == "torch" and call.func.attr in FACTORIES
            said = {keyword.arg for keyword in call.keywords} & {"device", "generator"}
            if made and not said and not is_sent(call, parents):
                found.setdefault(name, []).append(f"line {call.lineno}: {ast.unparse(call)}")
    return found


@pytest.mark.parametrize("name", FILES)
def test_factories_say_where(name):
    found, allowed = homeless((PACKAGE / name).read_text()), ALLOWED.get(name, {})
    wrong = {function: calls for function, calls in found.items() if function not in allowed}
    assert not wrong, f"{name}: give device=..., or send it, or say in ALLOWED why not: {wrong}"


def test_nobody_is_excused_without_need():
    for name, reasons in ALLOWED.items():
        assert set(reasons) <= set(homeless((PACKAGE / name).read_text())), name


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("torch.zeros(3)", True),
        ("torch.zeros(3, device=x.device)", False),
        ("torch.from_numpy(a)[None].to(x)", False),
        ("send(torch.arange(3) / 2, x.device)", False),
        ("x + torch.eye(3)", True),
        ("torch.rand(3, generator=g)", False),
        ("torch.zeros_like(x)", False),
        ("x.to(torch.zeros(3).dtype)", False),
    ],
)
def test_the_rule_itself(line, wrong):
    assert bool(homeless(f"class A:\n    def forward(self, x):\n        return {line}\n")) == wrong
    assert not homeless(f"class A:\n    def __init__(self, x):\n        self.x = {line}\n")


def test_networks_are_found():
    assert {"lm/model.py", "lm/lora.py", "utils/layers.py", "codec/task.py", "lm/mini.py", "vocoder/flow.py"} <= set(
        FILES
    )


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_what_mps_lacks_is_computed_where_it_is_there(path):
    """Tensors become float64, and CTC is computed, only after `devices.capable`."""
    tree = ast.parse(path.read_text())
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        text = ast.unparse(call)
        if isinstance(call.func, ast.Attribute) and call.func.attr == "double" or text.startswith("F.ctc_loss("):
            assert "capable(" in text, f"line {call.lineno}"
        assert "torch.float64" not in text or "device='cpu'" in text, f"line {call.lineno}"
