"""The report as one self-contained HTML page: no script, no network, pictures and sound inside."""

import base64
from html import escape
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from mossrepro.report.claims import FAILED, MARK, MISSING, PASSED
from mossrepro.report.figures import (
    ANSWERED,
    BLUE,
    GREEN,
    GRID,
    INK,
    LOSSES,
    MUTED,
    PAIRED,
    RATES,
    RED,
    _panel,
    _png,
    _spectrogram,
    growth,
    label,
    pairings,
)
from mossrepro.report.run_data import Row, Run, environment
from mossrepro.report.tables import FAMILY_COLUMNS, FAMILY_NOTE, OPEN_COLUMNS, family_rows, measured, number, open_rows
from mossrepro.utils.audio import SAMPLE_RATE
from mossrepro.utils.errors import visible
from mossrepro.utils.sound_file import read_mono

matplotlib.use("Agg", force=False)

PLAYERS, SPECTROGRAMS = 24, 3  # question-answer pairs with players, and of these with spectrograms
PANELS, DRAWN = 60, 30.0  # curves that are drawn, and seconds of a spectrogram, at most

NOTE = (
    "<p class=small>In brackets the 95 % interval, Wilson's where the number is a share of n answers. The paper's "
    "column is the nearest thing it measured, with 8 B parameters and on other questions.</p>"
)
STYLE = """
:root{color-scheme:light}*{box-sizing:border-box}
body{margin:0;background:#f6f7f9;color:#1c2430;font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:1120px;margin:0 auto;padding:28px 20px 60px}
h1{font-size:26px;margin:0 0 2px}h2{font-size:18px;margin:34px 0 10px}
.sub{color:#667085;margin:0 0 16px}.chips{display:flex;flex-wrap:wrap;gap:8px}
.chip{background:#fff;border:1px solid #e4e7ec;border-radius:999px;padding:2px 12px;font-size:13px;color:#475467}
.verdict{font-weight:600;border-radius:10px;padding:10px 16px;margin:18px 0 0}
.good{background:#e7f5ec;color:#157f3c}.bad{background:#fdecec;color:#c22f2f}.none{background:#f0f1f3;color:#667085}
.card{background:#fff;border:1px solid #e4e7ec;border-radius:12px;padding:6px 16px;overflow-x:auto}
table{border-collapse:collapse;width:100%}th{font-size:12px;font-weight:600;color:#667085;text-align:left}
th,td{padding:8px 10px 8px 0;border-bottom:1px solid #eef0f3;vertical-align:middle}tr:last-child td{border-bottom:0}
td.r,th.r{text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums}td.b{font-weight:600}
.pill{display:inline-block;min-width:66px;text-align:center;white-space:nowrap;border-radius:6px;font-size:12px;
font-weight:600;padding:2px 8px}
.small{font-size:13px;color:#667085}.bar{height:8px;border-radius:4px;background:#2563c9;min-width:2px}
.bar.cached{background:#b9c6dd}
.talks{display:grid;grid-template-columns:repeat(auto-fill,minmax(330px,1fr));gap:14px}
.talk{background:#fff;border:1px solid #e4e7ec;border-radius:12px;padding:12px 16px}
.talk p{margin:8px 0 4px}.talk audio{width:100%;height:34px}.who{font-size:12px;font-weight:600;color:#667085}
.set{float:right}img{max-width:100%;display:block;margin:6px auto}
"""


def _shown(text: str) -> str:
    """A text of others inside HTML, as it is."""
    return escape(visible(text))


def render(run: Run) -> str:
    """The whole page as HTML."""
    rooms = (_head, _talks, _pairings, _spectrograms, _growth, _claims, _families, _answers, _curves, _stages, _about)
    parts = [room(run) for room in rooms]
    title = f"mossrepro, {_shown(run.folder.name)}"
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width,initial-scale=1"><style>{STYLE}</style></head>'
        f"<body><main>{''.join(parts)}</main></body></html>\n"
    )


