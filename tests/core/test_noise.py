"""Random streams: an item's numbers are its own, alone and in any batch."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mgdm_core.errors import SettingsError, ShapeError
from mgdm_core.noise import DeviceStreams, RandomStreams

SEEDS = st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=5)


def draw_everything(streams: RandomStreams) -> list[torch.Tensor]:
    count = len(streams)
    return [
        streams.normal((3, 5), torch.float64),
        streams.normal((7,)),
        streams.normal((2,), torch.bfloat16),
        streams.uniform(),
        streams.integers(3, 900),
        streams.categorical(torch.tensor([[1.0, 2.0, 3.0]]).expand(count, 3)),
        streams.normal((1,), torch.float64),
        streams.uniform((4,)),
    ]


@given(SEEDS)
@settings(max_examples=30)
def test_an_item_draws_the_same_alone_and_in_any_batch(seeds):
    together = draw_everything(RandomStreams(seeds))
    for i, seed in enumerate(seeds):
        for batch, alone in zip(together, draw_everything(RandomStreams([seed]))):
            assert torch.equal(batch[i], alone[0])


def test_different_seeds_differ_and_equal_seeds_do_not():
    x = RandomStreams([1, 2, 1]).normal((8,))
    assert torch.equal(x[0], x[2])
    assert not torch.equal(x[0], x[1])
    assert torch.equal(
        RandomStreams.from_seed(5, 3).normal((4,)), RandomStreams([5, 6, 7]).normal((4,))
    )


@pytest.mark.parametrize("kind", [RandomStreams, DeviceStreams])
def test_a_view_shares_the_generators(kind):
    streams, twin = kind([1, 2, 3]), kind([1, 2, 3])
    first = streams.select([2, 0]).normal((4,))
    want = twin.normal((4,))
    assert torch.equal(first, want[[2, 0]])
    # Items 0 and 2 moved on, item 1 did not.
    second = streams.normal((4,))
    assert torch.equal(second[1], want[1])
    follow = twin.normal((4,))
    assert torch.equal(second[[0, 2]], follow[[0, 2]])
    # A repeated item draws one after the other.
    pair = kind([9]).select([0, 0]).normal((4,))
    own = kind([9])
    assert torch.equal(pair[0], own.normal((4,))[0])
    assert torch.equal(pair[1], own.normal((4,))[0])


def test_the_global_generator_is_left_alone():
    before = torch.random.get_rng_state()
    draw_everything(RandomStreams([1, 2]))
    assert torch.equal(before, torch.random.get_rng_state())


def test_normal_numbers_are_standard():
    x = RandomStreams.from_seed(0, 4).normal((20000,), torch.float64)
    n = x.numel()
    assert abs(float(x.mean())) < 4.5 / n**0.5
    assert abs(float(x.var()) - 1) < 4.5 * (2 / n) ** 0.5
    pairs = torch.corrcoef(x) - torch.eye(4)
    assert float(pairs.abs().max()) < 4.5 / 20000**0.5


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_normal_like_follows_the_array(dtype):
    x = RandomStreams([1, 2]).normal_like(torch.zeros(2, 3, 4, dtype=dtype))
    assert x.shape == (2, 3, 4)
    assert x.dtype == dtype
    # A half precision is float32 rounded.
    if dtype == torch.bfloat16:
        wide = RandomStreams([1, 2]).normal((3, 4), torch.float32)
        assert torch.equal(x, wide.to(dtype))


@given(st.integers(-50, 50), st.integers(1, 60), st.integers(0, 1000))
def test_integers_stay_in_range(low, width, seed):
    drawn = RandomStreams([seed, seed + 1]).integers(low, low + width)
    assert bool(((drawn >= low) & (drawn < low + width)).all())


def test_integers_are_uniform_with_a_range_per_item():
    # One draw of each of many neighbouring seeds: the streams must be independent too.
    n = 8000
    low, width = torch.tensor([0, 10]).repeat(n // 2), torch.tensor([6, 3]).repeat(n // 2)
    drawn = RandomStreams.from_seed(0, n).integers(low, low + width) - low
    for first, cells in ((0, 6), (1, 3)):
        share = torch.bincount(drawn[first::2], minlength=cells) / (n // 2)
        bound = 4.5 * (1 / cells * (1 - 1 / cells) / (n // 2)) ** 0.5
        assert share.shape == (cells,)
        assert bool(((share - 1 / cells).abs() < bound).all())


def test_categorical_follows_the_weights_of_each_item():
    n = 8000
    weights = torch.tensor([[0.0, 1.0, 3.0, 0.0], [2.0, 1.0, 1.0, 4.0]])
    drawn = RandomStreams.from_seed(5, n).categorical(weights.repeat(n // 2, 1))
    for i in range(2):
        p = weights[i] / weights[i].sum()
        share = torch.bincount(drawn[i::2], minlength=4) / (n // 2)
        assert bool(((share - p).abs() <= 4.5 * (p * (1 - p) / (n // 2)).sqrt()).all())


def test_settings_outside_their_domain():
    with pytest.raises(SettingsError, match="at least one seed"):
        RandomStreams([])
    with pytest.raises(SettingsError, match="found -1"):
        RandomStreams([-1])
    with pytest.raises(SettingsError, match="low < high"):
        RandomStreams([1]).integers(3, 3)
    with pytest.raises(ShapeError, match="2 streams, found 3 items"):
        RandomStreams([1, 2]).normal_like(torch.zeros(3, 1))


# -- streams that draw on the device ---------------------------------------------------------------


def test_a_device_stream_is_the_same_alone_and_in_any_batch():
    together = DeviceStreams([5, 6, 7])
    alone = DeviceStreams([6])
    for shape in ((4,), (2, 3), (5,)):
        wide = torch.float64
        assert torch.equal(together.normal(shape, wide)[1], alone.normal(shape, wide)[0])
    assert torch.equal(together.uniform((3,))[1], alone.uniform((3,))[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_device_streams_draw_standard_normal_numbers(dtype):
    """Moments, tails and independence, each within 4.5 deviations of chance."""
    items, length = 40, 20_000
    x = DeviceStreams(range(items)).normal((length,), dtype).double()
    n = items * length
    assert abs(float(x.mean())) < 4.5 / n**0.5
    assert abs(float(x.square().mean()) - 1) < 4.5 * (2 / n) ** 0.5
    assert abs(float(x.pow(3).mean())) < 4.5 * (15 / n) ** 0.5
    assert abs(float(x.pow(4).mean()) - 3) < 4.5 * (96 / n) ** 0.5
    share = float((x.abs() > 3).double().mean())
    assert abs(share - 0.0026998) < 4.5 * (0.0027 / n) ** 0.5
    # Neighbouring positions, neighbouring seeds, and the two halves of Box and Muller's pairs.
    half = length // 2
    for a, b in ((x[:, 1:], x[:, :-1]), (x[1:], x[:-1]), (x[:, :half], x[:, half:])):
        assert abs(float((a * b).mean())) < 4.5 / a.numel() ** 0.5
        assert abs(float((a.square() * b.square()).mean()) - 1) < 4.5 * (8 / a.numel()) ** 0.5


def test_device_uniform_numbers_fill_the_line_evenly():
    u = DeviceStreams(range(20)).uniform((10_000,))
    assert 0 <= float(u.min()) < float(u.max()) < 1
    counts = torch.histc(u, 50, 0, 1)
    chi2 = float((counts - 4000).square().sum() / 4000)
    assert abs(chi2 - 49) < 4.5 * 98**0.5


@pytest.mark.parametrize("kind", [RandomStreams, DeviceStreams])
def test_streams_go_on_from_where_they_were_saved(kind):
    streams = kind([3, 4])
    streams.normal((5,))
    saved = streams.state()
    want = [streams.normal((3,)), streams.uniform(), streams.integers(2, 9)]
    other = kind([3, 4])
    other.restore(saved)
    got = [other.normal((3,)), other.uniform(), other.integers(2, 9)]
    assert all(torch.equal(a, b) for a, b in zip(want, got))


@pytest.mark.parametrize("kind", [RandomStreams, DeviceStreams])
def test_long_seeds_are_streams_of_their_own(kind):
    """A generator of torch's looks at 32 bits of its seed only."""
    seeds = [5, 5 + 2**32, 5 + 2**33, 5 + 2**61]
    rows = kind(seeds).normal((4,))
    assert len(torch.unique(rows[:, 0])) == len(seeds)


@pytest.mark.parametrize("kind", [RandomStreams, DeviceStreams])
@pytest.mark.parametrize("seeds", [[0.2, 0.7], ["a"], [None]])
def test_seeds_are_whole_numbers(kind, seeds, unchecked_shapes):
    with pytest.raises(SettingsError, match="seeds are whole numbers"):
        kind(seeds)
