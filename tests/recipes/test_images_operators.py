"""The degradations: capabilities, closed forms."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from mgdm_core.operators import (
    JPEG,
    BlockMeans,
    CircularBlur,
    GammaBlur,
    HighDynamicRange,
    LinearOperator,
    PhaseRetrieval,
    ReflectBlur,
    SeparableBlur,
    SpectralOperator,
    gaussian_taps,
    motion_kernel,
    reflect_matrix,
)
from recipes.images.errors import ImageError, TaskError
from recipes.images.tasks import LINEAR_TASKS, TASKS, build_task, task_names


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def image(*shape, seed=0, dtype=torch.float64):
    """Smooth random images in [-1, 1]."""
    rough = torch.randn(*shape, generator=gen(seed), dtype=torch.float64)
    smooth = functional.avg_pool2d(rough, 5, 1, 2)
    return (smooth / smooth.abs().amax()).to(dtype)


# -- the same, reduced, from formulas ---------------------------------------------------------


def direct_correlation(x, kernel):
    pad = (kernel.shape[1] // 2,) * 2 + (kernel.shape[0] // 2,) * 2
    planes = functional.pad(x, pad, mode="reflect").flatten(0, 1)[:, None]
    return functional.conv2d(planes, kernel[None, None]).reshape(x.shape)


def test_block_means_are_means():
    x = image(2, 3, 32, 48)
    for block in (4, 16):
        got = BlockMeans(block, 32, 48).forward(x)
        torch.testing.assert_close(got, functional.avg_pool2d(x, block))


def test_block_means_of_a_ragged_border():
    x = image(1, 1, 10, 6)
    got = BlockMeans(4, 10, 6).forward(x)
    assert got.shape == (1, 1, 3, 2)
    torch.testing.assert_close(got[0, 0, 2, 1], x[0, 0, 8:, 4:].mean())


def test_gaussian_blur_is_a_correlation_with_reflected_borders():
    x, taps = image(2, 3, 24, 20), gaussian_taps(1.7)
    direct = direct_correlation(x, torch.outer(taps, taps))
    torch.testing.assert_close(SeparableBlur(taps, 24, 20).forward(x), direct)
    torch.testing.assert_close(ReflectBlur(torch.outer(taps, taps)).forward(x), direct)


def test_motion_blur_is_a_correlation_with_reflected_borders():
    x, kernel = image(2, 3, 24, 20), motion_kernel(13, gen(3))
    torch.testing.assert_close(ReflectBlur(kernel).forward(x), direct_correlation(x, kernel))


def test_reflection_of_a_kernel_longer_than_the_signal():
    # Three pixels 0 1 2 continue as ... 2 1 0 1 2 1 0 1 2 ...
    matrix = reflect_matrix(torch.ones(9, dtype=torch.float64), 3)
    periodic = [0, 1, 2, 1]
    for row in range(3):
        seen = [periodic[(row + k) % 4] for k in range(-4, 5)]
        assert matrix[row].tolist() == [seen.count(j) for j in range(3)]


def test_circular_blur_is_a_correlation_on_a_torus():
    x, kernel = image(1, 2, 8, 9), motion_kernel(5, gen(1))
    direct = sum(
        kernel[a, b] * torch.roll(x, (2 - a, 2 - b), (-2, -1)) for a in range(5) for b in range(5)
    )
    torch.testing.assert_close(CircularBlur(kernel).forward(x), direct)


def test_dynamic_range_clips():
    x = torch.tensor([[-1.0, -0.3, 0.0, 0.5, 0.8]])
    torch.testing.assert_close(
        HighDynamicRange(2.0).forward(x), torch.tensor([[-1.0, -0.6, 0.0, 1.0, 1.0]])
    )


def test_phase_retrieval_by_the_definition_of_the_fourier_sum():
    x = image(1, 1, 8, 8)
    got = PhaseRetrieval(2.0).forward(x)
    assert got.shape == (1, 1, 12, 12)
    padded = np.zeros((12, 12))
    padded[2:10, 2:10] = 0.5 * (x[0, 0].numpy() + 1)
    place = np.arange(12) - 6
    basis = np.exp(-2j * math.pi * np.outer(place, place) / 12)
    np.testing.assert_allclose(got[0, 0].numpy(), np.abs(basis @ padded @ basis.T) / 12, atol=1e-10)


def test_phase_retrieval_keeps_energy_and_ignores_a_flip():
    x = image(2, 3, 16, 16)
    y = PhaseRetrieval(2.0).forward(x)
    torch.testing.assert_close(y.square().sum((1, 2, 3)), (0.5 * (x + 1)).square().sum((1, 2, 3)))
    torch.testing.assert_close(PhaseRetrieval(2.0).forward(x.flip(-1, -2)), y)


def test_jpeg_of_a_file_matches_an_independent_coder():
    pil = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    import io

    u8 = ((image(1, 3, 32, 48)[0] + 1) * 127.5).round().to(torch.uint8)
    buffer = io.BytesIO()
    picture = pil.fromarray(u8.permute(1, 2, 0).numpy())
    picture.save(buffer, "JPEG", quality=30, subsampling="4:2:0")
    coded = torch.from_numpy(np.array(pil.open(buffer))).permute(2, 0, 1)
    ours = JPEG(30, published=False).forward(u8[None].double() / 127.5 - 1)[0]
    # libjpeg smooths the chroma when it doubles it; luma and steps are the same.
    difference = ((ours + 1) * 127.5 - coded).abs().mean()
    assert float(difference) < 4.0


def test_grey_jpeg_of_a_file_matches_an_independent_coder():
    pil = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    import io

    u8 = ((image(1, 1, 32, 40)[0] + 1) * 127.5).round().to(torch.uint8)
    buffer = io.BytesIO()
    pil.fromarray(u8[0].numpy()).save(buffer, "JPEG", quality=20)
    coded = torch.from_numpy(np.array(pil.open(buffer))).double()
    ours = JPEG(20, published=False).forward(u8[None].double() / 127.5 - 1)[0, 0]
    difference = ((ours + 1) * 127.5 - coded).abs().reshape(4, 8, 5, 8).amax((1, 3))
    # A block differs when the coder's integer DCT tips a coefficient that lies on a boundary.
    assert float((difference <= 1.0).double().mean()) >= 0.75


def test_jpeg_at_any_size_and_high_quality_is_nearly_the_identity():
    x = image(1, 1, 19, 21)
    assert float((JPEG(100).forward(x) - x).abs().max()) < 0.03
    assert JPEG(2).forward(image(1, 3, 19, 21)).shape == (1, 3, 19, 21)


@pytest.mark.parametrize("rounding", ["straight_through", "smoothed", "cubic"])
def test_jpeg_passes_gradients_to_every_pixel(rounding):
    x = (0.5 * image(1, 3, 16, 16)).requires_grad_(True)
    JPEG(10, rounding).forward(x).square().sum().backward()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()
    assert float((x.grad != 0).double().mean()) > 0.9


def test_smoothed_rounding_has_the_slope_of_roundings_mean_over_an_error():
    c = torch.linspace(-3, 3, 241, dtype=torch.float64, requires_grad=True)
    rounded = JPEG(2, "smoothed")._round(c)
    assert torch.equal(rounded, c.detach().round())
    (slope,) = torch.autograd.grad(rounded.sum(), c)
    error = 0.2 * torch.linspace(-6, 6, 4001, dtype=torch.float64)
    weight = (-0.5 * (error / 0.2) ** 2).exp()
    weight = weight / weight.sum()
    # Means over cells of the error: rounding is a staircase, so differences are of some width.
    ahead, behind = ((c.detach() + d)[:, None] + error for d in (0.05, -0.05))
    expected = ((ahead.round() - behind.round()) * weight).sum(-1) / 0.1
    assert float((slope - expected).abs().max()) < 0.05


def test_noise_alone_hardly_pulls_at_the_image_of_a_jpeg_task():
    """Straight through, noise of the observation pushed every coefficient out of its right step."""
    degradation = build_task("jpeg2", (1, 32, 32))
    # What the coder returns lies amid its steps, as long as nothing is clipped.
    x = degradation.operator.forward(0.2 * image(1, 1, 32, 32)).requires_grad_(True)
    noise = 0.05 * torch.randn(x.shape, generator=gen(1), dtype=torch.float64)

    def pull(operator):
        y = operator.forward(x).detach() + noise
        misfit = (y - operator.forward(x)).square().sum() / (2 * 0.05**2)
        return float(torch.autograd.grad(misfit, x)[0].norm())

    assert pull(degradation.operator) < 0.3 * pull(JPEG(2))


# -- what operators declare they can do -------------------------------------------------------

LINEAR = {
    **{name: build_task(name, (2, 16, 20)).operator for name in LINEAR_TASKS},
    "circular": CircularBlur(motion_kernel(7, gen())),
    "circular_wrapping": CircularBlur(motion_kernel(27, gen())),
    "long_reflect": ReflectBlur(motion_kernel(61, gen())),
}


@pytest.mark.parametrize("name", LINEAR)
def test_adjoint_is_exact(name):
    operator, x = LINEAR[name], image(2, 2, 16, 20)
    y = operator.forward(x)
    other = torch.randn(y.shape, generator=gen(1), dtype=torch.float64)
    left = (y * other).sum()
    right = (x * operator.adjoint(other)).sum()
    torch.testing.assert_close(left, right, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    "name", [n for n, op in LINEAR.items() if isinstance(op, SpectralOperator)]
)
def test_svd_decomposes(name):
    operator, x = LINEAR[name], image(2, 2, 16, 20)
    y = operator.forward(x)
    svd = operator.svd((2, 16, 20), x)
    coefficients = svd.v_t(x)
    assert coefficients.shape == (2, 640)
    torch.testing.assert_close(svd.v(coefficients), x)
    torch.testing.assert_close(coefficients.norm(), x.norm())
    # A = U S V^T up to the singular values dropped as rounding noise.
    torch.testing.assert_close(
        svd.u(svd.values * coefficients).reshape(y.shape), y, atol=3e-6, rtol=0
    )
    other = torch.randn(y.shape, generator=gen(1), dtype=torch.float64)
    torch.testing.assert_close(
        (svd.u(coefficients * (svd.values > 0)).reshape(y.shape) * other).sum(),
        (coefficients * svd.u_t(other) * (svd.values > 0)).sum(),
    )
    assert (svd.values >= 0).all()


@pytest.mark.parametrize("name", LINEAR)
def test_proximal_solves_its_normal_equations(name):
    operator, z = LINEAR[name], image(2, 2, 16, 20)
    y = operator.forward(image(2, 2, 16, 20, seed=5)) + 0.1
    x = operator.proximal(z, y, 3.0)
    gradient = 3.0 * operator.adjoint(operator.forward(x) - y) + x - z
    assert float(gradient.abs().max()) < 1e-4


def test_motion_blur_is_linear_and_claims_no_singular_values():
    operator = build_task("motion_blur", (1, 16, 16)).operator
    assert isinstance(operator, LinearOperator)
    assert not isinstance(operator, SpectralOperator)


@pytest.mark.parametrize("name", [n for n in TASKS if n != "nonlinear_blur"])
@pytest.mark.parametrize("shape", [(1, 32, 32), (3, 40, 56)])
def test_every_task_takes_any_size_and_passes_finite_gradients(name, shape):
    task = build_task(name, shape)
    x = image(2, *shape, dtype=torch.float32).requires_grad_(True)
    y = task.operator.forward(x)
    y.square().sum().backward()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()
    assert task.linear == (name in LINEAR_TASKS)
    assert task.picture(y.detach()).ndim == 4


def test_noise_has_the_deviation_asked_for():
    task = build_task("blur", (3, 32, 32))
    x = image(8, 3, 32, 32)
    noise = task.degrade(x, 0.05, gen(2)) - task.operator.forward(x)
    assert abs(float(noise.std()) - 0.05) < 2e-3


def test_pseudo_inverse_explains_what_was_observed():
    x = image(1, 1, 32, 32)
    for name in ("sr4", "outpainting_half"):
        task = build_task(name, (1, 32, 32))
        y = task.operator.forward(x)
        restored = task.pseudo_inverse(y, 0.01)
        assert restored is not None
        torch.testing.assert_close(task.operator.forward(restored), y)
    assert build_task("jpeg2", (1, 32, 32)).pseudo_inverse(x, 0.01) is None


def test_random_kernels_depend_on_the_seed_alone():
    operators = [build_task("motion_blur", (3, 64, 64), seed=s).operator for s in (1, 1, 2)]
    first, again, other = (op.kernel for op in operators if isinstance(op, ReflectBlur))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)
    torch.testing.assert_close(first.sum(), torch.tensor(1.0, dtype=torch.float64))
    assert (first >= 0).all()


def test_masks_of_one_pixel_more_or_less_never_lose_their_meaning():
    for side in (2, 3, 5, 8, 255):
        for name in ("inpainting_center", "outpainting_half", "outpainting_expand"):
            keep = build_task(name, (1, side, side)).keep
            assert keep is not None
            assert 0 < int(keep.sum()) < side * side


def test_gamma_blur_keeps_the_centre_and_blurs_the_corner():
    operator = GammaBlur(33, 33, sigma=2.0, gamma=1.0)
    dot = -torch.ones(2, 1, 33, 33, dtype=torch.float64)
    dot[0, 0, 16, 16] = dot[1, 0, 1, 1] = 1
    y = operator.forward(dot)
    torch.testing.assert_close(y[0, 0, 16, 16], dot[0, 0, 16, 16])
    assert float(y[1, 0, 1, 1]) < 0.0
    flat = torch.full((1, 1, 33, 33), 0.2, dtype=torch.float64)
    expected = 2 * 0.6**2.2 - 1
    torch.testing.assert_close(GammaBlur(33, 33).forward(flat), torch.full_like(flat, expected))


# -- bad input -------------------------------------------------------------------------------------


def test_unknown_task_lists_the_valid_names():
    for call in (lambda: build_task("sr5", (1, 8, 8)), lambda: task_names("sr4,sr5")):
        with pytest.raises(TaskError, match=r"sr5.*inpainting_center.*jpeg2"):
            call()


def test_groups_of_tasks():
    assert len(task_names("published")) == 11
    assert task_names("sr4,linear")[0] == "sr4"
    assert len(task_names("sr4,linear")) == 7
    assert set(task_names("all")) == set(TASKS)


def test_image_too_small_for_the_blocks():
    with pytest.raises(TaskError, match=r"between 2 and .*\(8\); found 16"):
        build_task("sr16", (1, 8, 8))


def test_observation_of_the_wrong_size():
    with pytest.raises(ImageError, match=r"8 x 8 pixels.*found 9 x 8"):
        build_task("sr4", (1, 32, 32)).observe(torch.zeros(1, 9, 8))


def test_observation_is_taken_as_it_is():
    x = image(1, 1, 32, 32)
    for name in ("sr4", "outpainting_half", "blur"):
        task = build_task(name, (1, 32, 32))
        y = task.operator.forward(x)
        picture = task.picture(y)[0].nan_to_num(0.7)
        torch.testing.assert_close(task.observe(picture), y[0])
