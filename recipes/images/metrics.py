"""PSNR, SSIM and LPIPS of restorations, from torchmetrics."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch.nn import functional

from mgdm_core.array_types import Float, Tensor
from recipes.images.errors import ImageError

__all__ = ["LPIPS", "measure_words", "psnr", "ssim"]


def _functional():
    try:
        from torchmetrics.functional import image
    except ImportError as error:
        raise ImageError("metrics need torchmetrics; pip install torchmetrics") from error
    return image


def psnr(
    x: Float[Tensor, "batch channels height width"],
    truth: Float[Tensor, "batch channels height width"],
) -> Float[Tensor, " batch"]:
    """Peak signal-to-noise ratio per image in dB, the peak being the range [-1, 1]."""
    return _functional().peak_signal_noise_ratio(
        x, truth, data_range=(-1.0, 1.0), reduction="none", dim=(1, 2, 3)
    )


def ssim(
    x: Float[Tensor, "batch channels height width"],
    truth: Float[Tensor, "batch channels height width"],
) -> Float[Tensor, " batch"]:
    """Structural similarity per image (Gaussian window of 11, smaller on smaller images).

    Wang et al. 2004 define it for intensities of at least 0: in [-1, 1] the luminance term of two
    opposite images is negative, and its product with the negative structure term is not.
    """
    side = min(x.shape[-2:])
    window = min(11, side - 1 + side % 2)
    value = _functional().structural_similarity_index_measure(
        (0.5 * (x + 1)).clamp(0, 1),
        (0.5 * (truth + 1)).clamp(0, 1),
        gaussian_kernel=side >= 11,
        kernel_size=window,
        data_range=1.0,
        reduction="none",
    )
    return value.reshape(-1)  # type: ignore[union-attr]


class LPIPS:
    """Learned perceptual distance (Zhang et al. 2018), where its network can be had.

    AlexNet's weights are fetched on the first use. Where that fails, :attr:`reason` says
    why and every value is NaN.
    """

    def __init__(self) -> None:
        self.reason: str | None = None
        self._net = None
        try:
            from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self._net = LearnedPerceptualImagePatchSimilarity(net_type="alex").eval()
        except ImportError as error:
            reason = str(error).splitlines()[0]
            self.reason = f"LPIPS is empty: it needs torchvision and torchmetrics ({reason})"
        except (OSError, RuntimeError) as error:  # no network; a download that broke off
            reason = (str(getattr(error, "reason", error)).splitlines() or ["no reason given"])[0]
            self.reason = (
                f"LPIPS is empty: it needs torchvision's weights of AlexNet, which are not in "
                f"{Path(torch.hub.get_dir()) / 'checkpoints'} and could not be fetched ({reason}); "
                f"they are fetched the first time that there is a network"
            )

    @classmethod
    def absent(cls, reason: str) -> LPIPS:
        """Return one that measures nothing, for ``reason``."""
        empty = object.__new__(cls)
        empty.reason, empty._net = reason, None
        return empty

    def __call__(
        self,
        x: Float[Tensor, "batch channels height width"],
        truth: Float[Tensor, "batch channels height width"],
    ) -> Float[Tensor, " batch"]:
        """Distance per image; images under 64 pixels are enlarged to 64, grey ones tripled."""
        if self._net is None:
            return torch.full((len(x),), math.nan)
        values = []
        with torch.no_grad():
            for pair in zip(x, truth):
                a, b = (self._prepare(image[None]) for image in pair)
                values.append(self._net(a, b).reshape(()))
        return torch.stack(values)

    @staticmethod
    def _prepare(x: Tensor) -> Tensor:
        x = x.float().clamp(-1, 1).expand(-1, 3, -1, -1)
        side = min(x.shape[-2:])
        if side < 64:
            x = functional.interpolate(
                x, scale_factor=64 / side, mode="bilinear", align_corners=False
            ).clamp(-1, 1)
        return x


def measure_words(metrics: Mapping[str, float]) -> str:
    """One line with the metrics of an image."""
    line = f"PSNR {metrics['psnr_mean']:.1f} dB · SSIM {metrics['ssim_mean']:.3f}"
    if math.isfinite(metrics.get("lpips_sample", math.nan)):
        line += f" · LPIPS {metrics['lpips_sample']:.3f}"
    return line
