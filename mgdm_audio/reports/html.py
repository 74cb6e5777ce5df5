"""The report of a run as a folder that any browser opens, without a server or a network."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any

import soundfile

from mgdm_audio.errors import AudioError, AudioWriteError, os_reason
from mgdm_audio.evaluation.compare import Comparison, compare_runs, comparison_table
from mgdm_audio.evaluation.run import LISTEN_TRACKS, best_and_worst
from mgdm_audio.evaluation.run_folder import RunFolder, Variant
from mgdm_audio.evaluation.summary import ALL, SILENCE_SAFE, RunSummary, summarise
from mgdm_audio.reports.figures import (
    box_plot,
    difference_plot,
    mel_peak,
    spectrogram,
    sweep_plot,
    track_values,
)
from mgdm_audio.reports.tables import Table, cost_table, score_tables

__all__ = ["write_comparison", "write_report"]

STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 70rem; padding: 1rem 1.5rem;
  color: #1d1d1f; background: #fff; }
h1 { font-size: 1.6rem; } h2 { margin-top: 2.2rem; border-bottom: 1px solid #ddd; }
h3 { margin-bottom: .3rem; } h4 { margin: 1rem 0 .2rem; }
table { border-collapse: collapse; margin: .6rem 0; } .wide { overflow-x: auto; }
th, td { padding: .25rem .7rem; border-bottom: 1px solid #e5e5e5; text-align: right;
  font-variant-numeric: tabular-nums; vertical-align: top; }
th:first-child, td:first-child { text-align: left; } th { font-weight: 600; }
.facts td { text-align: left; overflow-wrap: anywhere; }
.note { color: #555; font-size: .87rem; margin: .2rem 0 .4rem; max-width: 52rem; }
.sounds td, .sounds th { text-align: left; }
.sounds img { display: block; width: 100%; max-width: 26rem; }
audio { width: 100%; min-width: 14rem; max-width: 26rem; height: 2rem; }
figure { margin: .6rem 0; } svg { max-width: 100%; height: auto; } .failed { color: #9c1c1c; }
details { margin: .6rem 0; } summary { cursor: pointer; font-weight: 600; }
.scores td, .scores th { min-width: 6.5rem; white-space: nowrap; }
.scores td:first-child, .scores th:first-child { min-width: 9rem; }
nav { position: sticky; top: 0; background: #fff; border-bottom: 1px solid #ddd; padding: .4rem 0; }
nav a { margin-right: 1.2rem; color: #2f6f9f; text-decoration: none; }
h2 { scroll-margin-top: 3rem; }
"""

# One player at a time: comparing sounds means switching between them.
SCRIPT = """
document.addEventListener("play", function (event) {
  document.querySelectorAll("audio").forEach(function (player) {
    if (player !== event.target) { player.pause(); }
  });
}, true);
"""


SECTIONS = {
    "scores": "Scores",
    "spread": "Spread over tracks",
    "cost": "What it cost",
    "sounds": "Best and worst tracks",
    "tracks": "All tracks",
    "made": "How it was made",
}
"""Headings that the page's top links to."""


