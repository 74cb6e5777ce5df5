"""The gallery: renders that nothing was trained on, separated by the bundled prior, to listen to.

``docs/gallery/NAME/STEM.ogg`` hold the truth and are kept in the repository; the pages are made
from them whenever the site is built, so they are what the bundled prior does today:

    python -m recipes.site.gallery render docs/gallery      # the six excerpts anew (FluidSynth)
    python -m recipes.site.gallery pages docs/gallery OUT   # separate, score, write the players
"""

from __future__ import annotations

import functools
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import soundfile
import torch

from mgdm_core.array_types import Array, Float

__all__ = ["EXCERPTS", "current_players", "players_markdown", "write_players"]

RATE, SECONDS = 44_100, 8.0
STEMS = ("bass", "drums", "guitar", "piano")


@dataclass(frozen=True)
class Excerpt:
    """Which song: a style of the recipe's composer and a seed that training never uses."""

    name: str
    style: str
    seed: int


EXCERPTS = (
    Excerpt("pop", "pop", 34),
    Excerpt("rock", "rock", 51),
    Excerpt("funk", "funk", 52),
    Excerpt("jazz", "jazz", 53),
    Excerpt("reggae", "reggae", 54),
    Excerpt("ballad", "ballad", 55),
)


def render(excerpt: Excerpt) -> Float[Array, "stems channels samples"]:
    """Render the stems of an excerpt on the presets that are held out from training."""
    from recipes.music_prior.songs.composer.arrange import write_song
    from recipes.music_prior.songs.composer.styles import STYLES
    from recipes.music_prior.sound.render import Fonts, render_song
    from recipes.music_prior.sound.render_files import full_part

    style = next(style for style in STYLES if style.name == excerpt.style)
    song = write_song(np.random.default_rng([excerpt.seed, 1, RATE]), style)
    start = full_part(song, SECONDS)
    fonts = Fonts((), "valid")
    rng = np.random.default_rng([excerpt.seed, 2, 0])
    stems = render_song(song, rng, fonts, RATE, 2, start, SECONDS)
    edge = np.sin(np.linspace(0, np.pi / 2, RATE // 20, dtype=np.float32)) ** 2
    stems[..., : len(edge)] *= edge
    stems[..., -len(edge) :] *= edge[::-1]
    return stems * np.float32(0.7 / np.abs(stems.sum(0)).max())


def read(folder: Path) -> Float[Array, "stems channels samples"]:
    """Read the truth of one excerpt."""
    return np.stack([soundfile.read(folder / f"{s}.ogg", dtype="float32")[0].T for s in STEMS])


def write_players(truth: Path, out: Path) -> list[dict]:
    """Separate the sums of the true stems, write a player for each, and return the scores.

    Parameters
    ----------
    truth : Path
        Folder of the excerpts.
    out : Path
        The players go to ``out/NAME.html``, the scores to ``out/scores.json``.

    Returns
    -------
    list of dict
        Name, and SI-SDR improvement in dB over active windows per stem and in the mean.
    """
    import mgdm_audio
    from mgdm_audio.metrics.silence import active_stem_improvement

    separator = mgdm_audio.Separator.from_pretrained(device="cpu")
    rows = []
    for excerpt in EXCERPTS:
        stems = torch.from_numpy(read(truth / excerpt.name))
        mixture = stems.sum(0)
        result = separator(mixture, RATE)
        scores = active_stem_improvement(
            torch.stack([result.stems[s] for s in STEMS]).mean(1),
            stems.mean(1),
            mixture.mean(0),
            RATE,
        )
        parts = {name: stem.numpy() for name, stem in result.stems.items()}
        _write_player(out, excerpt, parts, mixture.numpy(), result.residual.numpy())
        per_stem = dict(zip(STEMS, (float(v) for v in scores.per_stem)))
        rows.append({"name": excerpt.name, **per_stem, "mean": float(scores.mean)})
    (out / "scores.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")
    return rows


def _write_player(
    out: Path,
    excerpt: Excerpt,
    stems: dict[str, Array],
    mixture: Array,
    residual: Array | None = None,
) -> None:
    from mgdm_audio.listening_page import PageOptions, write_page

    out.mkdir(parents=True, exist_ok=True)
    write_page(
        out / f"{excerpt.name}.html",
        stems,
        mixture,
        RATE,
        residual=residual,
        title=excerpt.name.capitalize(),
        options=PageOptions(overwrite=True),
    )


@functools.cache
def current_players(root: Path, quick: bool = False) -> list[Path]:
    """Players of the gallery as the bundled prior makes them now, written where they are not.

    Parameters
    ----------
    root : Path
        The checkout; players are kept in ``build/gallery`` until the prior or the songs change.
    quick : bool
        The first excerpt alone, its true stems in the place of separated ones, for tests.
    """
    truth = root / "docs" / "gallery"
    out = root / "build" / ("gallery_quick" if quick else "gallery")
    weights = root / "mgdm_audio" / "weights"
    digest = hashlib.sha256()
    for path in [*sorted(weights.glob("*.safetensors")), *sorted(truth.rglob("*.ogg"))]:
        digest.update(path.read_bytes())
    stamp = out / "made_from.txt"
    if not stamp.is_file() or stamp.read_text() != digest.hexdigest():
        if quick:
            stems = read(truth / EXCERPTS[0].name)[..., : 2 * RATE]
            _write_player(out, EXCERPTS[0], dict(zip(STEMS, stems)), stems.sum(0))
            (out / "scores.json").write_text("[]", encoding="utf-8")
        else:
            write_players(truth, out)
        stamp.write_text(digest.hexdigest())
    return [path for e in EXCERPTS if (path := out / f"{e.name}.html").is_file()]


def players_markdown(players: list[Path]) -> str:
    """The players, and below them a table of their scores."""
    rows = json.loads((players[0].parent / "scores.json").read_text(encoding="utf-8"))
    parts = ['<div class="mgdm-players" markdown>', ""]
    for path in players:
        name = path.stem
        parts += [
            f'<iframe class="mgdm-player" src="players/{name}.html" loading="lazy" '
            f'title="Stems of the {name} song, to listen to"></iframe>',
            "",
        ]
    parts += ["</div>", "", "SI-SDR improvement in dB over active windows:", ""]
    columns = (*STEMS, "mean")
    parts += [f"| | {' | '.join(columns)} |", "|---|" + "---:|" * len(columns)]
    for row in rows:
        cells = (f"{row[c]:.1f}" if row[c] == row[c] else "" for c in columns)
        parts.append(f"| {row['name']} | {' | '.join(cells)} |")
    return "\n".join(parts) + "\n"


@click.group()
def main() -> None:
    """Render the gallery's songs, or write its players."""


@main.command("render")
@click.argument("out", type=click.Path(file_okay=False, path_type=Path))
def render_command(out: Path) -> None:
    """Render the excerpts to OUT/NAME/STEM.ogg."""
    for excerpt in EXCERPTS:
        folder = out / excerpt.name
        folder.mkdir(parents=True, exist_ok=True)
        for name, stem in zip(STEMS, render(excerpt)):
            soundfile.write(
                folder / f"{name}.ogg", stem.T, RATE, subtype="VORBIS", compression_level=0.85
            )
        click.echo(str(folder))


@main.command("pages")
@click.argument("truth", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("out", type=click.Path(file_okay=False, path_type=Path))
def pages_command(truth: Path, out: Path) -> None:
    """Separate the excerpts in TRUTH and write players and scores to OUT."""
    for row in write_players(truth, out):
        click.echo(json.dumps(row))


if __name__ == "__main__":
    main()