def _head(run: Run) -> str:
    about = environment(run)
    chips = [f"size {run.size}", about["hardware"], f"commit {about['commit'] or 'unknown'}"]
    if run.stages:
        chips.append(f"{sum(s.minutes for s in run.stages):.0f} minutes")
    passed = sum(row.status == PASSED for row in run.rows)
    if run.failed:
        names = ", ".join(row.claim.id for row in run.failed)
        total = passed + len(run.failed)
        verdict = f'<p class="verdict bad">✗ {len(run.failed)} of {total} claims failed: {_shown(names)}</p>'
    elif passed:
        verdict = f'<p class="verdict good">✓ all {passed} claims that are expected of this size hold</p>'
    else:
        verdict = '<p class="verdict none">nothing is expected of this size; the numbers are shown as they are</p>'
    return (
        "<h1>Speech in, speech out, no text on the way</h1>"
        '<p class="sub">A reproduction of MOSS-Speech (arXiv 2510.00499). Every number below is a measured fact of '
        f"this run.</p><div class=chips>{''.join(f'<span class=chip>{_shown(c)}</span>' for c in chips)}</div>{verdict}"
    )


def _pill(status: str, word: str = "") -> str:
    kind = {PASSED: "good", FAILED: "bad", MISSING: "none"}.get(status)
    word = word or {PASSED: "holds", FAILED: "failed", MISSING: "not run"}.get(status, "")
    return f'<span class="pill {kind}">{MARK[status]} {word}</span>' if kind else ""


def _pairings(run: Run) -> str:
    figure = pairings(run)
    return f"<h2>Asked and answered</h2><div class=card>{_png(figure)}</div>" if figure else ""


def _growth(run: Run) -> str:
    figure = growth(run)
    return f"<h2>What grows with steps and with facts</h2><div class=card>{_png(figure)}</div>" if figure else ""


def _claims(run: Run) -> str:
    measured_rows = [row for row in run.rows if row.status != MISSING]
    left_out = [row for row in run.rows if row.status == MISSING]
    page = f"<h2>Claims</h2><div class=card>{_claims_table(run, measured_rows)}</div>"
    if left_out:
        page += f"<details><summary class=small>{len(left_out)} claims were not run (controls, benches, ablations)"
        page += f"</summary><div class=card>{_claims_table(run, left_out)}</div></details>"
    return page + NOTE


def _claims_table(run: Run, shown: list[Row]) -> str:
    head = "<th></th><th>claim</th><th class=r>measured</th><th></th>"
    head += "<th class=r>expected</th><th class=r>paper, 8 B</th>"
    rows = []
    for row in shown:
        n = f"n = {row.fact.n}" if row.fact and row.fact.n else ""
        tip = f' title="{_shown(row.fact.command)}"' if row.fact and row.fact.command else ""
        rows.append(
            f"<tr{tip}><td>{_pill(row.status)}</td><td>{_shown(row.claim.name)} <span class=small>{n}</span></td>"
            f'<td class="r b">{_shown(measured(row.fact))}</td><td>{_gauge(row, run.size)}</td>'
            f"<td class=r>{_shown(row.claim.expectation(run.size))}</td>"
            f'<td class="r small">{_shown(str(row.claim.paper or ""))}</td></tr>'
        )
    return f"<table><tr>{head}</tr>{''.join(rows)}</table>"


def _families(run: Run) -> str:
    found = family_rows(run)
    if not found:
        return ""
    head = "".join(f"<th{' class=r' * (i > 0)}>{name}</th>" for i, name in enumerate(FAMILY_COLUMNS))
    rows = (
        f"<td>{_shown(family)}</td>" + "".join(f"<td class=r>{_shown(n)}</td>" for n in rest) for family, *rest in found
    )
    table = f"<table><tr>{head}</tr>{''.join(f'<tr>{row}</tr>' for row in rows)}</table>"
    return f"<h2>By family</h2><div class=card>{table}<p class=small>{FAMILY_NOTE}</p></div>"


