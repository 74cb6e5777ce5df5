"""The degradations against golden numbers."""

import numpy as np
import pytest
import torch

from mgdm_core.operators import JPEG, ReflectBlur, gaussian_taps
from recipes.images.tasks import build_task


@pytest.fixture(scope="module")
def golden(shared_dir):
    file = shared_dir / "golden" / "image_operators.npz"
    if not file.is_file():
        pytest.skip("golden/image_operators.npz is not in the reference material")
    return np.load(file)


@pytest.fixture(scope="module")
def face(golden):
    u8 = torch.from_numpy(golden["image_uint8_hwc"].astype(np.float32))
    return ((u8 - 127.5) / 127.5).permute(2, 0, 1)[None]


GOLDEN_TASKS = {
    "sr4": 1e-5,
    "sr16": 1e-5,
    "blur": 1e-5,
    "high_dynamic_range": 1e-5,
    "phase_retrieval": 1e-4,
}


@pytest.mark.parametrize(("name", "tolerance"), GOLDEN_TASKS.items())
def test_golden_largest_difference(golden, face, name, tolerance):
    got = build_task(name, (3, 256, 256)).operator.forward(face)[0]
    assert float((got - torch.from_numpy(golden[name])).abs().max()) < tolerance


def test_golden_motion_blur(golden, face):
    got = ReflectBlur(torch.from_numpy(golden["motion_kernel"])).forward(face)[0]
    assert float((got - torch.from_numpy(golden["motion_blur"])).abs().max()) < 1e-5


@pytest.mark.parametrize("quality", [2, 10])
def test_golden_jpeg(golden, face, quality):
    difference = JPEG(quality).forward(face)[0] - torch.from_numpy(golden[f"jpeg{quality}"])
    # The issue allows 2e-2; equal up to coefficients that lie on a rounding boundary.
    assert float(difference.abs().mean()) < 1e-3


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("inpainting_center", "mask_inpainting_center"),
        ("outpainting_half", "mask_outpainting_half"),
        ("outpainting_expand", "mask_outpainting_expand"),
    ],
)
def test_golden_masks(golden, name, key):
    keep = build_task(name, (3, 256, 256)).keep
    assert keep is not None
    assert np.array_equal(keep.numpy(), golden[key])


def test_golden_blur_kernel(golden):
    taps = gaussian_taps(3.0).numpy()
    full = np.zeros(61)
    full[30 - len(taps) // 2 : 31 + len(taps) // 2] = taps
    np.testing.assert_allclose(np.outer(full, full), golden["blur_kernel"], atol=1e-12)
