"""The command line: one command, a few verbs. Nothing heavy is imported before the verb is known."""

import argparse
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path

import mossrepro
from mossrepro.utils.errors import Interrupted, MossError, fault, missing_package, system_refusal, visible
from mossrepro.utils.signals import interruptible
from mossrepro.utils.threads import thread_count

FIT_VERBS = ("fit", "validate", "test", "predict")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command line and returns its exit code.

    0 done, 1 a claim failed, 2 bad input, 70 a fault of ours (the EX_SOFTWARE of sysexits.h), 130 interrupted.
    Interrupted is the same by Ctrl-C and by SIGTERM, in a fit and in any other verb.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        with interruptible():
            return _run(argv)
    except MossError as error:
        return _end(130 if isinstance(error, Interrupted) else 2, str(error))
    except KeyboardInterrupt:
        return _end(130, "interrupted")
    except BrokenPipeError:  # the process that reads our output has ended (`mossrepro report | head`)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        line = missing_package(error) if isinstance(error, ModuleNotFoundError) else ""
        line = line or (system_refusal(error) if isinstance(error, OSError) else "")
        if os.environ.get("MOSSREPRO_DEBUG"):
            traceback.print_exc()
        return _end(2 if line else 70, line or fault(error))


def _run(argv: list[str]) -> int:
    os.environ.setdefault("OMP_NUM_THREADS", str(thread_count()))
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if argv and argv[0] in FIT_VERBS:
        return _fit(argv)
    args = build_parser().parse_args(argv)
    return args.run_verb(args) or 0


def _end(code: int, line: str) -> int:
    """Say why a command ends, in one line, and give its exit code."""
    print(f"mossrepro: {visible(line)}", file=sys.stderr)
    return code


def build_parser() -> argparse.ArgumentParser:
    """All verbs with their help; the four Lightning verbs are listed here and parsed by LightningCLI."""
    parser = argparse.ArgumentParser(
        prog="mossrepro", description="Train, measure and talk to a small true speech-to-speech model."
    )
    parser.add_argument("--version", action="version", version=f"mossrepro {mossrepro.__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for name, text in zip(FIT_VERBS, ("train one stage", "run its validation", "run its test", "run it"), strict=True):
        verbs.add_parser(name, help=f"{text}: -c configs/STAGE.yaml -c configs/size/SIZE.yaml", add_help=False)
    _add_data(verbs)
    _add_eval(verbs)
    _add_talk(verbs)
    _add_reproduce(verbs)
    _add_ablate(verbs)
    _add_adapt(verbs)
    _add_bench(verbs)
    _add_plan(verbs)
    _add_report(verbs)
    _add_run(verbs)
    _add_convert(verbs)
    return parser


def _lazy(module: str, function: str = "main") -> Callable[[argparse.Namespace], int]:
    """A verb: a function of `mossrepro.MODULE`, which is imported only when the verb is called."""
    return lambda args: getattr(import_module(f"mossrepro.{module}"), function)(args)


def _run_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--size", default="small", metavar="NAME", help="a file of configs/size by its name, or a path (default: small)"
    )
    parser.add_argument("--name", help="folder under runs/ (default: the size, with changes also a hash of them)")
    text = "change any setting: size.lm.words.steps=200, or that of a stage: stage1.data.init_args.batch=4"
    parser.add_argument("--set", action="append", metavar="KEY=VALUE", help=text)
    text = "another text model: a Llama or Qwen3 as the hub has it"
    parser.add_argument("--backbone", type=Path, metavar="FOLDER", help=text)


def _device_option(parser: argparse.ArgumentParser) -> None:
    text = "for answering and measuring: auto (a GPU where there is one), cpu, cuda, cuda:1 or mps (default: auto)"
    parser.add_argument("--device", default="auto", help=text)