def _answers(run: Run) -> str:
    """The first open questions of each test with both replies, side by side."""
    if not (cells := open_rows(run)):
        return ""
    head = "".join(f"<th>{name}</th>" for name in OPEN_COLUMNS)
    rows = "".join(f"<tr>{''.join(f'<td>{_shown(text)}</td>' for text in row)}</tr>" for row in cells)
    return f"<h2>Open questions</h2><div class=card><table><tr>{head}</tr>{rows}</table></div>"


def _gauge(row: Row, size: str) -> str:
    """Percentages as a point with its interval on a 0-100 line; the expected bound is a tick."""
    fact, claim = row.fact, row.claim
    if fact is None or claim.unit not in ("%", "points"):
        return ""

    def x(value: float) -> float:
        return 4 + 1.32 * min(100.0, max(0.0, value))

    colour = {PASSED: GREEN, FAILED: RED}.get(row.status, BLUE)
    marks = [f'<line x1="4" x2="136" y1="9" y2="9" stroke="{GRID}" stroke-width="4" stroke-linecap="round"/>']
    if fact.low is not None and fact.high is not None:
        marks.append(
            f'<line x1="{x(fact.low):.1f}" x2="{x(fact.high):.1f}" y1="9" y2="9" stroke="{colour}" '
            'stroke-opacity=".35" stroke-width="4"/>'
        )
    if claim.expectation(size):
        for bound in (claim.low, claim.high):
            if bound is not None:
                marks.append(f'<line x1="{x(bound):.1f}" x2="{x(bound):.1f}" y1="2" y2="16" stroke="{INK}"/>')
    marks.append(f'<circle cx="{x(fact.value):.1f}" cy="9" r="4" fill="{colour}"/>')
    return f'<svg width="140" height="18" role="img" aria-label="{_shown(measured(fact))}">{"".join(marks)}</svg>'


def _audio(run: Run, name: str) -> str:
    """An audio player with a file of wav/ embedded, or a note if it cannot be."""
    path, problem = run.sound(name)
    if problem:
        return f'<p class="small">{_shown(name[-100:])} {problem}</p>'
    kind = {".flac": "flac", ".ogg": "ogg", ".mp3": "mpeg"}.get(path.suffix, "wav")
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<audio controls preload="metadata" src="data:audio/{kind};base64,{data}"></audio>'


def _talks(run: Run) -> str:
    if not run.talks:
        return ""
    cards = []
    for talk in run.talks[:PLAYERS]:
        mark = "" if talk.correct is None else _pill(PASSED, "right") if talk.correct else _pill(FAILED, "wrong")
        cards.append(
            f'<div class=talk><span class="set chip">set {_shown(talk.set)}</span>'
            f"<div class=who>QUESTION</div><p>{_shown(talk.question_text)}</p>"
            f"{_audio(run, talk.question)}"
            f'<div class=who style="margin-top:10px">ANSWER, as the judge heard it {mark}</div>'
            f"<p>{_shown(talk.heard or '(nothing)')}</p>{_audio(run, talk.answer)}"
            f"<div class=small>expected: {_shown(talk.reference)}</div></div>"
        )
    return f"<h2>Listen</h2><div class=talks>{''.join(cards)}</div>"


