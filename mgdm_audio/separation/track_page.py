"""The page of a track that was separated to files, from its record."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from mgdm_audio.errors import AudioError, display_name
from mgdm_audio.io.reader import open_blocks, probe
from mgdm_audio.listening_page.confidence import Confidence, agreement, levels, own_parts
from mgdm_audio.listening_page.page import PageOptions, write_page
from mgdm_audio.separation.result import RESIDUAL
from mgdm_core.array_types import Array, Float


def write_track_page(
    path: str | os.PathLike,
    record: str | os.PathLike,
    mixture: str | os.PathLike,
    options: PageOptions | None = None,
) -> Path:
    """Write the page of a track from what ``mgdm-separate`` has written of it.

    Parameters
    ----------
    record : path
        The track's ``mgdm.json``, stems beside it; with ``--uncertainty`` the samples' deviation.
    """
    options = options or PageOptions()
    record = Path(record)
    try:
        facts = json.loads(record.read_text(encoding="utf-8"))
        files = {name: record.parent / file for name, file in facts["files"].items()}
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise AudioError(
            f"{display_name(record)}: is no record of a separated track ({error})"
        ) from error
    base = Path(path) if options.folder else Path(path).parent
    beside = {n: Path(os.path.relpath(f, base)).as_posix() for n, f in files.items()}
    residual = files.pop(RESIDUAL, None)
    return write_page(
        path,
        files,
        mixture,
        facts["rate"],
        residual=residual,
        title=facts["track"],
        facts=_told(facts),
        confidence=_confidence(record, facts, files),
        downloads=beside,
        options=options,
    )


def _told(record: dict[str, Any]) -> dict[str, str]:
    settings, machine = record["settings"], record["machine"]
    told = {
        "Prior": record["prior"]["name"],
        "Sampler": str(settings.get("sampler", "")),
        "Posterior samples": str(settings.get("samples", 1)),
        "Denoiser evaluations": f"{record['evaluations_per_window']:g} per window",
        "Seed": str(record["seed"]),
        "Time": f"{record['seconds']:.1f} s for {record['seconds_of_audio']:.1f} s of sound",
        "Machine": str(machine.get("cpu", machine.get("processor", ""))),
    }
    if record["common_gain"] != 1:
        told["Stems turned down by"] = f"{-20 * np.log10(record['common_gain']):.2f} dB"
    return {name: value for name, value in told.items() if value}


def _confidence(record: Path, facts: dict[str, Any], files: dict[str, Path]) -> Confidence | None:
    """What is expected to be a stem's own; without a fit, whether the posterior samples agree."""
    if facts.get("confidence"):
        return own_parts(facts["confidence"])
    saved = record.with_name(f"{record.stem}_uncertainty.npz")
    if not saved.is_file():
        return None
    with np.load(saved) as rows:
        hop = float(rows["seconds_per_frame"])
        found = {name: rows[name] for name in files if name in rows}

    def level(path: Path, count: int) -> Float[Array, " frames"]:
        return levels(open_blocks(path), hop * probe(path).rate, count)

    return Confidence({n: agreement(level(files[n], len(r)), r) for n, r in found.items()}, hop)
