import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mgdm_audio.sampling.chunk_stream import (
    PADDING,
    ChunkStream,
    ShiftedStreams,
    chunk_sizes,
)
from mgdm_audio.sampling.crossfade import fade_in, reflected
from mgdm_audio.sampling.seam_noise import NOISE_BLOCK, PositionStreams
from mgdm_audio.sampling.stem_sampler import SamplingSettings, StemSampler
from mgdm_audio.sampling.windowed_prior import Pinned, windowed
from mgdm_core.conditionals import Tweedie
from mgdm_core.errors import CancelledError, SettingsError
from mgdm_core.index_laws import Fraction
from mgdm_core.samplers import TweedieGibbs
from tests.audio.toy_prior import draw_stems, toy_prior

SAMPLER = TweedieGibbs(7, index_law=Fraction(0.8), conditional=Tweedie(draw=False))


def make_sampler(chunk=6.0, samples=1, batch_size=4, **changes) -> StemSampler:
    sampling = SamplingSettings(settings=SAMPLER, samples=samples, chunk=chunk, **changes)
    return StemSampler(toy_prior(), sampling, batch_size=batch_size)


def separate(sampler, mixture, seed=0, blocks=(50_000,), on_progress=None):
    stream = ChunkStream(sampler, seed, len(mixture), on_progress)
    out, at, k = [], 0, 0
    while at < len(mixture):
        size = blocks[k % len(blocks)]
        out += stream.push(mixture[at : at + size])
        at, k = at + size, k + 1
    return torch.cat(out, -1), stream


class TestPositionNoise:
    def test_two_chunks_see_the_same_noise_where_they_overlap(self):
        first = PositionStreams([5], 0, 4 * NOISE_BLOCK)
        second = PositionStreams([5], 2 * NOISE_BLOCK, 3 * NOISE_BLOCK)
        for _ in range(3):
            a = first.normal((2, 4 * NOISE_BLOCK))
            b = second.normal((2, 3 * NOISE_BLOCK))
            assert torch.equal(a[..., 2 * NOISE_BLOCK :], b[..., : 2 * NOISE_BLOCK])

    def test_items_blocks_and_draws_differ(self):
        streams = PositionStreams([1, 2], -NOISE_BLOCK, 2 * NOISE_BLOCK)
        a, b = streams.normal((2 * NOISE_BLOCK,)), streams.normal((2 * NOISE_BLOCK,))
        rows = [*a, *b]
        halves = [h for r in rows for h in r.split(NOISE_BLOCK)]
        for i, x in enumerate(halves):
            for y in halves[:i]:
                assert abs(float((x * y).mean())) < 0.05
        assert abs(float(torch.cat(halves).std()) - 1) < 0.02

    def test_temperature_scales_the_noise(self):
        hot = PositionStreams([3], 0, 100).normal((4, 100))
        cold = PositionStreams([3, 4], 0, 100, 0.25).select([0]).normal((4, 100))
        assert torch.equal(cold, 0.25 * hot)

    def test_alone_and_in_a_batch_to_the_bit(self):
        both = PositionStreams([3, 4], 0, NOISE_BLOCK + 7).normal((4, NOISE_BLOCK + 7))
        alone = PositionStreams([4], 0, NOISE_BLOCK + 7).normal((4, NOISE_BLOCK + 7))
        assert torch.equal(both[1:], alone)

    def test_the_origin_must_lie_on_the_grid(self):
        with pytest.raises(SettingsError, match="multiple of"):
            PositionStreams([0], 1, 100)


