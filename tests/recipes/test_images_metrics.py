"""How images are compared."""

import math

import pytest
import torch

from recipes.images.metrics import LPIPS, psnr, ssim

pytest.importorskip("torchmetrics", reason="torchmetrics is not installed")
lpip = pytest.importorskip("torchmetrics.image.lpip", reason="torchvision is not installed")
Perceptual = getattr(lpip, "LearnedPerceptualImagePatchSimilarity", None)


def unreachable(*_, **__):
    raise OSError("no network")


def test_psnr_by_its_definition():
    truth = torch.zeros(2, 1, 16, 16)
    x = truth.clone()
    x[0] += 0.2
    x[1] += 0.02
    expected = [10 * math.log10(4 / e**2) for e in (0.2, 0.02)]
    torch.testing.assert_close(psnr(x, truth), torch.tensor(expected), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("side", [8, 32])
def test_ssim_is_one_for_equal_images_and_one_value_per_image(side):
    x = torch.rand(3, 1, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1
    y = x.clone()
    y[1] = -y[1]
    value = ssim(x, y)
    assert value.shape == (3,)
    torch.testing.assert_close(value[[0, 2]], torch.ones(2), atol=1e-4, rtol=0)
    # A negative has the structure reversed, and intensities of 0 to 1 keep the luminance positive.
    assert float(value[1]) < -0.5


@pytest.mark.parametrize("side", [8, 32])
def test_ssim_of_flat_images_is_the_luminance_term(side):
    a, b = -0.6, 0.4
    flat = torch.ones(1, 3, side, side, dtype=torch.float64)
    p, q = (a + 1) / 2, (b + 1) / 2
    expected = (2 * p * q + 1e-4) / (p**2 + q**2 + 1e-4)
    assert abs(float(ssim(a * flat, b * flat)) - expected) < 1e-4


def test_lpips_without_weights_is_nan_with_a_reason(monkeypatch):
    monkeypatch.setattr(lpip, "LearnedPerceptualImagePatchSimilarity", unreachable)
    lpips = LPIPS()
    reason = str(lpips.reason)
    assert reason.startswith("LPIPS is empty: it needs torchvision's weights of AlexNet")
    assert "could not be fetched (no network)" in reason
    assert "\n" not in reason
    assert torch.isnan(lpips(torch.zeros(2, 1, 32, 32), torch.zeros(2, 1, 32, 32))).all()


def test_lpips_with_weights_tells_images_apart(monkeypatch):
    alexnet = pytest.importorskip("torchvision.models", reason="no torchvision").alexnet
    from torchvision.models._api import WeightsEnum

    # Random weights stand in for the fetched ones: what is tested is the plumbing around them.
    state = alexnet(weights=None).state_dict()
    monkeypatch.setattr(lpip, "LearnedPerceptualImagePatchSimilarity", Perceptual)
    monkeypatch.setattr(WeightsEnum, "get_state_dict", lambda *_, **__: state)
    lpips = LPIPS()
    assert lpips.reason is None
    x = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    y = torch.stack([x[0], -x[1]])
    value = lpips(x, y)
    assert float(value[0]) < 1e-5 < float(value[1])
