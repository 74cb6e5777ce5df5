"""Every operator against its own dense matrix: adjoint, SVD, pseudo-inverse, proximal map."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mgdm_core.errors import SettingsError, ShapeError
from mgdm_core.operators import (
    BlockMeans,
    CircularBlur,
    FunctionOperator,
    Identity,
    LinearOperator,
    Mask,
    Matrix,
    Operator,
    ReflectBlur,
    SpectralOperator,
    SumOverChannels,
    centre_mask,
    compose,
    conjugate_gradient,
    flat,
    scaled,
    stack,
)

from .closed_forms import dense, normal


def _mask(shape: tuple[int, ...], seed: int = 0) -> Mask:
    keep = normal(shape, seed) > 0
    keep.reshape(-1)[0] = True
    return Mask(keep)


def _rank_two() -> Matrix:
    return Matrix(normal((4, 2), 1) @ normal((2, 6), 2))


def _identity_over_sum() -> Operator:
    return stack([Identity(), SumOverChannels(3)], [(3, 4), (4,)])


LINEAR: dict[str, tuple[Operator, tuple[int, ...]]] = {
    "identity": (Identity(), (2, 3)),
    "mask": (_mask((3, 4)), (3, 4)),
    "mask-all": (Mask(torch.ones(5, dtype=torch.bool)), (5,)),
    "matrix-wide": (Matrix(normal((2, 5), 1)), (5,)),
    "matrix-tall": (Matrix(normal((6, 4), 2)), (4,)),
    "matrix-square": (Matrix(normal((4, 4), 3)), (4,)),
    "matrix-folded": (Matrix(normal((3, 6), 4), (2, 3)), (2, 3)),
    "matrix-rank-two": (_rank_two(), (6,)),
    "sum-1": (SumOverChannels(1), (1, 4)),
    "sum-4": (SumOverChannels(4), (4, 5)),
    "sum-images": (SumOverChannels(3), (3, 2, 4)),
    "mask-of-sum": (compose(_mask((5,), 4), SumOverChannels(3)), (3, 5)),
    "matrix-of-mask": (
        compose(Matrix(normal((2, int(_mask((3, 4)).keep.sum())), 5)), _mask((3, 4))),
        (3, 4),
    ),
    "stack-wide": (
        stack([Matrix(normal((2, 6), 6)), Matrix(normal((1, 6), 7))], [(2,), (1,)]),
        (6,),
    ),
    "stack-tall": (_identity_over_sum(), (3, 4)),
    "scaled": (scaled(Matrix(normal((3, 4), 5)), normal((1, 3), 6)), (4,)),
    "mask-centre": (Mask(centre_mask(4, 5)[None]), (1, 4, 5)),
    "block-means": (BlockMeans(2, 4, 5), (1, 4, 5)),
    "reflect-blur": (ReflectBlur(normal((3, 3), 8)), (1, 4, 5)),
    "circular-blur": (CircularBlur(normal((3, 3), 9)), (1, 3, 5)),
}
CASES = pytest.mark.parametrize(("operator", "shape"), LINEAR.values(), ids=LINEAR)
WITH_SVD = pytest.mark.parametrize(
    ("operator", "shape"),
    [c for c in LINEAR.values() if isinstance(c[0], SpectralOperator)],
    ids=[k for k, c in LINEAR.items() if isinstance(c[0], SpectralOperator)],
)


def check_adjoint(operator: Operator, shape: tuple[int, ...]) -> None:
    x = normal((3, *shape), 10)
    seen = operator.forward(x)
    y = normal(tuple(seen.shape), 11)
    left = (flat(seen) * flat(y)).sum(-1)
    image = operator.adjoint(y)
    assert image.shape == x.shape
    torch.testing.assert_close(left, (flat(x) * flat(image)).sum(-1), rtol=1e-11, atol=1e-11)


@CASES
def test_forward_is_linear_and_item_by_item(operator, shape):
    x, z = normal((3, *shape), 1), normal((3, *shape), 2)
    torch.testing.assert_close(
        operator.forward(2 * x - z), 2 * operator(x) - operator(z), rtol=1e-11, atol=1e-11
    )
    torch.testing.assert_close(operator(x[1:2])[0], operator(x)[1], rtol=1e-12, atol=1e-12)


@CASES
def test_adjoint(operator, shape):
    check_adjoint(operator, shape)


@given(st.data())
@settings(max_examples=40)
def test_adjoint_for_any_shape(data):
    shape = tuple(data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=3)))
    size = math.prod(shape)
    kind = data.draw(st.sampled_from(["identity", "mask", "matrix", "sum", "chain", "stack"]))
    rows, seed = data.draw(st.integers(1, 6)), data.draw(st.integers(0, 99))
    matrix, mask = Matrix(normal((rows, size), seed), shape), _mask(shape, seed)
    operator = {
        "identity": Identity(),
        "mask": mask,
        "matrix": matrix,
        "sum": SumOverChannels(shape[0]),
        "chain": compose(matrix, Identity()),
        "stack": stack(
            [matrix, _mask(shape, seed)], [(rows,), (int(_mask(shape, seed).keep.sum()),)]
        ),
    }[kind]
    check_adjoint(operator, shape)


@WITH_SVD
def test_svd_identities(operator, shape):
    x, matrix = normal((3, *shape), 3), dense(operator, shape)
    y = operator.forward(x)
    svd = operator.svd(shape, x)
    n = math.prod(shape)
    assert svd.values.shape == (n,)
    assert bool((svd.values >= 0).all())
    # A = U S V^T
    torch.testing.assert_close(svd.u(svd.values * svd.v_t(x)), y, rtol=1e-10, atol=1e-10)
    # V is orthogonal, as a map and its inverse
    torch.testing.assert_close(svd.v(svd.v_t(x)), x, rtol=1e-11, atol=1e-11)
    basis = svd.v(torch.eye(n, dtype=torch.float64)).reshape(n, n)
    torch.testing.assert_close(basis @ basis.T, torch.eye(n, dtype=torch.float64))
    # U^T y fills the slots of positive values and preserves the norm of what is in the range
    positive = svd.values > 1e-9
    coefficients = svd.u_t(y)
    torch.testing.assert_close(coefficients, svd.values * svd.v_t(x), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(flat(y).norm(dim=1), coefficients[:, positive].norm(dim=1))
    torch.testing.assert_close(svd.u(coefficients), y, rtol=1e-10, atol=1e-10)
    # the values are the dense matrix's
    want = torch.zeros(n, dtype=torch.float64)
    values = torch.linalg.svdvals(matrix)
    want[: len(values)] = values
    torch.testing.assert_close(svd.values.sort(descending=True)[0], want, rtol=1e-10, atol=1e-10)
    # A^T = V S U^T
    back = svd.v(svd.values * svd.u_t(y))
    torch.testing.assert_close(back, operator.adjoint(y), rtol=1e-10, atol=1e-10)


@CASES
def test_pseudo_inverse_is_moore_and_penroses(operator, shape):
    matrix = dense(operator, shape)
    example = operator.forward(normal((3, *shape), 4))
    y = normal(tuple(example.shape), 5)  # not in the range where the operator is tall
    want = (flat(y) @ torch.linalg.pinv(matrix, rtol=1e-10).T).reshape(3, *shape)
    torch.testing.assert_close(operator.pseudo_inverse(y, shape), want, rtol=1e-5, atol=1e-5)


@CASES
def test_the_gram_matrix_is_solved(operator, shape):
    matrix = dense(operator, shape)
    v = normal(tuple(operator.forward(normal((4, *shape), 6)).shape), 7)
    weights = torch.tensor([0.1, 1.0, 20.0, 0.0], dtype=torch.float64)
    eye = torch.eye(len(matrix), dtype=torch.float64)
    gram = weights[:, None, None] * (matrix @ matrix.T) + eye
    want = torch.linalg.solve(gram, flat(v)[:, :, None]).reshape(v.shape)
    got = operator.solve_gram(v, weights, shape)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    alone = operator.solve_gram(v[2:3], 20.0, shape)
    torch.testing.assert_close(alone, got[2:3], rtol=1e-4, atol=1e-5)


@CASES
@pytest.mark.parametrize("weight", [1e-3, 1.0, 400.0, torch.tensor([0.1, 3.0, 50.0])])
def test_proximal_is_where_the_gradient_vanishes(operator, shape, weight):
    z = normal((3, *shape), 6)
    y = normal(tuple(operator.forward(z).shape), 7)
    x = operator.proximal(z, y, weight)
    assert x.shape == z.shape
    w = torch.as_tensor(weight, dtype=torch.float64).expand(3).reshape((3,) + (1,) * len(shape))
    slope = w * operator.adjoint(operator.forward(x) - y) + (x - z)
    assert float(slope.abs().max()) < 1e-3 * max(1.0, float(w.max()) ** 0.5)
    matrix = dense(operator, shape)
    for i, wi in enumerate(w.flatten().tolist()):
        gram = wi * matrix.T @ matrix + torch.eye(matrix.shape[1], dtype=torch.float64)
        want = torch.linalg.solve(gram, wi * matrix.T @ flat(y)[i] + flat(z)[i])
        torch.testing.assert_close(flat(x)[i], want, rtol=1e-5, atol=1e-5)


@CASES
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_narrow_types_stay_narrow(operator, shape, dtype):
    x = normal((2, *shape), 8).to(dtype)
    y = operator.forward(x)
    assert y.dtype == operator.adjoint(y).dtype == dtype
    if dtype == torch.float32:
        moved = operator.proximal(x, y + 1, 2.0)
        assert moved.dtype == dtype
        want = operator.proximal(x.double(), y.double() + 1, 2.0)
        torch.testing.assert_close(moved.double(), want, rtol=1e-4, atol=1e-4)


def test_no_operator_changes_its_input():
    for operator, shape in LINEAR.values():
        x = normal((2, *shape), 9)
        kept = x.clone()
        y = operator.forward(x)
        operator.adjoint(y).add_(1.0)
        operator.proximal(x, y, 1.0)
        if not isinstance(operator, Identity):
            assert torch.equal(x, kept)


def test_composition_and_stack_can_do_what_their_parts_can():
    sine = FunctionOperator(torch.sin)
    for mixed in (
        compose(sine, Identity()),
        compose(Identity(), sine),
        stack([Identity(), sine], [(3,), (3,)]),
    ):
        assert not isinstance(mixed, LinearOperator)
    assert isinstance(compose(Identity(), Identity()), LinearOperator)
    assert isinstance(stack([Identity(), Identity()], [(3,), (3,)]), LinearOperator)
    x = normal((2, 3), 2)
    assert torch.equal(compose(sine, Matrix(torch.eye(3).double())).forward(x), torch.sin(x))
    both = stack([Identity(), sine], [(3,), (3,)])(x)
    assert torch.equal(both, torch.cat([x, torch.sin(x)], 1))


class OnlyAdjoint(LinearOperator):
    """A user's operator: forward and adjoint, nothing else."""

    def __init__(self, matrix):
        self.matrix = matrix

    def forward(self, x):
        return flat(x) @ self.matrix.T

    def adjoint(self, y):
        return y @ self.matrix


