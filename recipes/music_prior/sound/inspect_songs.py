"""Listen to the training songs by their pictures: piano rolls, spectrograms, levels by stem.

    python -m recipes.music_prior.sound.inspect_songs --midi-dir DIR --real DIR

writes `docs/music_prior_songs.md` and its pictures.
"""

from __future__ import annotations

import io
import platform
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import click
import numpy as np
from scipy import signal

from recipes.music_prior.songs.song import RATE, STEMS, Song, excerpt
from recipes.music_prior.sound.effects import active_rms
from recipes.music_prior.sound.render import Fonts, render_song
from recipes.music_prior.sound.stream import SongSource, StreamSettings, render_segments

COLOURS = {"bass": "#3b6fb6", "drums": "#555555", "guitar": "#c8553d", "piano": "#3f8f5f"}
SHOWN = 20.0  # seconds of each song in its picture
SILENT = 1e-3  # RMS of a second below which a stem counts as silent


@dataclass(frozen=True)
class StemFigures:
    """Levels of one stem over some material.

    Attributes
    ----------
    level
        RMS of the active tenths of a second, dB re full scale: mean over songs.
    spread
        Its standard deviation over songs, dB.
    active
        Share of the seconds in which the stem sounds.
    crest
        Peak over active RMS, dB.
    centroid
        Mean frequency of the power spectrum, Hz.
    rolloff
        Frequency below which 85 % of the power lies, Hz.
    """

    level: float
    spread: float
    active: float
    crest: float
    centroid: float
    rolloff: float


def measure(songs: list[np.ndarray], rate: int = RATE) -> list[StemFigures]:
    """Measure float [4, samples] songs, stem by stem in the order of `STEMS`."""
    figures = []
    for index in range(len(STEMS)):
        rows = [_measure_one(song[index].astype(np.float32), rate) for song in songs]
        sounding = np.array([row for row in rows if np.isfinite(row[0])])
        shares = [row[1] for row in rows]
        if not len(sounding):
            figures.append(StemFigures(*[float("nan")] * 6))
            continue
        figures.append(
            StemFigures(
                level=float(sounding[:, 0].mean()),
                spread=float(sounding[:, 0].std()),
                active=float(np.mean(shares)),
                crest=float(sounding[:, 2].mean()),
                centroid=float(np.median(sounding[:, 3])),
                rolloff=float(np.median(sounding[:, 4])),
            )
        )
    return figures