def write_report(run: RunFolder, on_progress: Callable[[int, int], None] | None = None) -> Path:
    """Write the report of a run.

    Parameters
    ----------
    run : RunFolder
        A run with at least one evaluated track.
    on_progress : callable, optional
        Called with the numbers of tracks with sound drawn and in all.

    Returns
    -------
    Path
        ``RUN/report/index.html``; the folder can be moved or zipped.

    Raises
    ------
    AudioError
        If the folder holds no run, or the report cannot be written.
    """
    summary = summarise(run)
    asked = run.description["asked"]
    variants = run.variants()
    values = {
        v.label: track_values(run, v, asked["tracks"], summary.stems, SILENCE_SAFE)
        for v in variants
    }
    tell = on_progress or (lambda done, total: None)

    def body(folder: Path) -> Iterator[str]:
        yield f"<h1>Evaluation on {escape(summary.name)}</h1>"
        yield _lead(summary, asked)
        links = (f'<a href="#{name}">{text}</a>' for name, text in SECTIONS.items())
        yield f"<nav>{''.join(links)}</nav>"
        yield _section("scores")
        yield from (_table(table, "scores") for table in score_tables(summary))
        failed = [(v.label, k, e) for v in summary.variants for k, e in v.errors.items()]
        if failed:
            yield '<h3 class="failed">Failed</h3><ul>'
            yield from (
                f"<li>{escape(label)}, {escape(key)}: {escape(error)}</li>"
                for label, key, error in failed
            )
            yield "</ul>"
        yield _section("spread")
        yield _picture(
            box_plot(values, (*summary.stems, ALL), "SI-SDR improvement (dB)"),
            "Box plots of the SI-SDR improvement of the tracks, by stem",
            "One value per track: the mean over its windows, silence-safe. Box: quartiles; line: "
            "median; diamond: mean; whiskers: 1.5 quartile distances; dots: tracks, all of them "
            "where they are few.",
        )
        yield from _sweep(summary)
        yield from _against_first(run, variants)
        yield _section("cost")
        yield _table(cost_table(summary))
        yield _section("sounds")
        yield from _listening(run, variants, values, folder, tell)
        yield _section("tracks")
        for label, tracks in values.items():
            yield _all_tracks(label, tracks, summary.stems)
        yield _section("made")
        yield from _facts(run.description)

    return _write_page(run.path / "report", f"Evaluation on {summary.name}", body)


def write_comparison(comparison: Comparison, out: Path) -> Path:
    """Write the comparison of two runs as a page of its own.

    Parameters
    ----------
    comparison : Comparison
        See :func:`mgdm_audio.evaluation.compare.compare_runs`.
    out : Path
        Folder to write; replaced if it holds a report.

    Returns
    -------
    Path
        ``OUT/index.html``.

    Raises
    ------
    AudioError
        If the folder holds something else, or cannot be written.
    """

    def body(folder: Path) -> Iterator[str]:
        del folder
        a, b = comparison.names
        yield f"<h1>{escape(b)} against {escape(a)}</h1>"
        yield from (f'<p class="note">{escape(text)}.</p>' for text in comparison.remarks)
        yield _table(comparison_table(comparison))
        yield _picture(
            difference_plot(comparison),
            "Bars of the paired difference of every track, by stem",
            "Each bar is a track, sorted; above zero B is better.",
        )
        for row in comparison.rows:
            cells = [
                [key, *(f"{x:.2f}" for x in (a, b, b - a))]
                for key, (a, b) in zip(comparison.tracks, row.pairs, strict=True)
            ]
            yield f"<details><summary>{escape(row.stem)}, track by track</summary>"
            yield _table(Table(row.stem, comparison.score + " in dB", ["", "A", "B", "B less A"],
                               cells))  # fmt: skip
            yield "</details>"

    return _write_page(out, f"{comparison.names[1]} against {comparison.names[0]}", body)


