"""The image tasks by name: an operator for this image size, and how to show its observation.

The published parameters are for 256 x 256 pixels. Masks take the same shares of each side; blurs
keep their ratio to the shorter side, but never fall below ``MIN_SIGMA`` pixels or ``MIN_KERNEL``
taps, since a blur narrower than a pixel is none; blocks, JPEG quality, gain and oversampling stay
as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from mgdm_core.array_types import Bool, Float, Tensor
from mgdm_core.errors import SettingsError
from mgdm_core.operators import (
    JPEG,
    BlockMeans,
    GammaBlur,
    HighDynamicRange,
    LinearOperator,
    Mask,
    Operator,
    PhaseRetrieval,
    ReflectBlur,
    SeparableBlur,
    SpectralOperator,
    centre_mask,
    conjugate_gradient,
    expand_mask,
    gaussian_taps,
    half_mask,
    motion_kernel,
)
from recipes.images.errors import ImageError, TaskError
from recipes.images.kernel_network import KernelNetworkBlur, load_kernel_network

__all__ = ["LINEAR_TASKS", "TASKS", "Degradation", "TaskInfo", "build_task", "task_names"]

MIN_SIGMA = 1.0
MIN_KERNEL = 7


@dataclass(frozen=True)
class Degradation:
    """One task at one image size.

    Attributes
    ----------
    name : str
    operator : Operator
        Maps images (batch, channels, height, width) in [-1, 1] to observations.
    event_shape : tuple of int
        (channels, height, width).
    keep : Tensor of bool or None
        For masks: True where a pixel is observed, shape (height, width).
    """

    name: str
    operator: Operator
    event_shape: tuple[int, int, int]
    keep: Bool[Tensor, "height width"] | None = None

    @property
    def linear(self) -> bool:
        """Whether the operator is linear."""
        return isinstance(self.operator, LinearOperator)

    def degrade(
        self,
        x: Float[Tensor, "batch channels height width"],
        sigma_y: float,
        generator: torch.Generator,
    ) -> Float[Tensor, "batch ..."]:
        """A(x) plus white noise of deviation ``sigma_y``."""
        y = self.operator.forward(x)
        noise = torch.randn(y.shape, generator=generator, dtype=torch.float64)
        return y + sigma_y * noise.to(y)

    def pseudo_inverse(
        self, y: Float[Tensor, "batch ..."], sigma_y: float
    ) -> Float[Tensor, "batch channels height width"] | None:
        """Least-norm image that explains y, without what the noise drowns; None if nonlinear.

        With singular values, those below ``sigma_y`` are dropped; without them (motion blur) the
        least-squares problem is regularised by sigma_y^2 ||x||^2. Both are far better
        than the plain pseudo-inverse of a blur, which only amplifies noise.
        """
        operator = self.operator
        if not isinstance(operator, LinearOperator):
            return None
        if isinstance(operator, SpectralOperator):
            svd = operator.svd(self.event_shape, y)
            kept = svd.values > sigma_y
            gain = kept / torch.where(kept, svd.values, torch.ones_like(svd.values))
            return svd.v(svd.u_t(y) * gain)
        back = operator.adjoint
        return back(conjugate_gradient(lambda u: operator.forward(back(u)) + sigma_y**2 * u, y))

    def picture(
        self, y: Float[Tensor, "batch ..."]
    ) -> Float[Tensor, "batch channels rows columns"]:
        """Observation as an image in [-1, 1]; missing pixels are NaN, spectra on a log scale."""
        if self.keep is not None:
            missing = ~self.keep.expand(self.event_shape)
            filled = self.operator.adjoint(y)  # type: ignore[attr-defined]
            return filled.masked_fill(missing.to(y.device), float("nan"))
        if isinstance(self.operator, PhaseRetrieval):
            # Two decades show the rings; a spectrum's centre alone would outshine all the rest.
            peak = y.amax((-3, -2, -1), keepdim=True).clamp_min(1e-9)
            scaled = (100 * y.clamp_min(0) / peak).log1p()
            return 2 * scaled / scaled.amax((-3, -2, -1), keepdim=True).clamp_min(1e-9) - 1
        return y

    def observe(self, picture: Float[Tensor, "channels rows columns"]) -> Float[Tensor, "..."]:
        """Return the observation in a degraded image taken as it is; the inverse of a picture.

        Raises
        ------
        ImageError
            If its size is not the one that this task gives.
        """
        if self.keep is not None:
            expected = self.event_shape
        else:
            probe = torch.zeros(1, *self.event_shape, dtype=torch.float32)
            expected = tuple(self.operator.forward(probe).shape[1:])
        if tuple(picture.shape) != tuple(expected):
            raise ImageError(
                f"an observation of {self.name} for images of {_size(self.event_shape)} has "
                f"{_size(expected)}; found {_size(tuple(picture.shape))}"
            )
        if self.keep is not None:
            return self.operator.forward(picture[None])[0]
        return picture


def _size(shape: tuple[int, ...]) -> str:
    if len(shape) != 3:
        return f"an array of shape {shape}"
    return f"{shape[1]} x {shape[2]} pixels and {shape[0]} channel(s)"


@dataclass(frozen=True)
class Geometry:
    """What a builder gets: image shape, a generator for random kernels, and optional weights."""

    shape: tuple[int, int, int]
    generator: torch.Generator
    kernel_weights: Path | None

    @property
    def sigma(self) -> float:
        """Deviation of the Gaussian blur: 3 at 256 pixels."""
        return max(3.0 * min(self.shape[1:]) / 256, MIN_SIGMA)

    @property
    def kernel_side(self) -> int:
        """Odd side of the motion kernel: 61 at 256 pixels."""
        return max(2 * round(30 * min(self.shape[1:]) / 256) + 1, MIN_KERNEL)


Built = tuple[Operator, Tensor | None]


def _mask(maker: Callable[[int, int], Tensor]) -> Callable[[Geometry], Built]:
    def build(g: Geometry) -> Built:
        keep = maker(g.shape[1], g.shape[2])
        return Mask(keep.expand(g.shape).clone()), keep

    return build


def _of(maker: Callable[[Geometry], Operator]) -> Callable[[Geometry], Built]:
    return lambda g: (maker(g), None)


def _kernel_network(g: Geometry) -> Operator:
    state = load_kernel_network(g.kernel_weights)
    channels = state["feature_extractor.0.weight"].shape[1]
    if channels != g.shape[0]:
        raise TaskError(
            f"the kernel network blurs images of {channels} channels; found {g.shape[0]}; "
            f"use gamma_blur"
        )
    return KernelNetworkBlur(state, g.shape[1], g.shape[2], g.generator)


@dataclass(frozen=True)
class TaskInfo:
    """Entry of the list of tasks."""

    title: str
    build: Callable[[Geometry], Built]
    published: bool = True


TASKS: dict[str, TaskInfo] = {
    "inpainting_center": TaskInfo("Centre inpainting", _mask(centre_mask)),
    "outpainting_half": TaskInfo("Half outpainting", _mask(half_mask)),
    "outpainting_expand": TaskInfo("Expand outpainting", _mask(expand_mask)),
    "sr4": TaskInfo("Super-resolution ×4", _of(lambda g: BlockMeans(4, *g.shape[1:]))),
    "sr16": TaskInfo("Super-resolution ×16", _of(lambda g: BlockMeans(16, *g.shape[1:]))),
    "blur": TaskInfo(
        "Gaussian blur", _of(lambda g: SeparableBlur(gaussian_taps(g.sigma), *g.shape[1:]))
    ),
    "motion_blur": TaskInfo(
        "Motion blur", _of(lambda g: ReflectBlur(motion_kernel(g.kernel_side, g.generator)))
    ),
    "nonlinear_blur": TaskInfo("Nonlinear blur", _of(_kernel_network)),
    "jpeg2": TaskInfo("JPEG, quality 2", _of(lambda g: JPEG(2, "smoothed"))),
    "phase_retrieval": TaskInfo("Phase retrieval", _of(lambda g: PhaseRetrieval(2.0))),
    "high_dynamic_range": TaskInfo("High dynamic range", _of(lambda g: HighDynamicRange(2.0))),
    "gamma_blur": TaskInfo(
        "Blur in linear light",
        _of(lambda g: GammaBlur(*g.shape[1:], sigma=g.sigma)),
        published=False,
    ),
    "jpeg10": TaskInfo("JPEG, quality 10", _of(lambda g: JPEG(10, "smoothed")), published=False),
}

LINEAR_TASKS = (
    "inpainting_center",
    "outpainting_half",
    "outpainting_expand",
    "sr4",
    "sr16",
    "blur",
    "motion_blur",
)


def task_names(text: str) -> list[str]:
    """Task names from a comma-separated list, ``all`` (every one), ``published`` or ``linear``.

    Raises
    ------
    TaskError
        With the valid names, if one is unknown.
    """
    groups = {
        "all": list(TASKS),
        "published": [name for name, info in TASKS.items() if info.published],
        "linear": list(LINEAR_TASKS),
    }
    chosen: list[str] = []
    for name in (part.strip() for part in text.split(",")):
        found = groups.get(name, [name])
        for task in found:
            if task not in TASKS:
                raise TaskError(
                    f"no task {task!r}; valid names: {', '.join(TASKS)}, "
                    f"or the groups {', '.join(groups)}"
                )
            if task not in chosen:
                chosen.append(task)
    return chosen


def build_task(
    name: str,
    event_shape: tuple[int, int, int],
    *,
    seed: int = 0,
    kernel_weights: str | Path | None = None,
) -> Degradation:
    """Build a task for images of one shape.

    Parameters
    ----------
    name : str
        One of :data:`TASKS`.
    event_shape : tuple of int
        (channels, height, width).
    seed : int
        Random kernels are drawn once from it.
    kernel_weights : path, optional
        The published kernel network, for ``nonlinear_blur``.

    Raises
    ------
    TaskError
        If the name is unknown (with the valid names) or the image too small.
    WeightsError
        If the kernel network is needed and absent.
    """
    if name not in TASKS:
        raise TaskError(f"no task {name!r}; valid names: {', '.join(TASKS)}")
    generator = torch.Generator().manual_seed(seed)
    weights = None if kernel_weights is None else Path(kernel_weights)
    geometry = Geometry(tuple(event_shape), generator, weights)  # pyright: ignore
    try:
        operator, keep = TASKS[name].build(geometry)
    except SettingsError as error:
        raise TaskError(f"{name}: {error}") from error
    return Degradation(name, operator, tuple(event_shape), keep)  # pyright: ignore
