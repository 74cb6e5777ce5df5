"""A network that goes on from one with less: fewer stems, or fewer trunks.

Every weight that both have is taken over; what is new starts where it changes nothing. Features
and outputs of the stems lie in blocks, one number per stem (`STFTUNet`), so a stem more is a row
more in each block: zero for what reads the new stem, zero for what decides it, so that it gets what
average spectra give it.
"""

from __future__ import annotations

import torch

from mgdm_audio.priors.stft_unet.network import STFTUNet
from mgdm_core.array_types import Float, Int, Tensor
from mgdm_core.errors import SettingsError

__all__ = ["grown"]

# Magnitude, cosine and share of every stem come before what is seen of the sum.
_FEATURE_BLOCKS = 3
# Masks and shares of every stem come before the gate.
_OUTPUT_BLOCKS = 2


def grown(
    origin: STFTUNet, network: STFTUNet, average_power: Float[Tensor, "stems bins"]
) -> dict[str, Tensor]:
    """Weights that make a network of more stems, or with more trunks, begin as a smaller one.

    Parameters
    ----------
    origin : STFTUNet
        Network to take over. Its stems are the first of the new network's.
    network : STFTUNet
        Freshly made; its other sizes are those of ``origin``.
    average_power : Tensor, shape (stems, bins)
        Average power spectra of all stems of the new network; those of new stems are used.

    Returns
    -------
    dict
        State of the new network.

    Raises
    ------
    SettingsError
        If the origin has something that the new network lacks, its sizes are others, or a trunk
        that it has is deeper in the new network: layers within one change what it says.
    """
    few, many = origin.config.stems, network.config.stems
    if few > many:
        raise SettingsError(f"a network cannot lose stems: {few} into {many}")
    found = origin.state_dict()
    result = {name: value.clone() for name, value in network.state_dict().items()}
    unknown = sorted(set(found) - set(result))
    if unknown:
        raise SettingsError(
            f"{type(network).__name__} cannot go on from {type(origin).__name__}: "
            f"it has no {unknown[0]}"
        )
    trunks = {_trunk(name) for name in found}
    deeper = sorted(name for name in set(result) - set(found) if _trunk(name) in trunks)
    if deeper:
        raise SettingsError(
            f"a network goes on with more stems or trunks, not with deeper ones; "
            f"the network to start from has no {deeper[0]}"
        )
    features = _places(few, many, _FEATURE_BLOCKS, origin.features - _FEATURE_BLOCKS * few)
    outputs = _places(few, many, _OUTPUT_BLOCKS, origin.outputs - _OUTPUT_BLOCKS * few)
    for name, value in found.items():
        if value.shape == result[name].shape:
            result[name] = value
        elif few == many:
            raise SettingsError(
                f"{name} of shape {tuple(value.shape)} does not fit {tuple(result[name].shape)}"
            )
        else:
            patch = origin.config.frame_patch
            if name.startswith("path_"):
                patch = origin.config.path_patch  # type: ignore[attr-defined]
            result[name] = _with_stems(name, value, result[name], features, outputs, patch)
    if many > few:
        new = torch.arange(few, many)
        power = average_power[new]
        result["average_power"][new] = power
        ratio = power[:, None, : network.config.n_fft // 2] / network.config.sigma_data**2
        result["log_prior"][new] = ratio.clamp(1e-4, 1e4).log()
        result["evidence"][new] = found["evidence"].mean(0, keepdim=True)
    return result


def _trunk(name: str) -> str:
    """The part of the network that a weight belongs to; summaries are parts of their own."""
    first, second = [*name.split(".", 2), ""][:2]
    return f"{first}.{second}" if second == "summaries" else first


def _places(few: int, many: int, blocks: int, rest: int) -> Int[Tensor, " old"]:
    """Where each of the old numbers lies among the new ones."""
    stems = torch.arange(few) + many * torch.arange(blocks)[:, None]
    return torch.cat([stems.flatten(), blocks * many + torch.arange(rest)])


def _with_stems(
    name: str, old: Tensor, new: Tensor, features: Tensor, outputs: Tensor, patch: int
) -> Tensor:
    """An old weight in the shape of the new one, zero where the new stems are."""
    layer = name.split(".")[0]
    result = torch.zeros_like(new)
    if layer in ("average_power", "log_prior", "evidence"):
        result[: len(old)] = old
    elif layer == "absence":
        result[:, : old.shape[1]] = old
    elif layer == "bias" or name == "bin_network.last.weight":
        result[outputs] = old
    elif name in ("bin_network.first.weight", "path_features.weight", "pitch.features.weight"):
        # What else the bin network reads, of the sum, comes last.
        rest = torch.arange(len(features), old.shape[1]) + new.shape[1] - old.shape[1]
        result[:, torch.cat([features, rest])] = old
    elif layer == "encoder":
        groups = old.shape[1] // len(features)
        shaped = result.reshape(len(new), -1, groups, new.shape[2])
        shaped[:, features] = old.reshape(len(old), len(features), groups, old.shape[2])
    elif layer in ("decoder", "path_decoder"):
        # A band's outputs lie by frame of the patch, output and bin.
        width = old.shape[2] // (patch * len(outputs))
        shaped = result.reshape(*new.shape[:2], patch, -1, width)
        shaped[..., outputs, :] = old.reshape(*old.shape[:2], patch, len(outputs), width)
    else:
        raise SettingsError(f"{name} of shape {tuple(old.shape)} does not fit {tuple(new.shape)}")
    return result