def _add_data(verbs: argparse._SubParsersAction) -> None:
    parser = verbs.add_parser("data", help="make the training data, or add your own")
    kinds = parser.add_subparsers(dest="what", metavar="WHAT", required=True)
    make = kinds.add_parser("make", help="synthesise the corpora of a size")
    _run_options(make)
    make.set_defaults(run_verb=_data_make)
    add = kinds.add_parser("add", help="turn a folder of recordings with transcripts into a corpus")
    add.add_argument(
        "folder", type=Path, help="LibriSpeech, LJSpeech, transcripts.tsv or .csv, or NAME.wav beside NAME.txt"
    )
    add.add_argument("-o", "--output", type=Path, required=True, help="folder of the new corpus")
    text = "let Whisper write the transcripts that are missing, and leave out recordings of which it is unsure"
    add.add_argument("--transcribe", action="store_true", help=text)
    text = "also take what lies outside the folder, by a link or by its path in a table"
    add.add_argument("--outside", action="store_true", help=text)
    add.set_defaults(run_verb=_data_add)
    human = kinds.add_parser("human", help="fetch a small corpus of recorded human speech (Debian package)")
    human.add_argument("-o", "--output", type=Path, required=True, help="folder of the new corpus")
    human.set_defaults(run_verb=_data_human)


def _add_eval(verbs: argparse._SubParsersAction) -> None:
    parser = verbs.add_parser("eval", help="measure a run again, or its codec beside baselines, and record the facts")
    kinds = parser.add_subparsers(dest="what", metavar="WHAT", required=True)
    baselines = kinds.add_parser("codec", help="train the baselines of the speech tokenizer and compare")
    baselines.add_argument("--encodec", type=Path, metavar="FILE", help="EnCodec's 24 kHz weights, to be compared with")
    text = "also ours with finite scalar quantisation, and with distillation from Whisper's features"
    baselines.add_argument("--ablations", action="store_true", help=text)
    text = "measure only our codec, without training the baselines"
    baselines.add_argument("--alone", action="store_true", help=text)
    baselines.set_defaults(run_verb=_codec_baselines)
    voice = kinds.add_parser(
        "vocoder", help="measure a finished run's voice: where quality is lost, what speaking costs"
    )
    text = "also this vocoder, under that name (repeatable): the folder of a finished fit of it"
    voice.add_argument("--vocoder", action="append", metavar="NAME=FOLDER", help=text)
    voice.set_defaults(run_verb=_voice)
    measures = {"lm": "the four pairings", "text": "what every stage leaves of the text model"}
    measures |= {"words": "what judges make of single words", "mouth": "what is said right after Stage 1"}
    measures |= {"open": "questions of no table, heard", "all": "everything"}
    for name, text in measures.items():
        part = kinds.add_parser(name, help=f"measure a finished run again: {text}")
        part.set_defaults(run_verb=_eval)
    for part in kinds.choices.values():
        _run_options(part)
        _device_option(part)


def _add_talk(verbs: argparse._SubParsersAction) -> None:
    parser = verbs.add_parser("talk", help="ask by voice, get the answer by voice")
    parser.add_argument("question", type=Path, nargs="?", help="a recording (wav, flac, ogg, mp3, ...)")
    parser.add_argument("--say", metavar="TEXT", help="speak TEXT in a user voice instead of reading a recording")
    parser.add_argument("--voice", help="the user voice for --say")
    text = "default: answer.wav; with --stream also -, for 16-bit mono PCM at 24 kHz on the standard output"
    parser.add_argument("-o", "--output", type=Path, default=Path("answer.wav"), help=text)
    text = "speak while the answer is still being made, in chunks, and tell when the first sound was there"
    parser.add_argument("--stream", action="store_true", help=text)
    parser.add_argument("--text", action="store_true", help="answer in text instead of speech")
    text = "of the answer: one word, or a sentence (default: what the run was trained for)"
    parser.add_argument("--form", choices=("word", "sentence"), default="", help=text)
    parser.add_argument("--run", type=Path, help="folder of the run (default: the newest finished one in runs/)")
    text = "answer in the voice of this recording (2 to 60 s), if the flow decoder was trained for that; "
    text += "your own voice only, or that of someone who has agreed to it"
    parser.add_argument("--voice-prompt", type=Path, metavar="FILE", help=text)
    for name, what in (("flow", "flow decoder"), ("vocoder", "vocoder")):
        parser.add_argument(f"--{name}", type=Path, metavar="FOLDER", help=f"another {what}: the --output of a fit")
    _device_option(parser)
    parser.set_defaults(run_verb=_talk)