def test_an_adjoint_is_all_that_a_linear_operator_needs():
    matrix, z, y = normal((2, 5), 1), normal((3, 5), 2), normal((3, 2), 3)
    own, known = OnlyAdjoint(matrix), Matrix(matrix)
    weight = torch.tensor([0.5, 2.0, 30.0])
    torch.testing.assert_close(own.proximal(z, y, weight), known.proximal(z, y, weight))
    torch.testing.assert_close(own.pseudo_inverse(y, (5,)), known.pseudo_inverse(y, (5,)))


def test_settings_outside_their_domain():
    with pytest.raises(SettingsError, match="at least one entry"):
        Mask(torch.zeros(3, dtype=torch.bool))
    with pytest.raises(SettingsError, match="at least one channel"):
        SumOverChannels(0)
    with pytest.raises(ShapeError, match=r"6 columns.*\(2, 2\)"):
        Matrix(torch.zeros(1, 6), (2, 2))
    with pytest.raises(SettingsError, match="found 1 and 2"):
        stack([Identity()], [(1,), (2,)])
    with pytest.raises(SettingsError, match="found 0 and 0"):
        stack([], [])


def test_wrong_shapes_are_refused():
    with pytest.raises(ShapeError, match=r"event shape \(3,\); found \(4,\)"):
        Mask(torch.ones(3, dtype=torch.bool)).forward(torch.zeros(1, 4))
    with pytest.raises(ShapeError, match="sums 4 channels; found 3"):
        SumOverChannels(4).forward(torch.zeros(1, 3, 7))


