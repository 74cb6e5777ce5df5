"""The report of a run as a folder that any browser opens, without a server or a network."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import soundfile

from mgdm_audio.errors import AudioError
from mgdm_audio.evaluation.compare import Comparison, compare_runs
from mgdm_audio.evaluation.run import LISTEN_TRACKS, best_and_worst
from mgdm_audio.evaluation.run_folder import RunFolder, Variant
from mgdm_audio.evaluation.summary import RunSummary, summarise
from mgdm_audio.evaluation.track_scores import ACTIVE, ALL
from mgdm_audio.io.atomic import replacing
from mgdm_audio.reports.figures import (
    box_plot,
    difference_plot,
    mel_peak,
    spectrogram,
    sweep_plot,
    track_values,
)
from mgdm_audio.reports.summary_page import lead
from mgdm_audio.reports.tables import (
    TITLES,
    Table,
    comparison_table,
    cost_table,
    decimal,
    score_tables,
)

SECTIONS = {
    "scores": "Scores",
    "spread": "Spread over tracks",
    "cost": "What it cost",
    "sounds": "Best and worst tracks",
    "tracks": "All tracks",
    "made": "How it was made",
}
"""Headings that the page's top links to."""


def write_report(run: RunFolder) -> Path:
    """Write the report of a run into ``RUN/report``, which can be moved; returns its page."""
    summary = summarise(run)
    asked = run.description["asked"]
    variants = run.variants()
    values = {
        v.label: track_values(run, v, asked["tracks"], summary.stems, ACTIVE) for v in variants
    }
    names = {v.label: v.name for v in summary.variants}

    def content(folder: Path) -> dict[str, Any]:
        boxes = {names[label]: tracks for label, tracks in values.items()}
        return {
            "summary": summary,
            "lead": lead(asked),
            "sections": SECTIONS,
            "score_tables": score_tables(summary),
            "failed": [(v.name, k, e) for v in summary.variants for k, e in v.errors.items()],
            "boxes": box_plot(boxes, (*summary.stems, ALL), "SI-SDR improvement (dB)"),
            "sweep": sweep_plot(summary),
            "first": summary.variants[0].name,
            "comparisons": list(_against_first(run, summary)),
            "cost": cost_table(summary),
            "listening": _listening(run, variants, values, names, folder),
            "every_track": [_all_tracks(names[k], v, summary.stems) for k, v in values.items()],
            "made": list(_facts(run)),
        }

    title = f"Evaluation on {summary.name}"
    return _write_page(run.path / "report", "report.html", title, content)


def write_comparison(comparison: Comparison, out: Path) -> Path:
    """Write the comparison of two runs as a page of its own, in place of one that is there."""
    score = TITLES.get(comparison.score, comparison.score)
    by_track = [
        Table(
            row.stem,
            score,
            ["", "A", "B", "B less A"],
            [
                [key, *map(decimal, (a, b, b - a))]
                for key, (a, b) in zip(comparison.tracks, row.pairs, strict=True)
            ],
        )
        for row in comparison.rows
    ]

    def content(folder: Path) -> dict[str, Any]:
        del folder
        return {
            "comparison": comparison,
            "paired": comparison_table(comparison),
            "bars": difference_plot(comparison),
            "by_track": by_track,
        }

    title = f"{comparison.names[1]} against {comparison.names[0]}"
    return _write_page(out, "comparison.html", title, content)


