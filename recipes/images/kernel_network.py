"""Nonlinear blur by the published kernel network (Tran et al. 2021, arXiv 2104.00317).

Only the half of the network that blurs a sharp image with a kernel code is built here; a
checkpoint's ``kernel_extractor.*`` entries are left unread. The names of the tensors are the
format of the published checkpoint ``GOPRO_wVAE.pth``; widths and depths are read off the shapes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch.nn import functional

from mgdm_core.array_types import Float, Tensor
from mgdm_core.operators import Operator
from recipes.images.errors import WeightsError
from recipes.images.tensor_files import UnreadableTensors, read_tensors

__all__ = ["HOW_TO_GET", "KernelNetworkBlur", "load_kernel_network"]

HOW_TO_GET = (
    "download GOPRO_wVAE.pth (model zoo of github.com/VinAIResearch/blur-kernel-space-exploring) "
    "and pass it with --kernel-weights; the task gamma_blur needs no weights"
)


def load_kernel_network(path: str | Path | None) -> dict[str, Float[Tensor, "..."]]:
    """Tensors of the blurring half of the published checkpoint, read without running it.

    Raises
    ------
    WeightsError
        If there is no such file, or it is not that checkpoint; the message says how to get it.
    """
    if path is None:
        raise WeightsError(f"nonlinear_blur needs the published kernel network: {HOW_TO_GET}")
    file = Path(path)
    if not file.is_file():
        raise WeightsError(f"no kernel network at {file}: {HOW_TO_GET}")
    try:
        state = read_tensors(file)
    except UnreadableTensors as error:
        raise WeightsError(f"{file} cannot be read safely ({error}): {HOW_TO_GET}") from error
    wanted = ("feature_extractor.", "adapter.", "recon_trunk.")
    kept = {k: v.float() for k, v in state.items() if k.startswith(wanted)}
    for name in ("feature_extractor.4.weight", "adapter.model.down.0.weight"):
        if name not in kept:
            raise WeightsError(f"{file} has no tensor {name!r}: {HOW_TO_GET}")
    return kept


def _count(state: Mapping[str, Tensor], prefix: str, suffix: str, start: int) -> int:
    """Consecutive modules ``prefix{start}suffix``, ..."""
    index = start
    while f"{prefix}{index}{suffix}" in state:
        index += 1
    return index - start


class KernelNetworkBlur(Operator):
    """Sharp image and one fixed kernel code to blurred image.

    The code is drawn once, here, from the generator, so that data and likelihood agree. Images
    whose sides are no multiple of 128 are extended by their edge.

    Parameters
    ----------
    state : mapping of str to Tensor
        From :func:`load_kernel_network`.
    height, width : int
    generator : torch.Generator
    scale : float
        Deviation of the code's entries (1.2 in the published experiments).
    """

    def __init__(
        self,
        state: Mapping[str, Tensor],
        height: int,
        width: int,
        generator: torch.Generator,
        scale: float = 1.2,
    ) -> None:
        self.state = dict(state)
        self._front = _count(state, "feature_extractor.", ".conv1.weight", 6)
        self._back = _count(state, "recon_trunk.", ".conv1.weight", 0)
        depth, name = 1, "adapter.model.submodule"
        while f"{name}.down.1.weight" in state:
            depth, name = depth + 1, f"{name}.submodule"
        self._depth = depth
        innermost = "adapter.model" + ".submodule" * (depth - 1)
        channels = state[f"{innermost}.down.{0 if depth == 1 else 1}.weight"].shape[0]
        side = 4 * 2**depth
        rows, columns = -(-height // side), -(-width // side)
        self._size = (rows * side, columns * side)
        self.code = scale * torch.randn(1, channels, rows, columns, generator=generator)

    def _conv(self, x: Tensor, name: str, stride: int = 1, padding: int | None = None) -> Tensor:
        weight = self.state[f"{name}.weight"].to(x)
        bias = self.state.get(f"{name}.bias")
        pad = weight.shape[-1] // 2 if padding is None else padding
        return functional.conv2d(x, weight, None if bias is None else bias.to(x), stride, pad)

    def _residual(self, x: Tensor, name: str) -> Tensor:
        inner = functional.relu(self._conv(x, f"{name}.conv1"))
        return x + self._conv(inner, f"{name}.conv2")

    def _up(self, x: Tensor, name: str) -> Tensor:
        x = functional.relu(x)
        for layer in (0, 2):
            x = functional.relu(self._conv(x, f"{name}.up.1.double_conv.{layer}"))
        return functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)

    def _adapt(self, x: Tensor, code: Tensor, name: str, level: int) -> Tensor:
        """U-net block ``level``; the code joins the features at the innermost one."""
        if level > 0:
            # The published block rectifies its input in place, so its skip is rectified too.
            x = functional.leaky_relu(x, 0.2)
        inner = self._conv(x, f"{name}.down.{min(level, 1)}", stride=2, padding=1)
        if level + 1 == self._depth:
            inner = torch.cat([inner, code.to(x).expand(len(x), -1, -1, -1)], 1)
        else:
            inner = self._adapt(inner, code, f"{name}.submodule", level + 1)
        up = self._up(inner, name)
        return torch.tanh(up) if level == 0 else torch.cat([up, x], 1)

    def forward(
        self, x: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        """Blurred image, clipped to [-1, 1]."""
        height, width = x.shape[-2:]
        extra = (0, self._size[1] - width, 0, self._size[0] - height)
        sharp = functional.pad(0.5 * (x + 1), extra, mode="replicate")
        h = sharp
        for layer, stride in ((0, 1), (2, 2), (4, 2)):
            h = functional.leaky_relu(self._conv(h, f"feature_extractor.{layer}", stride), 0.1)
        for k in range(self._front):
            h = self._residual(h, f"feature_extractor.{6 + k}")
        h = self._adapt(h, self.code, "adapter.model", 0)
        for k in range(self._back):
            h = self._residual(h, f"recon_trunk.{k}")
        first = self._back
        for layer in (first, first + 3):
            h = functional.pixel_shuffle(self._conv(h, f"recon_trunk.{layer}"), 2)
            h = functional.leaky_relu(h, 0.1)
        h = functional.leaky_relu(self._conv(h, f"recon_trunk.{first + 6}"), 0.1)
        blurred = sharp + self._conv(h, f"recon_trunk.{first + 8}")
        return (2 * blurred - 1)[..., :height, :width].clamp(-1, 1)
