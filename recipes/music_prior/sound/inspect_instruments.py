"""What soundfonts offer per class: ranges, levels, tuning, and a phrase of each to hear and see."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import jinja2
import numpy as np
import soundfile

from mgdm_audio.cli.common import Command
from recipes.music_prior.songs.song import FIVE_STEMS, OTHER, RATE, Note, Track
from recipes.music_prior.sound.drum_kit import play_kit
from recipes.music_prior.sound.effects import active_rms
from recipes.music_prior.sound.soundfonts import (
    DRUM_BANK,
    Preset,
    find_soundfonts,
    is_other,
    stem_of_preset,
)
from recipes.music_prior.sound.synth import Synthesizer, Timbre

PHRASE_SECONDS = 4.0
SILENT = 1e-4  # RMS below which a preset plays nothing
MISTUNED = 35.0  # cents from which a note is marked
# Three notes and a chord around the middle of each class.
_CENTRES = {"bass": 40, "guitar": 57, "piano": 60, OTHER: 64}
_PATTERN = (0, 4, 7)
_BEAT = ((36, 0.0), (42, 0.25), (38, 0.5), (42, 0.75), (36, 1.0), (46, 1.25), (38, 1.5), (49, 2.0))
_BEAT += ((45, 2.5), (43, 2.75), (41, 3.0), (51, 3.25))


@dataclass(frozen=True)
class InstrumentFacts:
    """One preset as it was found.

    Attributes
    ----------
    preset
        Which.
    stem
        Its class.
    font
        Name of its soundfont.
    lowest, highest
        First and last MIDI key of 21 to 108 (drums: 35 to 81) that sounds; None where none does.
    loud, soft
        RMS of its phrase at velocities 100 and 45, dB re full scale.
    cents
        How far the three notes of its phrase are off; NaN where no pitch is found, empty for drums.
    phrase
        float32 [samples] at 22 050 Hz.
    """

    preset: Preset
    stem: str
    font: str
    lowest: int | None
    highest: int | None
    loud: float
    soft: float
    cents: tuple[float, ...]
    phrase: np.ndarray

    @property
    def warnings(self) -> list[str]:
        """What to look at before training on it."""
        found = []
        if self.loud < 20 * np.log10(SILENT):
            found.append("silent")
        if any(abs(cents) > MISTUNED for cents in self.cents):
            found.append("mistuned")
        if self.lowest is not None and self.highest is not None and self.stem != "drums":
            centre = _CENTRES[self.stem]
            if self.highest < centre + 7 or self.lowest > centre - 7:
                found.append("narrow")
        return found


def inspect_instruments(paths: tuple[str, ...]) -> Iterator[InstrumentFacts]:
    """Play every preset of soundfonts, folders or .sfz files that some stem can use.

    Raises
    ------
    SoundfontError
        As `find_soundfonts`.
    """
    fonts = find_soundfonts(paths, "valid")
    player = Synthesizer(fonts, RATE)
    for preset in player.presets():
        stem = OTHER if is_other(preset) else stem_of_preset(preset)
        if stem is not None:
            yield _facts(player, preset, stem, fonts[preset.font].name)


def _facts(player: Synthesizer, preset: Preset, stem: str, font: str) -> InstrumentFacts:
    loud, soft = (_phrase(player, preset, stem, velocity) for velocity in (100, 45))
    keys = _sounding_keys(player, preset)
    cents: tuple[float, ...] = ()
    if stem != "drums":
        centre = _CENTRES[stem]
        notes = [loud[round(i * 0.6 * RATE) :][: round(0.55 * RATE)] for i in range(len(_PATTERN))]
        cents = tuple(
            cents_off(note, centre + step) for note, step in zip(notes, _PATTERN, strict=True)
        )
    return InstrumentFacts(
        preset=preset,
        stem=stem,
        font=font,
        lowest=min(keys, default=None),
        highest=max(keys, default=None),
        loud=_decibels(loud),
        soft=_decibels(soft),
        cents=cents,
        phrase=loud,
    )


def _phrase(player: Synthesizer, preset: Preset, stem: str, velocity: int) -> np.ndarray:
    """Three single notes and a chord; of a kit two bars of a beat."""
    if stem == "drums":
        track = Track("drums", 0, tuple(Note(t, t + 0.2, key, velocity) for key, t in _BEAT))
        return play_kit(player, track, preset, Timbre(), PHRASE_SECONDS, 1, decimated=False)[0]
    centre = _CENTRES[stem]
    notes = [
        Note(i * 0.6, i * 0.6 + 0.55, centre + step, velocity) for i, step in enumerate(_PATTERN)
    ]
    notes += [Note(1.8, 3.2, centre + step, velocity) for step in _PATTERN]
    track = Track(stem, preset.program, tuple(notes))
    return player.render([track], [preset], PHRASE_SECONDS, 1)[0, 0]


def _sounding_keys(player: Synthesizer, preset: Preset) -> list[int]:
    keys = range(35, 82) if preset.bank == DRUM_BANK else range(21, 109)
    gap = 0.12
    notes = tuple(Note(i * gap, i * gap + 0.06, key, 110) for i, key in enumerate(keys))
    cuts = [i * gap for i in range(len(keys))]  # nothing rings on into the next key's turn
    track = Track("piano", 0, notes)
    sound = player.render([track], [preset], len(keys) * gap, 1, cuts=cuts)[0, 0]
    turns = sound[: round(len(keys) * gap * RATE)]
    edges = [round(i * gap * RATE) for i in range(len(keys) + 1)]
    return [k for k, a, b in zip(keys, edges, edges[1:]) if np.abs(turns[a + 64 : b]).max() > 1e-4]


def cents_off(sound: np.ndarray, key: int, rate: int = RATE) -> float:
    """Return how far a note is from a key, cents in -600..600; NaN where nothing repeats.

    By the highest peak of the autocorrelation within half an octave of the key's period, so that an
    octave more or less, which recorded basses and harmonics bring about, does not count.
    """
    part = sound[rate // 20 :]
    size = 1 << int(np.ceil(np.log2(2 * len(part))))
    power = np.abs(np.fft.rfft(part * np.hanning(len(part)), size)) ** 2
    repeats = np.fft.irfft(power)
    period = wanted = rate / (440 * 2 ** ((key - 69) / 12))
    reach = 0.4  # half an octave, more or less
    # One period of a high note is only a few samples long: go on to several, from peak to peak.
    for turns in (1, 2, 4, 8, 16):
        low, high = (int(period * (turns + side)) for side in (-reach, reach))
        if turns > 1 and high > 0.03 * rate:
            break
        if repeats[0] <= 0 or high + 2 >= len(repeats):
            return float("nan")
        peak = max(low + int(np.argmax(repeats[low : high + 1])), 1)
        if repeats[peak] < 0.3 * repeats[0]:
            return float("nan")
        before, at, after = repeats[peak - 1 : peak + 2]
        bend = before - 2 * at + after
        period = (peak + (0.5 * (before - after) / bend if bend < 0 else 0.0)) / turns
        reach = 0.25
    return float(1200 * np.log2(wanted / period))


def _decibels(sound: np.ndarray) -> float:
    return float(20 * np.log10(active_rms(sound[None], RATE) + 1e-9))


def _picture(phrase: np.ndarray) -> str:
    """Draw a phrase's spectrogram: a small PNG as text for a page."""
    from matplotlib import colormaps
    from PIL import Image

    size, hop = 512, 384
    frames = np.lib.stride_tricks.sliding_window_view(phrase, size)[::hop] * np.hanning(size)
    levels = 20 * np.log10(np.abs(np.fft.rfft(frames, axis=1)) + 1e-4)
    shown = np.clip((levels + 40) / 80, 0, 1)[:, 128 - 1 :: -1].T
    pixels = np.round(255 * colormaps["magma"](shown)[..., :3]).astype(np.uint8)
    file = io.BytesIO()
    image = Image.fromarray(pixels).resize((240, 72)).quantize(32)
    image.save(file, "png", optimize=True)
    return base64.b64encode(file.getvalue()).decode()


