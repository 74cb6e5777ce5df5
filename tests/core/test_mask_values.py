"""Masks and matrices given as other numbers than booleans and real ones."""

import pytest
import torch

import mgdm_core as m


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float32])
def test_a_mask_of_zeros_and_ones_is_a_boolean_one(dtype):
    mask = m.Mask(torch.tensor([0, 1, 0, 1], dtype=dtype))
    x = torch.arange(4.0)[None]
    assert mask.forward(x).tolist() == [[1.0, 3.0]]
    assert mask.svd((4,), x).values.tolist() == [0.0, 1.0, 0.0, 1.0]


def test_a_mask_of_grey_levels_is_refused():
    with pytest.raises(m.SettingsError, match=r"torch\.uint8 up to 255: compare it first"):
        m.Mask(torch.tensor([0, 255, 0, 255], dtype=torch.uint8))


def test_a_complex_matrix_is_refused():
    with pytest.raises(m.ShapeError, match="a matrix is real"):
        m.Matrix(torch.eye(2, dtype=torch.complex64))