def _write_page(folder: Path, title: str, body: Callable[[Path], Iterator[str]]) -> Path:
    """Write ``index.html`` and what it shows into a folder that appears whole."""
    if folder.exists() and not (folder / "index.html").exists() and any(folder.iterdir()):
        raise AudioError(f"{folder}: holds something other than a report; give another folder")
    partial = folder.parent / f".mgdm-{uuid.uuid4().hex[:12]}.part"
    try:
        partial.mkdir(parents=True)
        content = "\n".join(body(partial))
        page = (
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f'<title>{escape(title)}</title><link rel="icon" href="data:,">'
            f"<style>{STYLE}</style></head>\n<body>\n{content}\n"
            f"<script>{SCRIPT}</script>\n</body></html>\n"
        )
        (partial / "index.html").write_text(page, encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(partial, folder)
    except OSError as error:
        raise AudioWriteError(f"{folder}: cannot be written ({os_reason(error)})") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder / "index.html"


def _lead(summary: RunSummary, asked: dict[str, Any]) -> str:
    mixture = "the sum of the stems" if asked["mixture"] == "sum" else "the mix file"
    return (
        f"<p>{len(asked['tracks'])} tracks at {asked['rate']} Hz; what was separated is {mixture}; "
        f"seed {asked['seed']}.</p>"
    )


def _section(name: str) -> str:
    return f'<h2 id="{name}">{SECTIONS[name]}</h2>'


def _table(table: Table, kind: str = "plain") -> str:
    head = "".join(f'<th scope="col">{escape(c)}</th>' for c in table.columns)
    rows = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in table.rows
    )
    return (
        f"<h3>{escape(table.title)}</h3><p class='note'>{escape(table.caption)}.</p>"
        f"<div class='wide'><table class='{kind}'><thead><tr>{head}</tr></thead>"
        f"<tbody>{rows}</tbody></table></div>"
    )


def _picture(svg: str, label: str, note: str) -> str:
    drawn = svg.replace("<svg", f'<svg role="img" aria-label="{escape(label)}"', 1)
    return f'<figure>{drawn}<figcaption class="note">{escape(note)}</figcaption></figure>'


def _sweep(summary: RunSummary) -> Iterator[str]:
    drawn = sweep_plot(summary)
    if drawn is not None:
        yield "<h2>Score against evaluations</h2>"
        yield _picture(
            drawn,
            "Score against denoiser evaluations, one line per sampler",
            "Mean over the stems, with 95 % intervals over tracks.",
        )


def _against_first(run: RunFolder, variants: Sequence[Variant]) -> Iterator[str]:
    """Every variant against the first, track by track."""
    if len(variants) < 2:
        return
    yield f"<h2>Against {escape(variants[0].label)}</h2>"
    for variant in variants[1:]:
        try:
            comparison = compare_runs(run, run, variants[0].label, variant.label)
        except AudioError:  # one of the two has no track yet
            continue
        opened = " open" if len(variants) == 2 else ""
        yield f"<details{opened}><summary>{escape(variant.label)}</summary>"
        yield _table(comparison_table(comparison))
        yield "</details>"


def _listening(
    run: RunFolder,
    variants: Sequence[Variant],
    values: dict[str, dict[str, dict[str, float]]],
    folder: Path,
    tell: Callable[[int, int], None],
) -> Iterator[str]:
    """Players and spectrograms of the best and the worst tracks."""
    chosen = [
        [
            (key, place)
            for place, key in _places(values[variant.label])
            if run.listen_folder(variant, key).is_dir()
        ]
        for variant in variants
    ]
    total, done = sum(map(len, chosen)), 0
    for number, (variant, tracks) in enumerate(zip(variants, chosen)):
        if len(variants) > 1:
            opened = " open" if number == 0 else ""
            yield f"<details{opened}><summary>{escape(variant.label)}</summary>"
        shown = None
        for key, place in tracks:
            if shown != place:
                yield f"<h3>The {place} tracks</h3>"
                shown = place
            source = run.listen_folder(variant, key)
            scores = values[variant.label][key]
            yield from _sounds(source, folder, f"{number}-{done}", key, scores, run, variant)
            done += 1
            tell(done, total)
        if len(variants) > 1:
            yield "</details>"


