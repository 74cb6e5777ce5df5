"""Options that say what songs are made of and where segments come from."""

from __future__ import annotations

from pathlib import Path

import click

__all__ = ["music_options", "segment_source", "song_options", "stream_settings"]


def stream_settings(workers: int = 1, per_song: int = 12, other: bool = False, **music):
    """Settings of the stream of songs that the options ask for."""
    from recipes.music_prior.songs.song import FIVE_STEMS, STEMS
    from recipes.music_prior.sound.stream import StreamSettings

    stems = FIVE_STEMS if other else STEMS
    return StreamSettings(workers=workers, segments_per_song=per_song, stems=stems, **music)


def segment_source(data_dir, **stream):
    """Packed shards where there are some, else songs rendered on the fly."""
    from recipes.music_prior.training.data import ShardSource

    if data_dir is not None:
        return ShardSource(data_dir), f"shards {Path(data_dir).name}"
    from recipes.music_prior.training.sources import RenderSource

    rendered = RenderSource(stream_settings(**stream))
    return rendered, rendered.identity


def music_options(command):
    """What songs are made of."""
    for option in (
        click.option(
            "--composed-share",
            default=0.5,
            show_default=True,
            help="Share of composed songs beside those of --midi-dir.",
        ),
        click.option(
            "--heldout-soundfont",
            "heldout_soundfonts",
            multiple=True,
            help="Soundfont that is never trained on and alone plays validation (repeatable).",
        ),
        click.option(
            "--soundfont",
            "soundfonts",
            multiple=True,
            help="Soundfont file or folder, or debian (repeatable) [default: debian].",
        ),
        click.option(
            "--midi-dir",
            "midi_dirs",
            multiple=True,
            type=click.Path(exists=True, file_okay=False),
            help="Folder of MIDI songs; may be given several times.",
        ),
    ):
        command = option(command)
    return command


def song_options(command):
    """Where segments come from: songs rendered on the fly, or packed ones."""
    for option in (
        click.option(
            "--per-song",
            default=4,
            show_default=True,
            help="Segments cut from each song, of 6 s or 5/4 of --crop.",
        ),
        click.option(
            "--strange",
            type=click.FloatRange(0, 1),
            default=1.0,
            show_default=True,
            help="How often computed instruments and those of other classes play: of the usual.",
        ),
        click.option("--workers", default=1, show_default=True, help="Processes that render."),
        music_options,
        click.option(
            "--data-dir",
            type=click.Path(exists=True, file_okay=False, path_type=Path),
            help="Folder of packed shards, instead of rendering.",
        ),
    ):
        command = option(command)
    return command
