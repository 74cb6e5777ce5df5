"""A separation as a notebook shows it: a player per stem and a picture of their levels."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping

import numpy as np
import soundfile as sf

from mgdm_core.array_types import Array, Float

_LONGEST = 60.0  # seconds in a player: the sound is part of the page
_COLUMNS = 600


def players(tracks: Mapping[str, Float[Array, "..."]], rate: int) -> str:
    """HTML with everything inside it: no files, no scripts, no network."""
    shown = {name: np.atleast_2d(track) for name, track in tracks.items()}
    peak = max((float(np.abs(t).max()) for t in shown.values() if t.size), default=0.0)
    gain = 1.0 / peak if peak > 1 else 1.0
    seconds = max(t.shape[1] for t in shown.values()) / rate
    note = ""
    if seconds > _LONGEST:
        note = f"<p>The first {_LONGEST:.0f} of {seconds:.0f} s; <code>save()</code> for all.</p>"
    rows = "".join(
        f"<tr><th style='text-align:left'>{html.escape(name)}</th>"
        f"<td>{_envelope(track, peak)}</td>"
        f"<td><audio controls preload='none' src='{_sound(track * gain, rate)}'></audio></td></tr>"
        for name, track in ((n, t[:, : int(_LONGEST * rate)]) for n, t in shown.items())
    )
    return f"<table>{rows}</table>{note}"


def _sound(track: np.ndarray, rate: int) -> str:
    if len(track) > 2:  # browsers play one or two channels everywhere
        track = track.mean(0, keepdims=True)
    buffer = io.BytesIO()
    sf.write(buffer, track.T, rate, format="FLAC", subtype="PCM_16")
    return "data:audio/flac;base64," + base64.b64encode(buffer.getvalue()).decode()


def _envelope(track: np.ndarray, peak: float) -> str:
    """Peaks over time as an inline drawing, all stems on one scale."""
    mono = np.abs(track).max(0)
    edges = np.linspace(0, len(mono), min(_COLUMNS, len(mono)) + 1).astype(int)[:-1]
    heights = np.maximum.reduceat(mono, edges) / (peak or 1.0)
    points = " ".join(f"M{x} {20 - 19 * h:.1f}V{20 + 19 * h:.1f}" for x, h in enumerate(heights))
    return (
        f"<svg role='img' aria-label='level over time' width='300' height='40' "
        f"viewBox='0 0 {len(heights)} 40' preserveAspectRatio='none'>"
        f"<path d='{points}' stroke='currentColor' stroke-width='1.5'/></svg>"
    )
