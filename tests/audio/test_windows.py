"""Windows over a signal and back: identity for every length, window and hop."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mgdm_audio.sampling.windows import (
    OverlapAdder,
    WindowCutter,
    WindowPlan,
    cut,
    fade,
    plan_windows,
)
from mgdm_core.errors import SettingsError, ShapeError


@st.composite
def sizes(draw):
    window = draw(st.integers(1, 40))
    hop = draw(st.integers(1, window))
    return draw(st.integers(1, min(300, 30 * hop + window))), window, hop


def joined(windows, plan):
    adder = OverlapAdder(plan)
    return [adder.add(w) for w in windows]


@settings(max_examples=80, deadline=None)
@given(sizes(), st.integers(0, 2**31))
def test_cut_and_add_is_the_identity(size, seed):
    length, window, hop = size
    x = torch.randn(2, 3, length, generator=torch.Generator().manual_seed(seed))
    plan = plan_windows(length, window, hop)
    pieces = joined([cut(x, plan, i) for i in range(plan.count)], plan)
    y = torch.cat(pieces, -1)
    assert y.shape == x.shape
    assert y.dtype == x.dtype
    assert float((y - x).abs().max()) < 1e-6


@settings(max_examples=60, deadline=None)
@given(sizes())
def test_weights_sum_to_one_and_are_positive(size):
    plan = plan_windows(*size)
    weight = fade(plan)
    assert weight.shape == (plan.window,)
    assert float(weight.min()) > 0
    ones = [torch.ones(plan.window, dtype=torch.float64)] * plan.count
    total = torch.cat(joined(ones, plan))
    assert total.shape == (plan.length,)
    assert bool((total == 1).all())


@settings(max_examples=60, deadline=None)
@given(sizes())
def test_plan(size):
    length, window, hop = size
    plan = plan_windows(*size)
    steps = [b - a for a, b in zip(plan.starts, plan.starts[1:])]
    assert all(step == hop for step in steps[:-1])
    assert all(1 <= step <= hop for step in steps)
    assert plan.starts[0] <= 0
    assert plan.starts[-1] + window >= length
    assert (plan.count == 1) == (length <= window)
    # No window is wasted: without the last one the reflected signal would not be covered.
    lead = -plan.starts[0]
    if plan.count > 1:
        assert lead == (window - hop) // 2
        assert plan.starts[-2] + window < length + lead
        assert plan.starts[-1] + window == length + lead
    for i in range(1, plan.count):
        assert plan.shared(i) == plan.starts[i - 1] + window - plan.starts[i]


def test_one_window_is_centred_and_reflected():
    plan = plan_windows(3, 8, 4)
    assert plan.starts == (-2,)
    assert cut(torch.tensor([1.0, 2.0, 3.0]), plan, 0).tolist() == [3, 2, 1, 2, 3, 2, 1, 2]


def test_one_sample_fills_a_window():
    plan = plan_windows(1, 5, 5)
    assert cut(torch.tensor([0.5]), plan, 0).tolist() == [0.5] * 5


def test_ends_are_reflected_without_repeating_the_last_sample():
    x = torch.arange(10.0)
    plan = plan_windows(10, 6, 2)
    assert plan.starts == (-2, 0, 2, 4, 6)
    assert cut(x, plan, 0).tolist() == [2, 1, 0, 1, 2, 3]
    assert cut(x, plan, 4).tolist() == [6, 7, 8, 9, 8, 7]


@settings(max_examples=60, deadline=None)
@given(sizes(), st.lists(st.integers(0, 50), max_size=12))
def test_streamed_windows_are_the_same(size, blocks):
    length, window, _ = size
    x = torch.arange(float(length)).expand(2, -1)
    plan = plan_windows(*size)
    cutter, windows, at = WindowCutter(plan), [], 0
    for block in [*blocks, length]:
        windows += cutter.push(x[:, at : at + block])
        at = min(at + block, length)
        assert cutter._buffer.shape[-1] <= window + max(block, 1)
    assert len(windows) == plan.count
    for i, piece in enumerate(windows):
        assert torch.equal(piece, cut(x, plan, i))


def test_blocks_come_as_soon_as_they_are_final():
    plan = plan_windows(100, 20, 10)
    sizes_out = [p.shape[-1] for p in joined([torch.zeros(20)] * plan.count, plan)]
    assert sum(sizes_out) == 100
    assert sizes_out[:3] == [5, 10, 10]
    assert max(sizes_out) <= 20


def test_constant_power_fades_cross_linearly():
    """Over an overlap of up to half a window the fades add to one without being divided."""
    plan = plan_windows(1000, 40, 30)
    weight = fade(plan)
    torch.testing.assert_close(weight[-10:] + weight[:10], torch.ones(10, dtype=torch.float64))
    assert bool((weight[10:-10] == 1).all())


def test_jump_between_windows_is_spread_over_the_overlap():
    """Windows that disagree by one are joined without any step larger than the fade's slope."""
    plan = plan_windows(200, 50, 25)
    pieces = joined([torch.full((50,), float(i % 2)) for i in range(plan.count)], plan)
    steps = torch.cat(pieces).diff().abs()
    assert float(steps.max()) < 1.6 / 25


def test_input_and_windows_are_not_changed():
    x = torch.randn(50, generator=torch.Generator().manual_seed(0))
    plan = plan_windows(50, 20, 15)
    kept = x.clone()
    piece = cut(x, plan, 1)
    piece += 1
    assert torch.equal(x, kept)
    adder = OverlapAdder(plan)
    window = torch.ones(20)
    out = adder.add(window)
    out += 5
    assert bool((window == 1).all())
    (streamed, *_) = WindowCutter(plan).push(x)
    streamed += 1
    assert torch.equal(x, kept)


@pytest.mark.parametrize(("length", "window", "hop"), [(0, 4, 2), (5, 0, 1), (5, 4, 5), (5, 4, 0)])
def test_settings_are_checked(length, window, hop):
    with pytest.raises(SettingsError, match="1 <= hop <= window"):
        plan_windows(length, window, hop)


def test_plan_with_a_hole_is_refused():
    with pytest.raises(SettingsError, match="cover the signal"):
        WindowPlan((0, 5), 4, 4, 9)


def test_wrong_lengths_are_refused():
    plan = plan_windows(10, 4, 2)
    with pytest.raises(ShapeError, match="10 samples; found 9"):
        cut(torch.zeros(9), plan, 0)
    with pytest.raises(ShapeError, match="10 samples; found 11"):
        WindowCutter(plan).push(torch.zeros(11))
    adder = OverlapAdder(plan)
    with pytest.raises(ShapeError, match="of 3 samples"):
        adder.add(torch.zeros(3))
    for _ in range(plan.count):
        adder.add(torch.zeros(4))
    with pytest.raises(ShapeError, match="windows of 4"):
        adder.add(torch.zeros(4))
