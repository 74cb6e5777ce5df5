"""Muon for weight matrices, AdamW for all else.

Muon is Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks": the update of
a matrix is its averaged gradient with all singular values brought near one, so that directions
which few examples speak of are learnt as fast as the loud ones. ``torch.optim.Muon`` takes
matrices alone (no convolutions, no stacks of matrices) and computes in bfloat16 always, which
processors without instructions for it do a hundred times slower; hence this one.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from mgdm_core.array_types import Float, Tensor

__all__ = ["MuonAdamW", "as_matrices", "orthogonalised"]

# Quintic Newton-Schulz iteration of the paper: five of these bring singular values from about
# 0.002 and up to 0.7 to 1.2.
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5
# Update of AdamW's usual root mean square, so that both take one learning rate (Liu et al. 2025,
# arXiv 2502.16982, section 2.2).
_RMS = 0.2
# A matrix with a shorter side has no spectrum to speak of.
_LEAST_SIDE = 9


def orthogonalised(
    matrices: Float[Tensor, "*stack rows columns"], dtype: torch.dtype = torch.float32
) -> Tensor:
    """U V^T of the singular value decomposition U S V^T, about: singular values of 0.7 to 1.2.

    The products are taken in ``dtype``.
    """
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = (matrices.mT if tall else matrices).float()
    x = (x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)).to(dtype)
    x = x.reshape(-1, *x.shape[-2:]).contiguous()
    a, b, c = _COEFFICIENTS
    for _ in range(_ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    x = (x.mT if tall else x).to(matrices.dtype)
    return x.reshape(matrices.shape)


def as_matrices(weight: Tensor) -> Tensor:
    """Matrices of a weight: convolutions as outputs by all else, stacks of matrices as they are."""
    return weight.reshape(len(weight), -1) if weight.ndim > 3 else weight


def _is_matrix(weight: Tensor) -> bool:
    return weight.ndim >= 2 and min(as_matrices(weight).shape[-2:]) >= _LEAST_SIDE


class MuonAdamW(torch.optim.AdamW):
    """Muon on the matrices among ``parameters``, AdamW (fused) on the rest, with one learning rate.

    Parameters
    ----------
    parameters : iterable of nn.Parameter
    lr, weight_decay : float
        Of both; AdamW's beta is (0.9, 0.99).
    momentum : float
        Of Muon, in Nesterov's form.
    products : torch.dtype
        What Muon's matrix products are taken in; where the network is trained in bfloat16, that.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float,
        weight_decay: float,
        momentum: float = 0.95,
        products: torch.dtype = torch.float32,
    ) -> None:
        self._products = products
        given = list(parameters)
        matrices = [p for p in given if _is_matrix(p)]
        rest = [p for p in given if not _is_matrix(p)]
        groups = [{"params": g, "momentum": m} for g, m in ((matrices, momentum), (rest, None))]
        super().__init__(
            [g for g in groups if g["params"]],
            lr=lr,
            betas=(0.9, 0.99),
            weight_decay=weight_decay,
            fused=True,
        )

    @torch.no_grad()
    def step(self, closure=None):
        """Update all parameters; the gradients of the matrices are used up."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            momentum = group["momentum"]
            if momentum is None:
                continue
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if not state:
                    # AdamW looks for a count in every state that it loads.
                    state["step"] = torch.zeros((), dtype=torch.float32, device=weight.device)
                    state["momentum_buffer"] = torch.zeros_like(weight)
                state["step"] += 1
                buffer = state["momentum_buffer"].lerp_(weight.grad, 1 - momentum)
                matrices = as_matrices(weight.grad.lerp(buffer, momentum))
                rate = group["lr"] * _RMS * max(matrices.shape[-2:]) ** 0.5
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                update = orthogonalised(matrices, self._products)
                weight.sub_(update.reshape(weight.shape), alpha=rate)
                weight.grad = None  # AdamW passes over these
        super().step()
        return loss