_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Instruments</title>
<style>
body { font: 15px/1.4 system-ui, sans-serif; margin: 2em auto; max-width: 80em; padding: 0 1em }
table { border-collapse: collapse; width: 100% } td, th { padding: .2em .6em; text-align: left }
tr:nth-child(even) { background: #8881 } .bad { color: #c00; font-weight: bold }
audio { height: 2em; width: 15em } img { display: block }
</style>
<h1>Instruments</h1>
<p>Phrase: three notes and a chord (kits: a beat) at velocity 100; levels at velocities 100 and 45.
Cents: how far the three notes are off. Pictures up to {{ top }} kHz.</p>
{% for stem, rows in classes %}
<h2>{{ stem }}: {{ rows | length }}</h2>
<table><tr><th>name<th>soundfont<th>bank:program<th>keys<th>dB<th>cents<th>picture<th>phrase</tr>
{% for fact, picture, sound in rows %}
<tr><td>{{ fact.preset.name }}{% for word in fact.warnings %} <span class="bad">{{ word }}</span>
{%- endfor %}<td>{{ fact.font }}<td>{{ fact.preset.bank }}:{{ fact.preset.program }}
<td>{% if fact.lowest is not none %}{{ fact.lowest }}-{{ fact.highest }}{% else %}none{% endif %}
<td>{{ "%.0f / %.0f" | format(fact.loud, fact.soft) }}
<td>{% for c in fact.cents %}{{ "%.0f" | format(c) if c == c else "-" }} {% endfor %}
<td><img alt="spectrogram of {{ fact.preset.name }}" src="data:image/png;base64,{{ picture }}">
<td><audio controls preload="none" src="{{ sound }}"></audio></tr>
{% endfor %}</table>
{% endfor %}
</html>
"""


def write_page(facts: list[InstrumentFacts], out: Path) -> None:
    """Write a page with a table per class, and the phrases beside it as Ogg Vorbis.

    Parameters
    ----------
    facts
        What was found.
    out
        The page; phrases go to a folder of its name with `_sounds` behind it.
    """
    sounds = out.parent / f"{out.stem}_sounds"
    sounds.mkdir(parents=True, exist_ok=True)
    classes = []
    for stem in FIVE_STEMS:
        rows = []
        for number, fact in enumerate(f for f in facts if f.stem == stem):
            file = sounds / f"{stem}_{number:03d}.ogg"
            phrase = fact.phrase * np.float32(0.5 / max(float(np.abs(fact.phrase).max()), 0.05))
            soundfile.write(file, phrase, RATE)
            rows.append((fact, _picture(fact.phrase), f"{sounds.name}/{file.name}"))
        if rows:
            classes.append((stem, rows))
    page = jinja2.Environment(autoescape=True).from_string(_PAGE)
    text = page.render(classes=classes, top=f"{RATE / 4000:.1f}")
    partial = out.with_name(f".{out.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(out)


@click.command("instruments", cls=Command)
@click.argument("fonts", nargs=-1, required=True)
@click.option(
    "--page", type=click.Path(dir_okay=False, path_type=Path), help="Write phrases and pictures."
)
def main(fonts: tuple[str, ...], page: Path | None) -> None:
    """List what soundfonts, .sfz files and folders of them offer per class."""
    facts = []
    click.echo("class   keys    dB at 100/45   cents           name")
    for fact in inspect_instruments(fonts):
        facts.append(fact)
        keys = "none" if fact.lowest is None else f"{fact.lowest}-{fact.highest}"
        cents = " ".join("-" if c != c else f"{c:.0f}" for c in fact.cents)
        words = "  ".join(word.upper() for word in fact.warnings)
        address = f"{fact.preset.bank}:{fact.preset.program}"
        click.echo(
            f"{fact.stem:7} {keys:7} {fact.loud:5.0f} / {fact.soft:4.0f}   {cents:15} "
            f"{fact.preset.name} ({fact.font} {address})  {words}"
        )
    if page is not None:
        write_page(facts, page)
        click.echo(str(page))
