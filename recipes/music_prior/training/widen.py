"""A wider network that computes what a narrower one does, to go on training from.

Every channel of the narrow network is there several times in the wide one, and what reads it reads
the copies in random proportions (Chen et al. 2016, "Net2Net", arXiv 1511.05641, section 2.3). Some
noise on the weights makes the copies differ.
"""

from __future__ import annotations

import torch

from mgdm_audio.priors.spectral_network import ChannelLayout, SpectralNetwork
from mgdm_core.array_types import Tensor
from mgdm_core.errors import SettingsError

__all__ = ["widened"]


def widened(
    narrow: SpectralNetwork, wide: SpectralNetwork, noise: float, generator: torch.Generator
) -> dict[str, Tensor]:
    """Weights that make one network compute what another does.

    Parameters
    ----------
    narrow : SpectralNetwork
        Network to take over.
    wide : SpectralNetwork
        Network to fill, which differs in nothing but widths and heads: multiples of the narrow
        network's, the channels per head being the same (``channel_layout`` says how they lie).
    noise : float
        Deviation of the noise on weights that are widened, as a share of their root mean square.
        Without it the outputs are the same but for rounding.
    generator : torch.Generator
        Random stream.

    Returns
    -------
    dict of str to Tensor
        For ``wide.load_state_dict``.

    Raises
    ------
    SettingsError
        If the narrow network does not fit into the wide one.
    """
    if type(narrow) is not type(wide):
        raise SettingsError(
            f"a network is widened into one of its own kind; found {type(narrow).__name__} and "
            f"{type(wide).__name__}"
        )
    layout = wide.channel_layout
    if narrow.channel_layout.head != layout.head:
        raise SettingsError(
            f"a network is widened by whole heads: found {layout.head} channels per head, "
            f"the narrow network has {narrow.channel_layout.head}"
        )
    found = narrow.state_dict()
    shapes = {name: value.shape for name, value in wide.state_dict().items()}
    if found.keys() != shapes.keys():
        odd = sorted(found.keys() ^ shapes.keys())
        raise SettingsError(f"a network is widened, not deepened; only one of the two has {odd[0]}")
    for name, shape in shapes.items():
        if found[name].shape == shape:
            continue
        weight = _repeated(name, found[name], shape, layout, generator)
        if weight.ndim > 1 and min(weight.shape[:2]) > 1:
            size = noise * weight.square().mean().sqrt()
            weight = weight + size * torch.randn(shape, generator=generator)
        found[name] = weight
    return found


def _repeated(
    name: str,
    weight: Tensor,
    shape: torch.Size,
    layout: ChannelLayout,
    generator: torch.Generator,
) -> Tensor:
    if weight.ndim != len(shape) or any(new % old for new, old in zip(shape, weight.shape)):
        raise SettingsError(
            f"{name} of shape {tuple(weight.shape)} cannot be repeated into {tuple(shape)}: widths "
            f"must be multiples of the narrow network's, and all else the same"
        )
    path = name.split(".")
    blocks = next((count for layer, count in layout.blocks.items() if layer in path), 1)
    outputs, inputs = layout.axes.get(path[0], (0, 1))
    if weight.ndim == 1:
        outputs = 0
    weight = _copies(weight, shape[outputs], outputs, blocks)
    if weight.shape == shape:
        return weight
    # What reads a channel reads its copies, each in a share of its own.
    old, new = weight.shape[inputs], shape[inputs]
    parts = [1] * weight.ndim
    parts[outputs], parts[inputs] = weight.shape[outputs], new
    shares = (0.5 + torch.rand(parts, generator=generator)).unflatten(inputs, (new // old, old))
    shares = (shares / shares.sum(inputs, keepdim=True)).flatten(inputs, inputs + 1)
    return _copies(weight, new, inputs, 1) * shares


def _copies(weight: Tensor, count: int, axis: int, blocks: int) -> Tensor:
    """Channels of an axis, each block by itself, repeated until there are ``count``."""
    size = weight.shape[axis] // blocks
    order = torch.arange(blocks)[:, None] * size
    order = order + torch.arange(size).repeat(count // weight.shape[axis])
    return weight.index_select(axis, order.flatten())
