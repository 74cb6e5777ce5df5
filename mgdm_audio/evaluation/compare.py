"""Two runs side by side on the tracks that both have: paired differences and a paired test."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mgdm_audio.errors import AudioError
from mgdm_audio.evaluation.nothing import MIXTURE, ORACLE
from mgdm_audio.evaluation.run_folder import RunFolder, Variant
from mgdm_audio.evaluation.track_scores import ACTIVE, ALL, TrackScores
from mgdm_audio.metrics.statistics import PairedComparison, compare_paired, known_mean
from mgdm_core.errors import SettingsError


@dataclass(frozen=True)
class ComparisonRow:
    """One stem, or all of them.

    Attributes
    ----------
    stem : str
        Name of the stem, or ``all`` for the mean over the stems.
    pairs : list of (float, float)
        Scores of A and B in their unit, by track; NaN where one has none.
    nothing : dict of str to float
        Means over the same tracks of the rows that separate nothing.
    """

    stem: str
    pairs: list[tuple[float, float]]
    result: PairedComparison
    nothing: dict[str, float]

    @property
    def means(self) -> tuple[float, float]:
        """Means of A and of B over the tracks that have both."""
        both = [(a, b) for a, b in self.pairs if not math.isnan(b - a)]
        return known_mean([a for a, _ in both]), known_mean([b for _, b in both])


@dataclass(frozen=True)
class Comparison:
    """Two variants on the tracks that both have; ``remarks`` say what makes it less than fair."""

    names: tuple[str, str]
    score: str
    tracks: list[str]
    rows: list[ComparisonRow]
    remarks: list[str]


def choose_variant(run: RunFolder, label: str | None) -> Variant:
    """The run's variant of this name, or its only one.

    Raises
    ------
    SettingsError
        If there is no such variant, or several and none was named.
    """
    variants = run.variants()
    labels = ", ".join(f"'{v.label}'" for v in variants)
    if label is None:
        if len(variants) == 1:
            return variants[0]
        raise SettingsError(f"{run.path} has several variants; name one of {labels}")
    for variant in variants:
        if label in (variant.label, variant.slug):
            return variant
    raise SettingsError(f"{run.path} has no variant '{label}'; it has {labels}")


def compare_runs(
    a: RunFolder,
    b: RunFolder,
    variant_a: str | None = None,
    variant_b: str | None = None,
    score: str = ACTIVE,
) -> Comparison:
    """Compare two runs, or two variants of one run, track by track: B less A.

    Raises
    ------
    SettingsError
        If a variant is not there.
    AudioError
        If the runs have no track in common.
    """
    sides = [(a, choose_variant(a, variant_a)), (b, choose_variant(b, variant_b))]
    asked = [run.description["asked"] for run, _ in sides]
    records = [
        {r["track"]: r for r in run.records(variant, facts["tracks"]) if r["error"] is None}
        for (run, variant), facts in zip(sides, asked, strict=True)
    ]
    held = [{key: TrackScores.of(r) for key, r in own.items()} for own in records]
    tracks = [key for key in held[0] if key in held[1]]
    if not tracks:
        raise AudioError(f"{a.path} and {b.path} have no evaluated track in common")
    stems = [s for s in asked[0]["stems"] if any(s in h[t].stems for h in held for t in tracks)]
    nothing = {
        name: [TrackScores.of(records[0][t], name) for t in tracks]
        for name in (MIXTURE, ORACLE)
        if all(name in records[0][t].get("nothing", {}) for t in tracks)
    }
    both = {t: [s for s in held[0][t].stems if s in held[1][t].stems] for t in tracks}
    rows = []
    for stem in (*stems, ALL):

        def of(key: str, track: TrackScores, stem: str = stem) -> float:
            # The mean is over the stems that both have there.
            own = both[key] if stem == ALL else [stem]
            return known_mean([track.value(score, name) for name in own])

        first, second = ([of(t, own[t]) for t in tracks] for own in held)
        pairs = list(zip(first, second, strict=True))
        empty = {
            name: known_mean([of(t, track) for t, track in zip(tracks, own)])
            for name, own in nothing.items()
        }
        rows.append(ComparisonRow(stem, pairs, compare_paired(first, second), empty))
    remarks = [
        f"{name} differs: {asked[0].get(name)!r} and {asked[1].get(name)!r}"
        for name in ("rate", "mixture", "seed")
        if asked[0].get(name) != asked[1].get(name)
    ]
    for (run, variant), own in zip(sides, held, strict=True):
        alone = len(own) - len(tracks)
        if alone:
            remarks.append(f"{alone} tracks only in {run.path} ({variant.label}): left out")
    apart = [t for t in tracks if any(set(own[t].stems) != set(both[t]) for own in held)]
    if apart:
        remarks.append(f"stems that only one side has, on {len(apart)} tracks: not in the means")
    names = (f"{a.path.name}: {sides[0][1].label}", f"{b.path.name}: {sides[1][1].label}")
    return Comparison(names, score, tracks, rows, remarks)