class TestWindowedPrior:
    def test_a_window_is_the_prior_itself(self):
        prior = toy_prior()
        x = torch.randn(1, 4, prior.window)
        long = windowed(prior, prior.window, prior.window // 2)
        assert torch.equal(long.denoise(x, 300), prior.denoise(x, 300))

    @pytest.mark.parametrize("batch_size", [1, 3, 16])
    def test_batches_of_windows_change_nothing(self, batch_size):
        prior = toy_prior(window=32_768)
        x = torch.randn(2, 4, 32_768 + 3 * 16_384)
        t = torch.tensor([200, 700])
        reference = windowed(prior, 32_768, 16_384, batch_size=4).denoise(x, t)
        other = windowed(prior, 32_768, 16_384, batch_size=batch_size).denoise(x, t)
        assert torch.allclose(other, reference, atol=1e-7)

    def test_a_stationary_prior_is_the_same_in_windows_but_at_its_edges(self):
        prior = toy_prior(window=65_536)
        x = torch.randn(1, 4, 65_536 + 2 * 49_152)
        got = windowed(prior, 65_536, 49_152).denoise(x, 400)
        want = prior.denoise(x, 400)
        # The cross-fade reaches zero where a window's own zero padding would be heard.
        assert float((got - want).square().mean() / want.square().mean()) < 1e-3

    def test_the_gradient_passes_through_all_windows(self):
        """The toy prior is linear: <gradient of <w, D(x)>, v> = <w, D(v)>, whatever x is."""
        long = windowed(toy_prior(window=32_768), 32_768, 16_384, batch_size=2)
        generator = torch.Generator().manual_seed(0)
        shape = (2, 4, 32_768 + 2 * 16_384)
        x, v, w = torch.randn(3, *shape, generator=generator)
        x.requires_grad_(True)
        (gradient,) = torch.autograd.grad((w * long.denoise(x, 400)).double().sum(), x)
        want = (w * long.denoise(v, 400)).double().sum()
        torch.testing.assert_close((gradient * v).double().sum(), want, rtol=1e-4, atol=1e-2)

    def test_masks_are_cross_faded_on_the_frames_of_the_whole_signal(self):
        prior = toy_prior(window=32_768)
        x = torch.randn(1, 4, 32_768 + 2 * 16_384)
        got = windowed(prior, 32_768, 16_384).denoise_with_variance(x, 500)
        want = prior.denoise_with_variance(x, 500)
        assert got.variance.shape == want.variance.shape
        assert torch.allclose(got.variance, want.variance, rtol=1e-4)

    def test_what_is_removed_from_all_stems_goes_to_each_by_its_share(self):
        """Stem k's variance is M^2 q_k, its share of a bin of magnitude M."""
        prior = toy_prior(window=32_768)
        x = 0.1 * torch.randn(1, 4, 32_768)
        found = windowed(prior, 32_768, 32_768, variance="shares").denoise_with_variance(x, 500)
        magnitude = prior.spectral.forward(prior.denoise(x, 500)).abs()
        total = magnitude.sum(1, keepdim=True)
        torch.testing.assert_close(
            found.variance / found.variance.sum(1, keepdim=True),
            magnitude / total,
            atol=1e-6,
            rtol=1e-3,
        )
        torch.testing.assert_close(found.variance.sum(1, keepdim=True), total**2)

    def test_no_variance_falls_below_its_floor(self):
        prior = toy_prior(window=32_768)
        silence = torch.zeros(1, 4, 32_768)
        noise = float(prior.schedule.sigma[500]) ** 2
        power = prior.average_power[None, :, :, None]
        for kind in ("shares", "tweedie"):
            found = windowed(prior, 32_768, 32_768, variance=kind, variance_floor=0.3)
            variance = found.denoise_with_variance(silence, 500).variance
            least = (0.3 * noise * power / (power + noise)).expand_as(variance)
            assert (variance >= least * (1 - 1e-5)).all()
        torch.testing.assert_close(
            windowed(prior, 32_768, 32_768, variance="shares", variance_floor=0.3)
            .denoise_with_variance(silence, 500)
            .variance,
            least,
        )

    def test_unknown_variance_lists_the_names(self):
        with pytest.raises(SettingsError, match="tweedie, shares; found 'exact'"):
            windowed(toy_prior(window=32_768), 32_768, 32_768, variance="exact")
        with pytest.raises(SettingsError, match="tweedie, shares; found 'exact'"):
            SamplingSettings(variance="exact")
        with pytest.raises(SettingsError, match=r"variance_floor lies in \[0, 1\]; found 2"):
            SamplingSettings(variance_floor=2.0)

    def test_pinned_samples_are_kept_at_the_start_and_free_at_the_end(self):
        known = torch.randn(1, 4, 1000)
        x_0 = torch.zeros(1, 4, 5000)
        out = Pinned(known).apply(x_0)
        assert torch.allclose(out[..., :5], known[..., :5], atol=1e-3)
        assert float(out[..., 990:].abs().max()) < 1e-2
        assert torch.equal(out[..., 1000:], x_0[..., 1000:])

    def test_other_lengths_are_refused(self):
        with pytest.raises(SettingsError, match=r"window \+ k hop"):
            windowed(toy_prior(window=32_768), 32_768, 16_384).denoise(
                torch.zeros(1, 4, 40_000), 10
            )


class TestCrossfade:
    @given(n=st.integers(1, 5000))
    def test_a_fade_and_its_mirror_image_sum_to_one(self, n):
        ramp = fade_in(n, torch.float64)
        assert torch.allclose(ramp + ramp.flip(0), torch.ones(n, dtype=torch.float64))
        assert bool((ramp.diff() > 0).all())

    @given(n=st.integers(1, 40), before=st.integers(0, 100), after=st.integers(0, 100))
    def test_reflection_equals_numpys(self, n, before, after):
        x = np.arange(n, dtype=np.float32)
        want = np.pad(x, (before, after), mode="reflect" if n > 1 else "edge")
        assert np.array_equal(reflected(torch.from_numpy(x), before, after).numpy(), want)


class TestShifts:
    def test_their_mean_is_the_mean_of_the_shifted_streams(self):
        mixture = draw_stems(50_000).sum(0)
        sampler = make_sampler(shifts=2, chunk=3.0)
        together = ShiftedStreams(sampler, 0, len(mixture))
        found = torch.cat([p for at in range(0, 50_000, 30_000)
                           for p in together.push(mixture[at : at + 30_000])], -1)  # fmt: skip
        shift = NOISE_BLOCK * (sampler.hop // NOISE_BLOCK // 2)
        alone = [ChunkStream(sampler, 0, len(mixture), shift=s) for s in (0, shift)]
        want = torch.stack([torch.cat(a.push(mixture), -1) for a in alone])
        assert float((want[0] - want[1]).abs().max()) > 0
        torch.testing.assert_close(found, want.mean(0))
        assert float((found.sum(1) - mixture).abs().max()) < 1e-3 * float(mixture.abs().max())

    @given(n=st.integers(1, 900_000), shift=st.integers(0, 2))
    def test_sizes_of_chunks_are_known_beforehand(self, n, shift):
        sampler = make_sampler()
        sizes = chunk_sizes(sampler, n, shift * NOISE_BLOCK)
        overlap = sampler.window - sampler.hop
        covered = sum(sizes) - overlap * (len(sizes) - 1) - PADDING - shift * NOISE_BLOCK
        assert n + PADDING // 2 <= covered < n + PADDING // 2 + max(sampler.hop, NOISE_BLOCK)
        assert all(size == sampler.chunk_length() for size in sizes[:-1])


class TestChunkStream:
    def test_stems_sum_to_the_mixture(self):
        mixture = draw_stems(100_000).sum(0)
        stems, _ = separate(make_sampler(chunk=3.0, samples=2), mixture)
        assert stems.shape == (2, 4, 100_000)
        assert float((stems.sum(1) - mixture).abs().max()) < 1e-3 * float(mixture.abs().max())

    def test_the_known_stems_come_out(self):
        truth = draw_stems(100_000)
        stems, _ = separate(make_sampler(chunk=3.0), truth.sum(0))
        error = (stems[0] - truth).square().sum(-1) / truth.square().sum(-1)
        assert float(error.max()) < 0.05  # bands barely overlap: 13 dB and better

    # Both chunks of 45 000 samples reach beyond their end; nothing came out of them.
    @example(n=45_000, blocks=[20_000])
    @settings(max_examples=8, deadline=None)
    @given(
        n=st.one_of(st.integers(1, 3000), st.integers(45_000, 70_000)),
        blocks=st.lists(st.integers(1_000, 50_000), min_size=1, max_size=3),
    )
    def test_every_length_and_any_blocks(self, n, blocks):
        mixture = draw_stems(max(n, 1024), seed=1).sum(0)[:n]
        stems, stream = separate(make_sampler(chunk=3.0), mixture, blocks=(n,))
        again, _ = separate(make_sampler(chunk=3.0), mixture, blocks=tuple(blocks))
        assert stems.shape[-1] == n
        assert torch.equal(stems, again)
        assert stream.traces or n < 100  # next to nothing counts as silence

    def test_same_seed_same_bytes_other_seed_other_bytes(self):
        mixture = draw_stems(20_000).sum(0)
        a, _ = separate(make_sampler(), mixture, seed=3)
        b, _ = separate(make_sampler(), mixture, seed=3)
        c, _ = separate(make_sampler(), mixture, seed=4)
        assert torch.equal(a, b)
        assert not torch.equal(a, c)

    def test_batch_size_changes_less_than_minus_fifty_decibel(self):
        mixture = draw_stems(100_000).sum(0)
        a, _ = separate(make_sampler(batch_size=1), mixture)
        b, _ = separate(make_sampler(batch_size=3), mixture)
        assert float((a - b).square().sum() / a.square().sum()) < 1e-5

    def test_chunks_agree_with_one_long_chunk(self):
        mixture = draw_stems(260_000).sum(0)
        whole, one = separate(make_sampler(chunk=16.0), mixture)
        parts, many = separate(make_sampler(chunk=5.0), mixture)
        assert len(one.traces) == 1
        assert len(many.traces) >= 3
        difference = (whole - parts).square().sum() / whole.square().sum()
        assert 10 * float(difference.log10()) < -25

    def test_no_step_at_a_seam_larger_than_elsewhere(self):
        # A low tone: its second difference is small, so a step would stand out.
        n = 300_000
        mixture = 0.1 * torch.sin(2 * torch.pi * 60 * torch.arange(n) / 22_050)
        sampler = make_sampler(chunk=5.0)
        stems, stream = separate(sampler, mixture)
        assert len(stream.traces) >= 3
        curvature = stems[0].diff(n=2).abs().amax(0)
        step = sampler.chunk_length() - (sampler.window - sampler.hop)
        seams = [k * step - PADDING for k in range(1, len(stream.traces))]
        for seam in seams:
            near = float(curvature[seam - 50 : seam + 40_000].max())
            elsewhere = float(curvature[50_000:-50_000].quantile(0.999))
            assert near < 3 * elsewhere + 1e-6

    def test_silence_is_not_sampled(self):
        sampler = make_sampler()
        stems, stream = separate(sampler, torch.zeros(100_000))
        assert not bool(stems.any())
        assert stream.traces == []
        assert sampler.prior.network.calls == 0

    def test_progress_rises_to_one_and_can_cancel(self):
        seen = []
        mixture = draw_stems(120_000).sum(0)
        _, stream = separate(make_sampler(chunk=3.0), mixture, on_progress=seen.append)
        assert seen == sorted(seen)
        assert seen[-1] == 1.0
        # At every evaluation of a batch of windows, not once per chunk or level.
        evaluations = sum(trace.evaluations for trace in stream.traces)
        assert len(set(seen)) >= evaluations > len(stream.traces)
        with pytest.raises(CancelledError):
            separate(make_sampler(chunk=3.0), mixture, on_progress=lambda share: share < 0.3)
