"""Everything that a machine without a network needs to train there, in one archive."""

from __future__ import annotations

import ctypes.util
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import click
import torch

from mgdm_audio.io.atomic import replacing
from mgdm_core.errors import MGDMError
from recipes.music_prior.song_options import music_options
from recipes.music_prior.songs.midi_songs import scan
from recipes.music_prior.sound.sf3 import shrink
from recipes.music_prior.sound.soundfonts import find_soundfonts
from recipes.music_prior.sound.voices import LANGUAGES
from recipes.music_prior.training.checkpoints import read_checkpoint
from recipes.music_prior.training.export import read_network

__all__ = ["carry", "kit", "slim", "write_kit"]

ROOT = Path(__file__).resolve().parents[3]
# What a machine for deep learning has not got. (torch, numpy, scipy, safetensors, click and
# lightning it has.)
WHEELS = ("soundfile", "soxr", "mido", "pedalboard", "platformdirs", "rich")
# Of FluidSynth's libraries these are every machine's own; others in their place would break it.
_OWN = re.compile(r"ld-linux|lib(c|m|dl|rt|pthread|resolv|stdc\+\+|gcc_s|gomp|z|zstd|lzma|bz2)\.so")

_RUN = """#!/usr/bin/env bash
# Train here for some minutes: bash run.sh OUT [options of train]; what to take home comes into OUT.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=$(mkdir -p "$1" && cd "$1" && pwd)
shift
export PYTHONPATH="$here/code:$here/site" MGDM_HOME="$here/home" PYTHONUNBUFFERED=1
if [ ! -d "$here/site" ] && compgen -G "$here/wheels/*.whl" > /dev/null; then
  python3 -m pip install -q --no-index --no-deps --target "$here/site" "$here"/wheels/*.whl
fi
export MGDM_FLUIDSYNTH=$(echo "$here"/lib/libfluidsynth.so.*)
export LD_LIBRARY_PATH="$here/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
export PATH="$here/bin:$PATH" ESPEAK_DATA_PATH="$here"
mkdir -p "$here/run"
if compgen -G "$here/last.pt.*" > /dev/null; then cat "$here"/last.pt.* > "$here/run/last.pt"; fi
fonts=()
for font in "$here"/banks/*; do fonts+=(--soundfont "$font"); done
songs=()
[ ! -d "$here/midi" ] || songs=(--midi-dir "$here/midi")
start=()
[ ! -f "$here/start.safetensors" ] || start=(--init "$here/start.safetensors")
cd "$here/code"
python3 -m recipes.music_prior train --out "$here/run" "${fonts[@]}" "${songs[@]}" "${start[@]}" \\
  --workers "$(( $(nproc) > 3 ? $(nproc) - 2 : 1 ))" "$@"
python3 -m recipes.music_prior carry "$here/run/last.pt" "$out"
cp "$here/run/log.csv" "$out"
"""


def slim(checkpoint: Path, out: Path, megabytes: float = 15.0) -> list[Path]:
    """Write a checkpoint in half precision and without the optimizer's state, in pieces.

    A run resumed from it (``cat last.pt.* > RUN/last.pt``) goes on, but not to the same bits.

    Returns
    -------
    list of Path
        ``last.pt.00`` and so on.
    """
    state = read_checkpoint(checkpoint)
    state.pop("optimizer", None)
    for kind in ("network", "average"):
        state[kind] = {
            # Average spectra reach below what half precision holds.
            name: value if name == "average_power" else value.to(torch.bfloat16)
            for name, value in state[kind].items()
        }
    out.mkdir(parents=True, exist_ok=True)
    whole = out / "last.pt.part"
    torch.save(state, whole)
    pieces = []
    with whole.open("rb") as file:
        while block := file.read(round(megabytes * 1e6)):
            pieces.append(out / f"last.pt.{len(pieces):02d}")
            pieces[-1].write_bytes(block)
    whole.unlink()
    return pieces


def write_kit(
    out: Path,
    soundfonts: tuple[str, ...],
    midi_dirs: tuple[str, ...] = (),
    init: Path | None = None,
    python: str = "3.12",
    wheels: tuple[str, ...] = WHEELS,
) -> int:
    """Write the archive; its ``run.sh`` does the rest.

    Parameters
    ----------
    out
        Archive to write (.tar.xz).
    soundfonts, midi_dirs
        As for training; samples are taken to 22 050 Hz and compressed.
    init
        Exported weights to start from.
    python
        Version of the other machine's Python (x86-64 Linux); its torch is used.
    wheels
        Packages to bring.

    Returns
    -------
    int
        Bytes written.

    Raises
    ------
    MGDMError
        Where the FluidSynth library or espeak-ng is missing, a wheel cannot be had, or no training
        goes on from ``init``.
    """
    if init is not None:
        read_network(init)  # what the run would refuse there is refused here
    with tempfile.TemporaryDirectory() as place:
        kit = Path(place) / "kit"
        for name in ("bin", "lib", "banks", "wheels"):
            (kit / name).mkdir(parents=True)
        (kit / "run.sh").write_text(_RUN, encoding="utf-8")
        _add_code(kit / "code")
        _add_library(kit / "lib")
        _add_voices(kit)
        _add_wheels(kit / "wheels", python, wheels)
        fonts = find_soundfonts(soundfonts)
        with ProcessPoolExecutor() as pool:
            list(pool.map(shrink, fonts, [kit / "banks" / f"{font.stem}.sf3" for font in fonts]))
        for folder in midi_dirs:
            for song in scan(Path(folder)):
                to = kit / "midi" / Path(folder).name / song.relative_to(folder)
                to.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(song, to)
        if init is not None:
            shutil.copy(init, kit / "start.safetensors")
        with replacing(out) as partial, tarfile.open(partial, "w:xz") as archive:
            archive.add(kit, "kit")
    return out.stat().st_size


