"""Muon and AdamW side by side: what each weight gets, and that stored state goes on to the bit."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from mgdm_audio.priors.stft_unet.config import STFTUNetConfig
from mgdm_audio.priors.stft_unet.network import STFTUNet
from recipes.music_prior.training.optimizer import MuonAdamW, as_matrices, orthogonalised


def weights(seed=0):
    stream = torch.Generator().manual_seed(seed)
    shapes = {"conv": (12, 10, 3, 3), "stack": (3, 20, 11), "flat": (9, 30), "bias": (12,)}
    shapes |= {"place": (4, 1, 40), "narrow": (8, 50)}
    return {k: nn.Parameter(torch.randn(*s, generator=stream)) for k, s in shapes.items()}


def give_gradients(parameters, seed):
    stream = torch.Generator().manual_seed(seed)
    for p in parameters.values():
        p.grad = torch.randn(p.shape, generator=stream)


MATRICES = ("conv", "stack", "flat")


@given(
    st.integers(9, 40), st.integers(9, 40), st.integers(0, 100), st.sampled_from([1e-6, 1.0, 1e4])
)
def test_singular_values_come_near_one_and_vectors_stay(rows, columns, seed, size):
    stream = torch.Generator().manual_seed(seed)
    u, _ = torch.linalg.qr(torch.randn(rows, rows, generator=stream))
    v, _ = torch.linalg.qr(torch.randn(columns, columns, generator=stream))
    rank = min(rows, columns)
    values = torch.linspace(0.05, 1, rank)
    matrix = size * u[:, :rank] @ torch.diag(values) @ v[:, :rank].T
    found = u[:, :rank].T @ orthogonalised(matrix) @ v[:, :rank]
    diagonal = found.diagonal()
    assert ((diagonal > 0.6) & (diagonal < 1.3)).all()
    assert (found - torch.diag(diagonal)).abs().max() < 1e-3


def test_a_stack_is_so_many_matrices():
    stack = torch.randn(3, 20, 11, generator=torch.Generator().manual_seed(0))
    alone = torch.stack([orthogonalised(m) for m in stack])
    assert torch.allclose(orthogonalised(stack), alone, atol=1e-5)


@pytest.mark.parametrize("shape", [(40, 12), (12, 40), (3, 20, 11)])
def test_products_in_bfloat16_give_nearly_the_same_update(shape):
    matrices = torch.randn(*shape, generator=torch.Generator().manual_seed(1))
    exact, rounded = orthogonalised(matrices), orthogonalised(matrices, torch.bfloat16)
    assert rounded.dtype == exact.dtype
    assert 0 < (rounded - exact).norm() / exact.norm() < 0.05


def test_all_but_matrices_get_adamw():
    mine, theirs = weights(), weights()
    muon = MuonAdamW(mine.values(), lr=0.01, weight_decay=0.1)
    adamw = torch.optim.AdamW(theirs.values(), lr=0.01, weight_decay=0.1, betas=(0.9, 0.99))
    for seed in range(3):
        give_gradients(mine, seed)
        give_gradients(theirs, seed)
        muon.step()
        adamw.step()
    for name in mine:
        same = torch.allclose(mine[name], theirs[name], atol=1e-6)
        assert same is (name not in MATRICES), name


@pytest.mark.parametrize("name", MATRICES)
def test_a_matrix_moves_by_the_usual_step_of_adamw(name):
    parameters = weights()
    before = parameters[name].detach().clone()
    optimizer = MuonAdamW(parameters.values(), lr=0.01, weight_decay=0.0)
    give_gradients(parameters, 1)
    gradient = parameters[name].grad.clone()
    optimizer.step()
    moved = parameters[name].detach() - before
    assert moved.square().mean().sqrt() == pytest.approx(0.2 * 0.01, rel=0.25)
    assert (moved * gradient).sum() < 0
    # Every direction counts alike: no singular value of the step is far from the others.
    values = torch.linalg.svdvals(as_matrices(moved))
    assert values.min() > 0.2 * values.max()


def test_weight_decay_alone_shrinks_a_matrix():
    parameters = weights()
    before = parameters["flat"].detach().clone()
    optimizer = MuonAdamW(parameters.values(), lr=0.1, weight_decay=0.5)
    give_gradients(parameters, 0)
    parameters["flat"].grad.zero_()
    optimizer.step()
    assert torch.allclose(parameters["flat"], before * 0.95)


def test_stored_state_goes_on_to_the_bit():
    whole, parts = weights(), weights()
    first = MuonAdamW(whole.values(), lr=0.01, weight_decay=0.1)
    second = MuonAdamW(parts.values(), lr=0.01, weight_decay=0.1)
    for seed in range(4):
        if seed == 2:
            state = second.state_dict()
            second = MuonAdamW(parts.values(), lr=0.01, weight_decay=0.1)
            second.load_state_dict(state)
        give_gradients(whole, seed)
        give_gradients(parts, seed)
        first.step()
        second.step()
    assert all(torch.equal(whole[k], parts[k]) for k in whole)


def test_most_of_the_network_is_matrices():
    config = STFTUNetConfig(widths=(16, 32), blocks=(1, 1), bands=16, embedding=32, heads=2)
    network = STFTUNet(config)
    optimizer = MuonAdamW(network.parameters(), lr=0.01, weight_decay=0.0)
    muon, rest = (sum(p.numel() for p in g["params"]) for g in optimizer.param_groups)
    assert muon > 0.8 * (muon + rest)


def test_a_closure_is_called():
    parameters = weights()
    optimizer = MuonAdamW(parameters.values(), lr=0.01, weight_decay=0.0)

    def closure():
        optimizer.zero_grad()
        loss = sum(p.square().sum() for p in parameters.values())
        loss.backward()
        return loss

    losses = [optimizer.step(closure).item() for _ in range(5)]
    assert losses == sorted(losses, reverse=True)
