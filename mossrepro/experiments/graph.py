"""The graph of stages of one size: data and sound (`stages.py`), and on top of them the language model.

The language model is made in one of two ways, by the form of its answers (`size.lm.form`):

    sentence   Stage 1 -> Stage 2 -> SFT, as the paper does
    word       style (the form is taught in text) -> a mouth by itself -> Stage 1 (what it is to say) -> gated ears, in
               the place of Stage 2
"""

from collections.abc import Callable
from pathlib import Path

from mossrepro.codec.text_to_code import TextToCode
from mossrepro.data.open_questions import open_questions
from mossrepro.experiments.content import content_name
from mossrepro.experiments.drawn import ANSWERED, LONGEST, draw_lines, replies_to
from mossrepro.experiments.packed import or_given
from mossrepro.experiments.stages import VERSIONS, Stages
from mossrepro.lm import checkpoint
from mossrepro.lm.init_from import open_start
from mossrepro.lm.prose import read_prose, write_prose
from mossrepro.utils.devices import best_device

_STARTS = ("--model.init_args.tail=", "--model.init_args.head_from_words=")
_SHAPES = tuple(f"--model.init_args.{name}=" for name in ("mouth", "tail_layers", "split_at", "extra_layers"))


class StageGraph(Stages):
    """All stages of one size."""

    def backbone(self) -> str | Path:
        """The text model that Stage 1 starts from."""
        if self.size.backbone.source != "mini":
            return self.pretrained()
        tokenizer = self.tokenizer()
        return self.fit("backbone", model__tokenizer=tokenizer, data__tokenizer=tokenizer, data__script=self.script())

    def prose(self) -> Path:
        """What the text model replies to open questions in writing: a file with a JSON list [question, reply] a line.

        Before any training, so that this is its own prose; of a control backbone, that of the model it was made from.
        """
        start = self.backbone() if self.size.backbone.source == "mini" else self.pretrained()
        count = self.size.lm.open_questions
        spec = {"model": content_name(start), "questions": count, "version": VERSIONS["prose"]}

        def build(folder: Path) -> None:
            model, tokenizer = open_start(str(start), self.size.codec.codes, self.size.lm.tail_layers, "copy", 0)
            write_prose(model.eval().to(best_device()), tokenizer, open_questions(count), folder / "prose.jsonl")

        return self.cached("style", "prose", spec, build) / "prose.jsonl"

    def style(self) -> Path:
        """The text model that has been taught, in text, to answer in one word."""
        inputs = {"data__script": self.script_for("style"), "data__tokens": self.spoken_codes()}
        inputs |= {"data__tokenizer": self.tokenizer(), "data__prose": self.prose()}
        return self.fit("style", model__init_from=self.backbone(), **inputs)

    def language_model(self, stage: str) -> Path:
        """stage1, stage2 or sft, each from the one before.

        Of the form "word", Stage 1 starts from `mouth` or, where the size has none, from `style`; gated ears take the
        place of Stage 2, and there is no SFT.
        """
        if self.size.lm.form == "word":
            return self._words() if stage == "stage1" else self._ears()
        before = {"stage1": None, "stage2": "stage1", "sft": "stage2"}[stage]
        start = self.language_model(before) if before else self.backbone()
        tokens = self.spoken_codes()
        inputs = {"data__script": self.script_for(stage), "data__tokens": tokens, "data__tokenizer": self.tokenizer()}
        if stage == "stage1" and tokens != "oracle":
            inputs["model__code_phone_probs"] = tokens
        return self.fit(stage, model__init_from=start, **inputs)

    @or_given
    def text_to_code(self) -> Path:
        """The network that draws the codes of a text, trained on the codec's corpus."""
        corpus = self.codec_corpus()
        return self.fit("text_to_code", data__corpus=corpus, data__tokens=self.tokenise(corpus, self.codec()))

    def drawn(self) -> Path:
        """Sentences of users with codes drawn by a network that was trained on the codec's corpus."""
        network = self.text_to_code()
        facts, prose, count = self.spoken_facts(), self.prose(), self.size.lm.drawn_lines
        spec = {"network": content_name(network), "facts": facts, "prose": prose.parent.name, "lines": count}
        asked = [question for question, _ in read_prose(prose)]

        def build(folder: Path) -> None:
            draw_lines(TextToCode.from_pretrained(network), facts, asked, count, folder)

        return self.cached("drawn", "drawn", spec | {"version": VERSIONS["drawn"]}, build)

    def replies(self) -> Path:
        """What the model, taught to answer in one word, writes to those drawn questions that no fact answers.

        To twice as many as the ears take documents, so that none is met often.
        """
        drawn, style, facts = self.drawn(), self.style(), self.spoken_facts()
        most = min(ANSWERED, max(1, 2 * self.size.lm.stage2.steps * self.size.lm.stage2.batch))
        spec = {"drawn": drawn.name, "style": style.name, "most": most, "version": VERSIONS["replies"]}

        def answer(questions: list[str], path: Path, keep: Callable[[str], bool]) -> None:
            model, tokenizer = checkpoint.from_pretrained(style)
            write_prose(model.eval().to(best_device()), tokenizer, questions, path, LONGEST, "", keep)

        build = lambda folder: replies_to(drawn, facts, answer, folder / "replies.jsonl", most)  # noqa: E731
        return self.cached("drawn", "replies", spec, build) / "replies.jsonl"

    def word_reader(self) -> Path:
        """The tokenizer with its recogniser trained on words that the assistant says by themselves, where asked for."""
        if not self.size.lm.word_reader_steps:
            return self.recogniser()
        inputs = {"data__script": self.script(), "data__tokens": self.tokens()}
        if self.size.lm.drawn_lines:
            inputs["data__drawn"] = self.drawn()
        return self.fit("word_reader", model__codec=self.recogniser(), **inputs)

    def inner_ear(self) -> Path:
        """A network that has learnt, from drawn sentences, to name the text model's tokens by their codes."""
        drawn, tokenizer = self.drawn(), self.tokenizer()
        inputs = {"data__drawn": drawn, "data__tokenizer": tokenizer}
        return self.fit("inner_ear", model__drawn=drawn, model__tokenizer=tokenizer, **inputs)

    def has_mouth_stage(self) -> bool:
        """Whether a mouth learns to say words by itself before Stage 1."""
        return self.size.lm.mouth_steps > 0 and "stage1.model.init_args.mouth=0" not in self.changes

    def _stage_changes(self, stage: str) -> list[str]:
        """Also of the mouth's stage those changes of Stage 1 that say how the speech half starts."""
        found = super()._stage_changes(stage)
        if self.size.lm.form != "word" or not self.has_mouth_stage():
            return found
        if stage == "mouth":
            found += [flag for flag in super()._stage_changes("stage1") if flag.startswith((*_STARTS, *_SHAPES))]
        return [flag for flag in found if not flag.startswith(_STARTS)] if stage == "stage1" else found

    def mouth(self) -> Path:
        """`style` with a mouth that has learnt to say words."""
        inputs = self._spoken_words() | ({"model__head_from_words": "false"} if self.spoken_codes() == "oracle" else {})
        return self.fit("mouth", model__init_from=self.style(), **inputs)

    def _spoken_words(self) -> dict[str, str | Path]:
        script = self.script_for("stage1")
        return {"data__script": script, "data__tokens": self.spoken_codes(), "data__tokenizer": self.tokenizer()}

    def _words(self) -> Path:
        tokens, inputs = self.spoken_codes(), self._spoken_words()
        if tokens != "oracle":
            inputs["model__code_phone_probs"] = tokens
        if tokens == "oracle" or self.has_mouth_stage():  # it has no times of words; the head has started from them
            inputs["model__head_from_words"] = "false"
        start = self.mouth() if self.has_mouth_stage() else self.style()
        return self.fit("stage1", "stage1_word", model__init_from=start, **inputs)

    def _ears(self) -> Path:
        tokens = self.spoken_codes()
        inputs = {
            "data__script": self.script_for("stage2"),
            "data__tokens": tokens,
            "data__tokenizer": self.tokenizer(),
        }
        if tokens != "oracle" and self.size.lm.drawn_lines:
            inputs |= {"data__drawn": self.drawn(), "data__replies": self.replies()}
            if self._hears_words():
                inputs["model__inner_ear"] = self.inner_ear()
                if self.size.lm.passes:
                    inputs["model__passes"] = "true"
        elif tokens != "oracle":  # the codec's own corpus: many words in many voices, each a few times only
            corpus = self.codec_corpus()
            inputs |= {"data__recordings": corpus, "data__recordings_tokens": self.tokenise(corpus, self.codec())}
        return self.fit("stage2", "ears", model__init_from=self._words(), data__prose=self.prose(), **inputs)

    def _hears_words(self) -> bool:
        """Whether an inner ear names words before the ears."""
        lm = self.size.lm
        return bool(lm.form == "word" and lm.drawn_lines and lm.inner_ear_steps and self.spoken_codes() != "oracle")

    def extras(self, stage: str) -> list[str]:
        """What an inner ear has named, ears need not learn to write down."""
        return ["--data.init_args.mix.asr=0"] if stage == "stage2" and self._hears_words() else []

    def script_for(self, stage: str) -> Path:
        """The script with the facts that the language model learns about in a stage."""
        return self.script()

    def spoken_codes(self) -> str | Path:
        """The codes that the language model learns from."""
        return self.tokens()

    def parts(self) -> dict[str, str]:
        """Everything an assistant is made of: name -> folder."""
        makers = {"codec": self.codec, "recogniser": self.recogniser, "script": self.script, "tokens": self.tokens}
        makers |= {s: lambda s=s: self.language_model(s) for s in ("stage1", "stage2", "sft")}
        if self.size.lm.form == "word":
            makers |= {"style": self.style, "prose": self.prose}
            makers |= {"mouth": self.mouth} if self.has_mouth_stage() else {}
            makers |= {"word_reader": self.word_reader} if self.size.lm.word_reader_steps else {}
        makers |= {"flow": self.flow, "vocoder": self.vocoder, "backbone": self.backbone}
        return {name: str(make()) for name, make in makers.items()}