def _add_code(folder: Path) -> None:
    ignored = shutil.ignore_patterns("__pycache__", "examples", "player", "*.safetensors")
    for package in ("mgdm_core", "mgdm_audio", "recipes"):
        shutil.copytree(ROOT / package, folder / package, ignore=ignored)


def _add_library(folder: Path) -> None:
    """FluidSynth and the libraries that it needs."""
    name = ctypes.util.find_library("fluidsynth")
    if name is None:
        raise MGDMError("no FluidSynth library to pack; run `apt-get install libfluidsynth3`")
    told = subprocess.run(["ldconfig", "-p"], capture_output=True, text=True, check=True).stdout
    found = re.search(rf"{re.escape(name)} .*=> (\S+)", told)
    assert found is not None
    shutil.copy(found[1], folder / Path(found[1]).name)
    _add_needed(found[1], folder)


def _add_needed(binary: str, folder: Path) -> None:
    needed = subprocess.run(["ldd", binary], capture_output=True, text=True, check=True).stdout
    for library in re.findall(r"=> (/\S+)", needed):
        if not _OWN.match(Path(library).name):
            shutil.copy(library, folder / Path(library).name)


def _add_voices(kit: Path) -> None:
    """espeak-ng, its libraries, and of its languages those that sing here."""
    speaker = shutil.which("espeak-ng")
    if speaker is None:
        raise MGDMError("no espeak-ng to pack; run `apt-get install espeak-ng`")
    shutil.copy(speaker, kit / "bin" / "espeak-ng")
    _add_needed(speaker, kit / "lib")
    told = subprocess.run([speaker, "--version"], capture_output=True, text=True, check=True).stdout
    data = Path(told.rpartition("Data at:")[2].strip())
    spoken = {language.split("-")[0] for language in LANGUAGES}

    def unspoken(folder: str, names: list[str]) -> list[str]:
        return [n for n in names if n.endswith("_dict") and n.removesuffix("_dict") not in spoken]

    shutil.copytree(data, kit / "espeak-ng-data", ignore=unspoken)


def _add_wheels(folder: Path, python: str, names: tuple[str, ...]) -> None:
    platforms = [f"manylinux_2_{n}_x86_64" for n in (39, 34, 31, 28, 27, 24, 17)]
    platforms += ["manylinux2014_x86_64", "manylinux1_x86_64"]
    where = [part for name in platforms for part in ("--platform", name)]
    for name in names:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--only-binary=:all:", "--python-version", python, "--implementation", "cp"]
        done = subprocess.run(
            [*command, *where, "--dest", str(folder), name], capture_output=True, text=True
        )
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["pip failed"])[-1]
            raise MGDMError(f"no wheel of {name} for Python {python}: {reason}")


@click.command()
@click.argument("out", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--init",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Exported weights to start from.",
)
@click.option("--python", default="3.12", show_default=True, help="The other machine's version.")
@music_options
def kit(out: Path, init: Path | None, python: str, soundfonts, midi_dirs, **_other) -> None:
    """Pack what a machine without a network needs to train there, into the archive OUT (.tar.xz).

    There: tar xf OUT && bash kit/run.sh HOME --preset gpu-9min --minutes 9. Pieces of a checkpoint
    come into HOME; laid beside run.sh, the next call goes on from them.
    """
    size = write_kit(out, soundfonts, midi_dirs, init, python)
    click.echo(f"{out}: {size / 1e6:.1f} MB")


@click.command()
@click.argument("checkpoint", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("out", type=click.Path(file_okay=False, path_type=Path))
@click.option("--megabytes", default=15.0, show_default=True, help="Most of one piece.")
def carry(checkpoint: Path, out: Path, megabytes: float) -> None:
    """Write CHECKPOINT into the folder OUT in pieces, half precision, without optimizer."""
    pieces = slim(checkpoint, out, megabytes)
    size = sum(piece.stat().st_size for piece in pieces)
    click.echo(f"{len(pieces)} pieces, {size / 1e6:.1f} MB in {out}")