def _spectrograms(run: Run) -> str:
    pairs = []
    for talk in run.talks:
        files = [run.sound(name) for name in (talk.question, talk.answer)]
        if not any(problem for _, problem in files):
            pairs.append((talk, [_samples(path) for path, _ in files]))
        if len(pairs) == SPECTROGRAMS:
            break
    if not pairs:
        return ""
    figure = Figure(figsize=(10.6, 2.3 * len(pairs)), layout="constrained")
    grid = figure.subplots(len(pairs), 2, squeeze=False)
    for line, (talk, sounds) in zip(grid, pairs, strict=True):
        longest = max(len(wave) / rate for wave, rate in sounds)
        words = [talk.question_text, talk.heard]
        for axes, (wave, rate), text in zip(line, sounds, words, strict=True):
            _spectrogram(axes, wave, rate)
            axes.set_xlim(0, longest)
            axes.set_title(label(text[:70]), fontsize=9, color=INK, loc="left")
    grid[-1][0].set_xlabel("seconds", fontsize=8, color=MUTED)
    grid[-1][1].set_xlabel("seconds", fontsize=8, color=MUTED)
    return f"<h2>Question (left) and answer (right)</h2><div class=card>{_png(figure)}</div>"


def _samples(path: Path) -> tuple[np.ndarray, int]:
    """The first seconds of a sound, mono (n,), and its rate."""
    wave, rate = read_mono(path, SAMPLE_RATE)
    return np.nan_to_num(wave[: int(DRAWN * rate)]), rate


def _curves(run: Run) -> str:
    """Panels for each stage: its losses, those by pairing and of the words that answer, error rates or accuracies."""
    panels = []
    for stage, rows in run.curves.items():
        keys = sorted({key for row in rows for key in row} - {"step", "seconds"})
        for pattern in (LOSSES, PAIRED, ANSWERED, RATES):
            chosen = [key for key in keys if pattern.search(key) and (pattern is not LOSSES or not RATES.search(key))]
            chosen.sort(key=lambda key: ("loss" not in key, key))
            if chosen:
                panels.append((stage, rows, chosen[:3]))
    if not panels:
        return ""
    panels, columns = panels[:PANELS], 3
    lines = -(-len(panels) // columns)
    figure = Figure(figsize=(10.6, 2.5 * lines), layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False).ravel()
    for axes, (stage, rows, keys) in zip(grid, panels, strict=False):
        _panel(axes, stage, rows, keys)
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    return f"<h2>Training</h2><div class=card>{_png(figure)}</div>"


def _stages(run: Run) -> str:
    if not run.stages:
        return ""
    longest = max(max(stage.minutes for stage in run.stages), 1e-9)
    rows = []
    for stage in run.stages:
        kind = "bar cached" if stage.cached else "bar"
        share = 100 * stage.minutes / longest
        rows.append(
            f"<tr><td>{_shown(stage.stage)}</td><td class=r>{stage.minutes:.1f}</td>"
            f'<td style="width:45%"><div class="{kind}" style="width:{share:.1f}%"></div></td>'
            f"<td class=small>{'from the cache' if stage.cached else ''}</td>"
            f"<td class=small>{_shown(stage.hardware)}</td></tr>"
        )
    total = sum(stage.minutes for stage in run.stages)
    rows.append(f'<tr><td class=b>total</td><td class="r b">{total:.1f}</td><td></td><td></td><td></td></tr>')
    head = "<th>stage</th><th class=r>minutes</th><th></th><th></th><th>hardware</th>"
    return f"<h2>Where the minutes went</h2><div class=card><table><tr>{head}</tr>{''.join(rows)}</table></div>"


def _about(run: Run) -> str:
    rows = [f"<tr><td>{_shown(k)}</td><td>{_shown(v)}</td></tr>" for k, v in environment(run).items()]
    commands = {(f.command, f.seed, f.seconds) for row in run.rows if (f := row.fact) and f.command}
    for command, seed, seconds in sorted(commands, key=str):
        cost = f", {number(seconds)} s" if seconds else ""
        seeded = f"seed {seed}" if seed is not None else ""
        rows.append(f"<tr><td><code>{_shown(command)}</code></td><td>{_shown((seeded + cost).strip(', '))}</td></tr>")
    return f"<h2>Made with</h2><div class=card><table>{''.join(rows)}</table></div>"
