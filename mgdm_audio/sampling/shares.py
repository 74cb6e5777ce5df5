"""Each stem's share of the bins of a separation, and the separation with other shares."""

from __future__ import annotations

from mgdm_core.array_types import Complex, Float, Tensor

SHARE_FLOOR = 1e-3
"""Least share of a bin, in amplitude: a stem may have been overlooked."""


def shares_of(
    spectrum: Complex[Tensor, "stems bins frames"],
) -> Float[Tensor, "stems bins frames"]:
    """Each stem's part of the sum of the magnitudes of a bin, at least the floor; they sum to 1."""
    magnitude = spectrum.abs()
    share = (magnitude / magnitude.sum(0).clamp_min(1e-20)).clamp_min(SHARE_FLOOR)
    return share / share.sum(0)


def with_shares(
    spectrum: Complex[Tensor, "stems bins frames"],
    share: Float[Tensor, "stems bins frames"],
    other: Float[Tensor, "stems bins frames"],
) -> Complex[Tensor, "stems bins frames"]:
    """Return the separation with ``other`` shares in place of its own; its sum is kept.

    A stem is louder or quieter as its share, in its own phase; what that leaves of the mixture is
    divided by the new shares, so a stem that loses its share is gone.
    """
    scaled = spectrum * (other / share)
    return scaled + other * (spectrum.sum(0) - scaled.sum(0))