def _percent(text: str) -> int:
    """1 to 100."""
    if not text.isdecimal() or not 1 <= int(text) <= 100:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 to 100")
    return int(text)


def _add_reproduce(verbs: argparse._SubParsersAction) -> None:
    parser = verbs.add_parser("reproduce", help="train every part, evaluate, report")
    _run_options(parser)
    text = "also train and ask the control backbones, with PERCENT of the run's steps (default: the size's share)"
    parser.add_argument("--controls", type=_percent, nargs="?", const=0, metavar="PERCENT", help=text)
    text = "also train and ask this control, not the others: counterfactual, edit_permuted, ... (repeatable)"
    parser.add_argument("--control", action="append", default=[], metavar="NAME", help=text)
    parser.set_defaults(run_verb=_reproduce)


def _add_ablate(verbs: argparse._SubParsersAction) -> None:
    parser = verbs.add_parser("ablate", help="train variants of the language model beside the recipe and ask them")
    parser.add_argument("variant", nargs="*", help="names in configs/experiment (default: all), or length_20, facts_25")
    _run_options(parser)
    parser.set_defaults(run_verb=_ablate)


def _add_adapt(verbs: argparse._SubParsersAction) -> None:
    parser = verbs.add_parser("adapt", help="adapt a size's tokenizer to recordings of one's own")
    parser.add_argument("corpus", type=Path, help="corpus of the recordings, from `mossrepro data add`")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the tokenizer and the new run")
    text = "adapt the encoder too: hears more, but codes of other voices change"
    parser.add_argument("--codec", action="store_true", help=text)
    _run_options(parser)
    _device_option(parser)
    parser.set_defaults(run_verb=_adapt)


def _add_plan(verbs: argparse._SubParsersAction) -> None:
    parser = verbs.add_parser("plan", help="parameters, memory and days of an LM stage, before it is trained")
    parser.add_argument("-c", "--config", type=Path, action="append", required=True, metavar="FILE", help="as of fit")
    parser.add_argument("--devices", type=int, default=1, help="default: 1")
    parser.add_argument("--tensor", type=int, default=1, help="devices across which a layer is cut (default: 1)")
    parser.add_argument("--hours", type=float, default=1000.0, help="hours of speech to be counted (default: 1000)")
    text = "TFLOP/s that a device sustains (default: 0.2, two CPU cores)"
    parser.add_argument("--tflops", type=float, default=0.2, help=text)
    parser.set_defaults(run_verb=_plan)


def _add_bench(verbs: argparse._SubParsersAction) -> None:
    parser = verbs.add_parser("bench", help="measure speed beside what one would use instead")
    parser.add_argument("what", choices=("codec", "decode", "train", "voice"))
    parser.add_argument("--rounds", type=int, default=7, help="times that each runs, turn by turn (default: 7)")
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/bench"), help="default: runs/bench")
    text = "voice: folder of the run whose voice is measured (default: size small with random weights)"
    parser.add_argument("--run", type=Path, help=text)
    parser.set_defaults(run_verb=_bench)


def _add_convert(verbs: argparse._SubParsersAction) -> None:
    parser = verbs.add_parser("import", help="take over the released checkpoint or tokenizer, or split a text LLM")
    parser.add_argument("folder", type=Path, help="as the Hugging Face hub has it: config.json, safetensors, tokenizer")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the imported model")
    parser.add_argument("--codes", type=int, default=16_384, help="a text LLM's new codebook (default: 16384)")
    parser.add_argument("--tail-layers", type=int, default=4, help="depth of a text LLM's split (default: 4)")
    parser.add_argument("--seed", type=int, default=0, help="of a text LLM's new speech embedding and head")
    parser.set_defaults(run_verb=_import)
    parser = verbs.add_parser("export", help="write a finished stage or a plain codec in the released layout")
    parser.add_argument("folder", type=Path, help="folder of a finished stage or codec")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the exported model")
    parser.add_argument("--shard", default="5GB", help="size of a file of weights, at most (default: 5GB)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="default: float32")
    parser.set_defaults(run_verb=_export)


def _add_report(verbs: argparse._SubParsersAction) -> None:
    parser = verbs.add_parser("report", help="render the facts of a run: table, report.html, Markdown")
    _run_options(parser)
    parser.add_argument("--run", type=Path, help="folder of the run (default: runs/NAME)")
    parser.add_argument("--claims", type=Path, help="default: configs/claims.yaml")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="also write the table as Markdown")
    parser.set_defaults(run_verb=_report)