def _write_page(
    folder: Path, template: str, title: str, content: Callable[[Path], dict[str, Any]]
) -> Path:
    """Write ``index.html`` and what it shows into a folder that appears whole."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("mgdm_audio.reports"), autoescape=True, undefined=StrictUndefined
    )
    if folder.exists() and not (folder / "index.html").exists() and any(folder.iterdir()):
        raise AudioError(f"{folder}: holds something other than a report; give another folder")
    with replacing(folder, folder=True) as partial:
        page = environment.get_template(template).render(title=title, **content(partial))
        (partial / "index.html").write_text(page, encoding="utf-8")
    return folder / "index.html"


def _against_first(run: RunFolder, summary: RunSummary) -> Iterator[tuple[str, Table]]:
    """Every variant against the first, track by track."""
    first, *others = summary.variants
    for other in others:
        try:
            comparison = compare_runs(run, run, first.label, other.label)
        except AudioError:  # one of the two has no track yet
            continue
        yield other.name, comparison_table(comparison)


def _listening(
    run: RunFolder,
    variants: Sequence[Variant],
    values: dict[str, dict[str, dict[str, float]]],
    names: dict[str, str],
    folder: Path,
) -> list[dict[str, Any]]:
    """Players and spectrograms of the best and the worst tracks, by variant."""
    groups = []
    for number, variant in enumerate(variants):
        scores = values[variant.label]
        tracks, shown = [], None
        for place, key in _places(scores):
            if run.listen_folder(variant, key).is_dir():
                heading = None if shown == place else f"The {place} tracks"
                shown = place
                prefix = f"{number}-{len(tracks)}"
                track = _sounds(run, variant, key, scores[key], folder, prefix)
                tracks.append({"heading": heading, **track})
        groups.append({"name": names[variant.label], "tracks": tracks})
    return groups


def _places(scores: dict[str, dict[str, float]]) -> Iterator[tuple[str, str]]:
    """The best tracks, best first, then the worst, each with the word for it."""
    keys = best_and_worst({key: found[ALL] for key, found in scores.items()}, LISTEN_TRACKS)
    for place, key in enumerate(keys):
        yield ("best" if place < (len(keys) + 1) // 2 else "worst"), key


def _sounds(
    run: RunFolder,
    variant: Variant,
    key: str,
    scores: dict[str, float],
    folder: Path,
    prefix: str,
) -> dict[str, Any]:
    """One track: the mixture, then reference and estimate of each stem side by side."""
    source = run.listen_folder(variant, key)
    record = run.record(variant, key) or {}
    start, stop = record.get("excerpt", [0, 0])
    rate = record.get("rate", 1)
    sounds = folder / "sounds"
    sounds.mkdir(exist_ok=True)
    mixture, rate_of_file = soundfile.read(source / "mixture.flac", dtype="float32")
    peak = mel_peak(mixture, rate_of_file)

    def player(name: str, label: str) -> dict[str, str]:
        file, target = source / f"{name}.flac", f"{prefix}-{name}"
        shutil.copyfile(file, sounds / f"{target}.flac")
        samples, own_rate = soundfile.read(file, dtype="float32")
        (sounds / f"{target}.png").write_bytes(spectrogram(samples, own_rate, peak))
        return {
            "picture": f"sounds/{target}.png",
            "file": f"sounds/{target}.flac",
            "label": label,
        }

    return {
        "key": key,
        "mean": _decibels(scores[ALL]),
        "start": f"{start / rate:.1f}",
        "stop": f"{stop / rate:.1f}",
        "notes": [*record.get("notes", []), *record.get("warnings", [])],
        "mixture": player("mixture", f"{key}, mixture"),
        "stems": [
            {
                "name": stem,
                "score": _decibels(scores[stem]),
                **{
                    kind: player(f"{stem}.{kind}", f"{key}, {stem}, {kind}")
                    for kind in ("reference", "estimate")
                },
            }
            for stem in record.get("stems", [])
        ],
    }


def _all_tracks(name: str, tracks: dict[str, dict[str, float]], stems: Sequence[str]) -> Table:
    columns = (*stems, ALL)
    rows = [[key, *(decimal(v[s]) for s in columns)] for key, v in sorted(tracks.items())]
    return Table(name, "SI-SDR improvement in dB, active stems", ["", *columns], rows)


def _decibels(value: float) -> str:
    return "silent" if math.isnan(value) else f"{decimal(value)} dB"


def _facts(run: RunFolder) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """What was asked, with which prior, and on what machine."""
    asked = dict(run.description["asked"])
    variants = {
        v.label: ", ".join(f"{k} = {_text(x)}" for k, x in told.get("all_settings", {}).items())
        for v, told in zip(run.variants(), asked.pop("variants"), strict=True)
    }
    asked["tracks"] = len(asked["tracks"])
    parts = {"Prior": asked.pop("estimator", {}), "Evaluation": asked, "Samplers": variants}
    parts |= run.description["facts"]
    for title, facts in parts.items():
        if not isinstance(facts, dict):
            facts = {title: facts}
        yield title, [(str(name), _text(value)) for name, value in facts.items()]


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    return json.dumps(value) if isinstance(value, dict) else str(value)