def _places(scores: dict[str, dict[str, float]]) -> Iterator[tuple[str, str]]:
    """The best tracks, best first, then the worst, each with the word for it."""
    keys = best_and_worst({key: found[ALL] for key, found in scores.items()}, LISTEN_TRACKS)
    for place, key in enumerate(keys):
        yield ("best" if place < (len(keys) + 1) // 2 else "worst"), key


def _sounds(
    source: Path,
    folder: Path,
    prefix: str,
    key: str,
    scores: dict[str, float],
    run: RunFolder,
    variant: Variant,
) -> Iterator[str]:
    """One track: the mixture, then reference and estimate of each stem side by side."""
    record = run.record(variant, key) or {}
    start, stop = record.get("excerpt", [0, 0])
    rate = record.get("rate", 1)
    sounds = folder / "sounds"
    sounds.mkdir(exist_ok=True)
    mixture, rate_of_file = soundfile.read(source / "mixture.flac", dtype="float32")
    peak = mel_peak(mixture, rate_of_file)

    def player(name: str, label: str) -> str:
        file = source / f"{name}.flac"
        target = f"{prefix}-{name}"
        shutil.copyfile(file, sounds / f"{target}.flac")
        samples, own_rate = soundfile.read(file, dtype="float32")
        (sounds / f"{target}.png").write_bytes(spectrogram(samples, own_rate, peak))
        return (
            f'<img src="sounds/{escape(target)}.png" alt="Spectrogram: {escape(label)}" '
            f'loading="lazy"><audio controls preload="none" '
            f'src="sounds/{escape(target)}.flac" aria-label="{escape(label)}"></audio>'
        )

    mean = scores[ALL]
    yield f"<h4>{escape(key)}: {mean:.2f} dB</h4>"
    notes = [*record.get("notes", []), *record.get("warnings", [])]
    yield (
        f'<p class="note">{start / rate:.1f} s to {stop / rate:.1f} s, around its worst window'
        f"{'; ' + escape('; '.join(notes)) if notes else ''}.</p>"
    )
    heads = "".join(f"<th>{name}</th>" for name in ("", "reference", "estimate"))
    yield f'<table class="sounds"><thead><tr>{heads}</tr></thead><tbody>'
    yield f"<tr><td>mixture</td><td>{player('mixture', f'{key}, mixture')}</td><td></td></tr>"
    for stem in record.get("stems", []):
        value = f"{scores[stem]:.2f} dB" if scores[stem] == scores[stem] else "silent"
        cells = "".join(
            f"<td>{player(f'{stem}.{kind}', f'{key}, {stem}, {kind}')}</td>"
            for kind in ("reference", "estimate")
        )
        yield f"<tr><td>{escape(stem)}<br><span class='note'>{value}</span></td>{cells}</tr>"
    yield "</tbody></table>"


def _all_tracks(label: str, tracks: dict[str, dict[str, float]], stems: Sequence[str]) -> str:
    names = (*stems, ALL)
    rows = [
        [key, *("–" if v[s] != v[s] else f"{v[s]:.2f}" for s in names)]
        for key, v in sorted(tracks.items())
    ]
    table = Table(label, "SI-SDR improvement in dB, silence-safe", ["", *names], rows)
    return (
        f"<details><summary>{escape(label)}: {len(rows)} tracks</summary>{_table(table)}</details>"
    )


def _facts(description: dict[str, Any]) -> Iterator[str]:
    """What was asked, with which prior, and on what machine."""
    asked = dict(description["asked"])
    variants = {
        _label(v): ", ".join(f"{k} = {_text(x)}" for k, x in v.get("all_settings", {}).items())
        for v in asked.pop("variants")
    }
    asked["tracks"] = len(asked["tracks"])
    parts = {"Prior": asked.pop("estimator", {}), "Evaluation": asked, "Samplers": variants}
    parts |= description["facts"]
    for title, facts in parts.items():
        if not isinstance(facts, dict):
            facts = {title: facts}
        rows = "".join(
            f"<tr><td>{escape(str(name))}</td><td>{escape(_text(value))}</td></tr>"
            for name, value in facts.items()
        )
        yield f"<h3>{escape(title)}</h3><table class='facts'><tbody>{rows}</tbody></table>"


def _label(variant: dict[str, Any]) -> str:
    return Variant(variant["sampler"], tuple(map(tuple, variant["settings"]))).label


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    return json.dumps(value) if isinstance(value, dict) else str(value)