def _add_run(verbs: argparse._SubParsersAction) -> None:
    parser = verbs.add_parser("run", help="put a finished run into one folder that can be moved, shared and talked to")
    kinds = parser.add_subparsers(dest="what", metavar="WHAT", required=True)
    pack = kinds.add_parser("pack", help="copy what answering takes, numbers, sounds, checksums and provenance")
    pack.add_argument("folder", type=Path, help="the run, as runs/small")
    pack.add_argument("-o", "--output", type=Path, required=True, help="the new folder, as small.moss")
    kinds.add_parser("check", help="compare with the checksums").add_argument("folder", type=Path, help="a packed run")
    parser.set_defaults(run_verb=_packed)
    teach = kinds.add_parser("teach", help="tokenizer and voice of a run, or what is said in it, in few bits: packs/")
    teach.add_argument("folder", type=Path, nargs="?", help="the run, as runs/small")
    teach.add_argument("-o", "--output", type=Path, required=True, help="the new folder, as packs/teach")
    for part in ("codec", "flow", "vocoder", "script", "tokens", "text-to-code", "sft"):
        teach.add_argument(f"--{part}", type=Path, metavar="FOLDER", help="a part; of a voice's default: the run's")
    teach.add_argument("--clips", type=Path, metavar="CORPUS", help="measure what is lost on its test clips")
    teach.add_argument("--beside", default="", metavar="NAME", help="a pack whose tokenizer and voice an --sft needs")
    teach.add_argument("--data", default="", metavar="TEXT", help="what they were trained on, for the card")
    teach.set_defaults(run_verb=_teach)


def _fit(argv: list[str]) -> int:
    import torch

    from mossrepro.training import lightning_cli

    torch.set_num_threads(thread_count())
    lightning_cli.main(argv)
    return 0


def _data_add(args: argparse.Namespace) -> int:
    from mossrepro.data.ingest import add_folder

    add_folder(args.folder, args.output, args.transcribe, args.outside)
    return 0


def _data_human(args: argparse.Namespace) -> int:
    from mossrepro.data.human import make_corpus

    make_corpus(args.output)
    return 0


def _bench(args: argparse.Namespace) -> int:
    import torch

    from mossrepro.bench import main as bench

    torch.set_num_threads(thread_count())
    return bench.main(args)


def _talk(args: argparse.Namespace) -> int:
    from mossrepro import pipeline

    if (args.question is None) == (args.say is None):
        raise MossError("talk needs either a recording or --say TEXT")
    if args.stream and args.text:
        raise MossError("--stream: an answer in --text has no sound; leave one of them out")
    if args.voice_prompt and args.text:
        raise MossError("--voice-prompt: an answer in --text has no voice; leave one of them out")
    if str(args.output) == "-" and not args.stream:
        raise MossError("-o - sends the sound as it is made; give --stream too")
    return pipeline.talk(args)


_reproduce = _lazy("experiments.reproduce")
_data_make = _lazy("experiments.reproduce", "make_data")
_eval = _lazy("experiments.reproduce", "evaluate")
_voice = _lazy("experiments.voice")
_codec_baselines = _lazy("experiments.codec_baselines")
_ablate = _lazy("experiments.ablate")
_adapt = _lazy("experiments.adapt")
_plan = _lazy("lm.plan")
_import = _lazy("convert", "bring_in")
_export = _lazy("convert", "take_out")
_report = _lazy("report.verb")
_packed = _lazy("experiments.pack")
_teach = _lazy("experiments.teaching_pack")
