"""Several exported priors as one, the mean of what their networks estimate; and one of several."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click
import torch

from mgdm_audio.priors.checkpoint.header import PriorHeader
from mgdm_audio.priors.checkpoint.store import load_prior, save_prior
from mgdm_audio.priors.ensemble import Ensemble, EnsembleConfig
from mgdm_audio.priors.networks import NetworkConfig, kind_of
from mgdm_audio.priors.spectral_network import SpectralNetwork
from mgdm_core.errors import MGDMError, SettingsError

__all__ = ["join", "joined", "part", "taken"]

# What the members' facts hold and is the whole's as a sum.
_SUMS = ("seconds", "cpu_seconds", "audio_seconds", "steps")


def joined(
    members: Sequence[Path], weights: Sequence[float], out: Path, dtype: torch.dtype = torch.float16
) -> PriorHeader:
    """Write a prior whose network is the weighted mean of others.

    Parameters
    ----------
    members : sequence of Path
        Exported priors of networks on spectra, of the same stems, rate, levels and licence. The
        first gives the ensemble its spectrum, its average spectra, its window and its name.
    weights : sequence of float
        One per member; positive, summing to 1.
    out : Path
        File to write, ending in ``.safetensors``; none of the members.
    dtype : torch.dtype
        As for ``export``.

    Raises
    ------
    SettingsError
        If the members do not fit each other or their weights, or ``out`` is one of them.
    MGDMError
        If one of them is no prior of a network on spectra.
    """
    for path in members:
        _check_other(path, out)
    priors = [load_prior(path, device="cpu", precision="float32") for path in members]
    for path, prior in zip(members, priors, strict=True):
        if not isinstance(prior.network, SpectralNetwork):
            raise MGDMError(
                f"{path} holds no network on spectra; found {type(prior.network).__name__}"
            )
        for name in ("stems", "rate", "levels", "licence"):
            mine, first = getattr(prior, name), getattr(priors[0], name)
            if mine != first:
                raise SettingsError(
                    f"members of an ensemble have one {name}; {path} has {mine}, "
                    f"{members[0]} has {first}"
                )
    configs: list[NetworkConfig] = [prior.network.config for prior in priors]  # type: ignore[misc]
    config = EnsembleConfig.of(configs, weights)
    network = config.build()
    for member, prior in zip(network.members, priors, strict=True):  # type: ignore[call-overload]
        member.load_state_dict(prior.network.state_dict())
    first = priors[0]
    assert first.levels is not None
    known = [name for name in _SUMS if all(name in prior.training for prior in priors)]
    training = {
        "members": [
            {**prior.training, "checksum": prior.checksum, "kind": prior.kind} for prior in priors
        ],
        **{name: sum(prior.training[name] for prior in priors) for name in known},
        "mixture_rms": first.training.get("mixture_rms", 0.1),
    }
    return save_prior(
        out,
        network,
        kind="ensemble",
        config=config.to_dict(),
        stems=first.stems,
        rate=first.rate,
        window=first.window,
        sigma_data=config.sigma_data,
        levels=first.levels,
        licence=first.licence,
        training=training,
        name=first.name,
        dtype=dtype,
    )


def _check_other(read: Path, out: Path) -> None:
    if out.resolve() == read.resolve():
        raise SettingsError(f"{out} is what is read; write to another file")


def taken(
    ensemble: Path, member: int, out: Path, dtype: torch.dtype = torch.float16
) -> PriorHeader:
    """Write one member of an ensemble as a prior of its own: what a training goes on from.

    Its window, name and licence are the ensemble's; facts of its training are what the ensemble
    says of it, if it does.

    Parameters
    ----------
    ensemble : Path
        As :func:`joined` wrote it.
    member : int
        Its number, from 0.
    out : Path
        File to write, ending in ``.safetensors``; not the ensemble.
    dtype : torch.dtype
        As for ``export``.

    Raises
    ------
    SettingsError
        If it has no such member, or ``out`` is the ensemble.
    MGDMError
        If the file is no ensemble.
    """
    _check_other(ensemble, out)
    prior = load_prior(ensemble, device="cpu", precision="float32")
    network = prior.network
    if not isinstance(network, Ensemble):
        raise MGDMError(f"{ensemble} is no ensemble; it is a network of its own already")
    count = len(network.members)
    if not 0 <= member < count:
        raise SettingsError(f"{ensemble} has members 0 to {count - 1}; found {member}")
    config = network.config.configs[member]
    said = prior.training.get("members")
    facts = said[member] if isinstance(said, list) and len(said) == count else {}
    if not isinstance(facts, dict):
        facts = {}
    assert prior.levels is not None
    return save_prior(
        out,
        network.members[member],
        kind=kind_of(config),
        config=config.to_dict(),
        stems=prior.stems,
        rate=prior.rate,
        window=prior.window,
        sigma_data=config.sigma_data,
        levels=prior.levels,
        licence=prior.licence,
        training={key: facts[key] for key in facts if key not in ("kind", "checksum")},
        name=prior.name,
        dtype=dtype,
    )


@click.command()
@click.argument("members", nargs=-1, required=True, type=click.Path(dir_okay=False, path_type=Path))
@click.option("--out", required=True, type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--weight", "weights", type=float, multiple=True, help="Of each member  [default: all equal]."
)
def join(members: tuple[Path, ...], out: Path, weights: tuple[float, ...]) -> None:
    """Write one prior that estimates the mean of what the exported MEMBERS estimate."""
    given = weights or (1 / len(members),) * len(members)
    header = joined(members, given, out)
    click.echo(f"{out}: {len(members)} members, checksum {header.checksum[:16]}")


@click.command()
@click.argument("ensemble", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("member", type=int)
@click.option("--out", required=True, type=click.Path(dir_okay=False, path_type=Path))
def part(ensemble: Path, member: int, out: Path) -> None:
    """Write MEMBER (from 0) of an ENSEMBLE as a prior of its own, for train --init."""
    header = taken(ensemble, member, out)
    click.echo(f"{out}: {header.network}, checksum {header.checksum[:16]}")