class TestConjugateGradient:
    def system(self, seed: int, size: int = 12):
        root = normal((size, size), seed)
        return root @ root.T + 0.1 * torch.eye(size, dtype=torch.float64)

    def test_solves_each_item_on_its_own(self):
        system = self.system(1)
        rhs = normal((4, 12), 2)
        rhs[1] = 0
        rhs[2] *= 1e6
        together = conjugate_gradient(lambda u: u @ system, rhs, tolerance=1e-10)
        torch.testing.assert_close(together @ system, rhs, rtol=1e-6, atol=1e-6)
        assert torch.equal(together[1], torch.zeros(12, dtype=torch.float64))
        for i in range(4):
            alone = conjugate_gradient(lambda u: u @ system, rhs[i : i + 1], tolerance=1e-10)
            torch.testing.assert_close(alone[0], together[i], rtol=1e-8, atol=1e-12)

    def test_ends_within_the_number_of_unknowns(self):
        system, calls = self.system(3, 6), []

        def apply(u):
            calls.append(1)
            return u @ system

        conjugate_gradient(apply, normal((1, 6), 4), tolerance=1e-8)
        assert len(calls) <= 12

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_a_zero_right_hand_side_gives_zero(self, dtype):
        out = conjugate_gradient(lambda u: 2 * u, torch.zeros(2, 3, 4, dtype=dtype))
        assert torch.equal(out, torch.zeros(2, 3, 4, dtype=dtype))