def _measure_one(sound: np.ndarray, rate: int) -> tuple[float, float, float, float, float]:
    level = active_rms(sound[None], rate)
    if level == 0:
        return float("nan"), 0.0, 0.0, 0.0, 0.0
    seconds = sound[: len(sound) // rate * rate].reshape(-1, rate)
    active = float((np.sqrt(np.mean(seconds**2, axis=1)) > SILENT).mean())
    crest = 20 * np.log10(np.abs(sound).max() / level)
    frequencies, power = signal.welch(sound, rate, nperseg=2048)
    share = np.cumsum(power) / power.sum()
    centroid = float((power * frequencies).sum() / power.sum())
    rolloff = float(frequencies[np.searchsorted(share, 0.85)])
    return 20 * np.log10(level), active, float(crest), centroid, rolloff


def picture(song: Song, sound: np.ndarray) -> bytes:
    """Draw a song's piano roll above the spectrogram of its mixture and its stems' levels.

    Parameters
    ----------
    song
        What is played, from time 0.
    sound
        float [4, samples], how it sounds.

    Returns
    -------
    bytes
        A PNG of few colours.
    """
    from matplotlib.figure import Figure
    from PIL import Image

    figure = Figure(figsize=(9, 5), dpi=80, layout="constrained")
    roll, spectrum, levels = figure.subplots(3, 1, sharex=True, height_ratios=(4, 4, 1.6))
    for track in song.tracks:
        starts = [note.start for note in track.notes]
        lengths = [note.end - note.start for note in track.notes]
        if track.stem == "drums":  # below the pitched instruments, one line per drum
            pitches = [8 + (note.pitch - 35) * 0.45 for note in track.notes]
            lengths = [0.06] * len(starts)
        else:
            pitches = [float(note.pitch) for note in track.notes]
        roll.barh(pitches, lengths, left=starts, height=1.4, color=COLOURS[track.stem])
    roll.set(ylim=(5, 100), ylabel="MIDI key", title=song.name)
    handles = [
        roll.barh([0], [0], color=COLOURS[stem], label=stem)
        for stem in STEMS
        if stem in song.stems()
    ]
    roll.legend(handles=handles, ncols=4, loc="upper right", fontsize=7)
    mixture = sound.sum(0)
    frequencies, times, power = signal.stft(mixture, RATE, nperseg=1024, noverlap=768)
    shown = 20 * np.log10(np.abs(power) + 1e-5)
    spectrum.pcolormesh(times, frequencies / 1000, shown, vmin=-90, vmax=-20, cmap="magma")
    spectrum.set(ylabel="kHz", yscale="log", ylim=(0.04, 11))
    spectrum.set_yticks([0.1, 0.3, 1, 3, 10], ["0.1", "0.3", "1", "3", "10"])
    hop = RATE // 5
    for stem, wave in zip(STEMS, sound):
        frames = wave[: len(wave) // hop * hop].reshape(-1, hop)
        decibels = 20 * np.log10(np.sqrt(np.mean(frames**2, axis=1)) + 1e-6)
        levels.plot((np.arange(len(frames)) + 0.5) * 0.2, decibels, color=COLOURS[stem], lw=1)
    levels.set(ylim=(-65, -8), ylabel="dB", xlabel="seconds", xlim=(0, len(mixture) / RATE))
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png")
    small = io.BytesIO()
    image = Image.open(drawn).convert("RGB")
    image.quantize(palette=_palette(), dither=Image.Dither.NONE).save(small, "png", optimize=True)
    return small.getvalue()


def _palette():
    """Return the few colours a picture is reduced to, so that ten of them stay small."""
    from matplotlib import colormaps, colors
    from PIL import Image

    shades = [colormaps["magma"](level)[:3] for level in np.linspace(0, 1, 20)]
    for colour in COLOURS.values():
        shades += [colors.to_rgb(colour), tuple(0.5 + 0.5 * np.array(colors.to_rgb(colour)))]
    shades += [(level, level, level) for level in (0.0, 0.35, 0.7, 0.85, 1.0)]
    palette = Image.new("P", (1, 1))
    palette.putpalette([round(255 * value) for shade in shades for value in shade])
    return palette


def read_stems(folder: Path) -> np.ndarray:
    """Read bass, drums, guitar and piano (.wav or .flac) at 22 050 Hz: float32 [4, samples]."""
    import soundfile

    waves = []
    for stem in STEMS:
        path = next(
            (p for p in (folder / f"{stem}.wav", folder / f"{stem}.flac") if p.is_file()), None
        )
        if path is None:
            raise click.ClickException(f"{folder} must hold {stem}.wav or {stem}.flac")
        wave, rate = soundfile.read(path, dtype="float32")
        if rate != RATE:
            raise click.ClickException(f"{path} must be at {RATE} Hz; it is at {rate} Hz")
        waves.append(wave if wave.ndim == 1 else wave.mean(1))
    return np.stack([wave[: min(map(len, waves))] for wave in waves])


def _table(name: str, songs: list[np.ndarray]) -> list[str]:
    rows = []
    for stem, row in zip(STEMS, measure(songs)):
        rows.append(
            f"| {name} | {stem} | {row.level:.1f} | {row.spread:.1f} | {100 * row.active:.0f} | "
            f"{row.crest:.1f} | {row.centroid:.0f} | {row.rolloff:.0f} |"
        )
    mixtures = [song.sum(0) for song in songs]
    level = [20 * np.log10(active_rms(mix[None].astype(np.float32), RATE)) for mix in mixtures]
    top = np.mean([np.abs(mix).max() for mix in mixtures])
    rows.append(
        f"| {name} | mixture | {np.mean(level):.1f} | {np.std(level):.1f} | | "
        f"{20 * np.log10(top) - np.mean(level):.1f} | | |"
    )
    return rows


@click.command()
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("docs/music_prior_songs.md"),
)
@click.option("--songs", default=10, show_default=True, help="How many songs to draw.")
@click.option("--measured", default=24, show_default=True, help="Songs per row of the table.")
@click.option("--midi-dir", "midi_dirs", multiple=True, help="Folder of MIDI files (repeatable).")
@click.option("--soundfont", "soundfonts", multiple=True, help=".sf2/.sf3 file (repeatable).")
@click.option("--real", type=click.Path(path_type=Path), help="Folder of four real stems.")
@click.option("--seed", default=0, show_default=True)
@click.option("--text/--no-text", default=True, help="Write the page too, not only pictures.")
def main(out, songs, measured, midi_dirs, soundfonts, real, seed, text) -> None:
    """Draw songs and measure their stems: a page with pictures and a table."""
    folder = out.parent / "pictures"
    folder.mkdir(parents=True, exist_ok=True)
    settings = StreamSettings(midi_dirs=midi_dirs, soundfonts=soundfonts, seed=seed)
    source, fonts = SongSource(settings), Fonts(soundfonts)
    lines = []
    for number in range(songs):
        rng = source.rng(number)
        song = source.song(rng)
        start = float(rng.uniform(0.1, 0.5)) * max(0.0, song.duration - SHOWN)
        part = excerpt(song, start, min(SHOWN, song.duration))
        sound = render_song(part, rng, fonts)
        path = folder / f"songs_{number:02d}.png"
        path.write_bytes(picture(part, sound))
        click.echo(f"{path}  {song.name}")
        lines += [f"![{song.name}](pictures/{path.name})", ""]
    if not text:
        return
    rows = []
    for name, share in (("composed", 1.0), ("MIDI files", 0.0)):
        if share == 0.0 and not midi_dirs:
            continue
        source = SongSource(
            StreamSettings(
                midi_dirs=midi_dirs, soundfonts=soundfonts, seed=seed + 1, composed_share=share
            )
        )
        rendered = [
            np.concatenate(list(render_segments(source, fonts, k)), axis=1) for k in range(measured)
        ]
        rows += _table(f"{name} ({measured} songs)", rendered)
    if real:
        rows += _table("real: Slakh2100 Track02098, first 36 s", [read_stems(real)])
    out.write_text(_page(lines, rows))
    click.echo(str(out))


def _page(pictures: list[str], rows: list[str]) -> str:
    return "\n".join(
        [
            "# The songs the music prior learns from",
            "",
            "Each picture shows 20 s of one song: the notes (drums at the bottom), the spectrogram",
            "of the mixture, and the level of each stem. Made by",
            "",
            "    python -m recipes.music_prior.sound.inspect_songs --midi-dir DIR --real DIR",
            "",
            f"on {date.today()} ({platform.machine()}, two cores); the songs are the first of the",
            "training stream with seed 0.",
            "",
            "## Levels",
            "",
            "Level: RMS of the tenths of a second in which the stem sounds, dB re full scale, mean",
            "over songs; spread: its standard deviation; active: share of the seconds with RMS",
            f"above {SILENT}; crest: peak over that level; centroid and 85 % roll-off of the power",
            "spectrum, median over songs. The real track is only measured here; nothing is trained",
            "on it.",
            "",
            "| material | stem | level, dB | spread, dB | active, % | crest, dB | centroid, Hz "
            "| roll-off, Hz |",
            "|---|---|---|---|---|---|---|---|",
            *rows,
            "",
            "## Ten songs",
            "",
            *pictures,
        ]
    )


if __name__ == "__main__":
    main()
