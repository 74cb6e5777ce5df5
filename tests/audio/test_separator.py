import subprocess
import sys
import threading
from dataclasses import replace

import numpy as np
import pytest
import soundfile as sf
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mgdm_audio.errors import AudioError
from mgdm_audio.sampling.presets import PRESETS, sampling_settings
from mgdm_audio.separation.separator import Separator
from mgdm_core.conditionals import Variational
from mgdm_core.errors import CancelledError, SettingsError, ShapeError
from mgdm_core.index_laws import Fraction
from tests.audio.tiny_stems_prior import STEMS, save_tiny_stems, song


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return save_tiny_stems(tmp_path_factory.mktemp("prior") / "tiny.safetensors")


@pytest.fixture(scope="module")
def separator(path):
    return Separator.from_pretrained(path, device="cpu", preset="fast", settings={"levels": 3})


def drawing(separator, samples):
    return Separator(separator.prior, replace(separator.sampling, samples=samples))


class TestCall:
    @settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(
        n=st.one_of(st.integers(1, 200), st.integers(1_000, 60_000)),
        rate=st.sampled_from([8_000, 22_050, 44_100, 48_000, 96_000]),
        channels=st.integers(1, 4),
        scale=st.sampled_from([1e-3, 1.0, 30.0]),
        offset=st.sampled_from([0.0, 0.3]),
    )
    def test_stems_and_residual_sum_to_the_input_whatever_it_is(
        self, separator, n, rate, channels, scale, offset
    ):
        n = max(n, channels)  # fewer samples than channels are taken for frames first
        mix = scale * (song(n / rate, rate, channels) + np.float32(offset))
        result = separator(mix, rate)
        total = sum(result.stems[s].astype(np.float64) for s in STEMS) + result.residual
        assert all(result.stems[s].shape == mix.shape for s in STEMS)
        assert np.abs(total - mix).max() <= 1e-6 * max(1.0, float(np.abs(mix).max()))

    def test_shapes_and_types_come_back_as_given(self, separator):
        mono = song(0.4, 22_050, 1)[0]
        as_numpy = separator(mono, 22_050)
        as_torch = separator(torch.from_numpy(mono), 22_050)
        as_matrix = separator(mono[None], 22_050)
        assert as_numpy.stems["bass"].shape == mono.shape
        assert isinstance(as_numpy.stems["bass"], np.ndarray)
        assert isinstance(as_torch.stems["bass"], torch.Tensor)
        assert as_matrix.stems["bass"].shape == (1, len(mono))
        assert np.array_equal(as_numpy.stems["bass"], as_torch.stems["bass"].numpy())
        assert np.array_equal(as_numpy.stems["bass"], as_matrix.stems["bass"][0])

    def test_the_input_is_not_changed(self, separator):
        mix = song(0.3, 44_100, 2)
        before = mix.copy()
        separator(mix, 44_100, share_residual=True)
        assert np.array_equal(mix, before)

    def test_a_file_gives_what_its_array_gives(self, separator, tmp_path):
        mix = song(0.5, 44_100, 2)
        file = tmp_path / "mix.wav"
        sf.write(file, mix.T, 44_100, subtype="FLOAT")
        a, b = separator(file), separator(mix, 44_100)
        assert a.rate == 44_100
        assert all(np.array_equal(a.stems[s], b.stems[s]) for s in STEMS)

    def test_shared_residual_is_zero(self, separator):
        mix = song(0.5, 44_100, 2)
        result = separator(mix, 44_100, share_residual=True)
        assert np.abs(sum(result.stems.values()) - mix).max() < 1e-6
        assert np.abs(result.residual).max() < 1e-6

    def test_scale_of_the_input_is_scale_of_the_stems(self, separator):
        mix = song(1.0, 22_050, 1)[0]
        one = separator(mix, 22_050).stems
        for scale in (1e-2, 1e2):
            other = separator(np.float32(scale) * mix, 22_050).stems
            for s in STEMS:
                peak = np.abs(one[s]).max() + 1e-6
                assert np.abs(other[s] / scale - one[s]).max() < 1e-3 * peak

    def test_samples_and_uncertainty(self, separator):
        mix = song(0.6, 22_050, 1)[0]
        result = drawing(separator, 3)(mix, 22_050, keep_samples=True)
        assert result.samples is not None
        assert result.uncertainty is not None
        for s in STEMS:
            assert result.samples[s].shape == (3, len(mix))
            assert result.uncertainty[s].min() >= 0
        assert separator(mix, 22_050).uncertainty is None

    def test_sample_j_is_the_run_with_seed_plus_j(self, separator):
        mix = song(0.6, 22_050, 1)[0]
        both = drawing(separator, 2)(mix, 22_050, seed=4, keep_samples=True)
        second = drawing(separator, 1)(mix, 22_050, seed=5)
        for s in STEMS:
            error = np.square(both.samples[s][1] - second.stems[s]).sum()
            assert error < 1e-5 * np.square(second.stems[s]).sum() + 1e-12

    def test_silence(self, separator):
        result = separator(np.zeros((2, 5000), np.float32), 44_100)
        assert result.trace is None
        assert not any(v.any() for v in result.stems.values())

    def test_progress_and_cancel(self, separator):
        mix = song(1.0, 22_050, 1)[0]
        seen: list[float] = []
        separator(mix, 22_050, on_progress=seen.append)
        assert seen == sorted(seen)
        assert seen[-1] == 1.0
        calls: list[float] = []
        with pytest.raises(CancelledError):
            separator(mix, 22_050, on_progress=lambda share: calls.append(share) or False)
        assert len(calls) == 1

    def test_fast_reports_before_a_chunk_is_done_and_can_be_cancelled(self, path, monkeypatch):
        """It once reported after whole chunks only, and took no notice of a cancelling callback."""
        fast = Separator.from_pretrained(path, device="cpu", preset="fast", batch_size=1)
        mix = song(12.0, 22_050, 1)[0]
        evaluations: list[int] = []
        real = type(fast.prior).denoise_with_mask

        def counted(self, x, t):
            evaluations.append(len(x))
            return real(self, x, t)

        monkeypatch.setattr(type(fast.prior), "denoise_with_mask", counted)
        with pytest.raises(CancelledError):
            fast(mix, 22_050, on_progress=lambda share: share < 0.3)
        stopped = len(evaluations)
        seen: list[float] = []
        fast(mix, 22_050, on_progress=seen.append)
        assert stopped < 0.5 * (len(evaluations) - stopped)
        assert len(set(seen)) > 5
        assert max(b - a for a, b in zip([0.0, *seen], seen)) < 0.2

    def test_threads_do_not_disturb_each_other(self, separator):
        mixes = [song(0.5, 22_050, 1, seed=k)[0] for k in range(3)]
        alone = [separator(m, 22_050, seed=k).stems["drums"] for k, m in enumerate(mixes)]
        together: dict[int, np.ndarray] = {}

        def work(k: int) -> None:
            together[k] = separator(mixes[k], 22_050, seed=k).stems["drums"]

        threads = [threading.Thread(target=work, args=(k,)) for k in range(3)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        assert all(np.array_equal(together[k], alone[k]) for k in range(3))


class TestOutOfMemory:
    def test_the_batch_is_halved_once_and_said(self, separator, monkeypatch):
        notes: list[str] = []
        mix = song(6.0, 22_050, 1)[0]
        real = type(separator.prior).denoise_with_mask
        widest: list[int] = []

        def limited(self, x, t):
            if len(x) > 2:
                raise torch.OutOfMemoryError("pretended")
            widest.append(len(x))
            return real(self, x, t)

        monkeypatch.setattr(type(separator.prior), "denoise_with_mask", limited)
        narrow = Separator(separator.prior, separator.sampling, batch_size=4, on_note=notes.append)
        result = narrow(mix, 22_050)
        assert max(widest) == 2
        assert len(notes) == 1
        assert "2 window" in notes[0]
        assert result.stems["bass"].shape == mix.shape


class TestBadInput:
    @pytest.mark.parametrize(
        ("mix", "rate", "error", "says"),
        [
            (np.zeros(100), None, SettingsError, "rate"),
            (np.zeros(100), 44_100.5, SettingsError, "whole number of hertz"),
            (np.zeros(100), 7, AudioError, "8000 to 192000"),
            (np.zeros((66_150, 2)), 44_100, ShapeError, r"mix\.T"),
            (np.zeros((3, 2)), 44_100, ShapeError, r"mix\.T"),
            (np.zeros((9, 100)), 44_100, ShapeError, "1 to 8 channels"),
            (np.zeros((2, 3, 4)), 44_100, ShapeError, "channels"),
            (np.zeros((2, 0)), 44_100, ShapeError, "at least one sample"),
            (np.zeros(100, np.int16), 44_100, ShapeError, "floating point"),
            (np.full(100, np.nan), 44_100, AudioError, "NaN"),
            (np.full(100, np.inf), 44_100, AudioError, "infinity"),
        ],
    )
    def test_one_clear_line(self, separator, mix, rate, error, says):
        with pytest.raises(error, match=says) as caught:
            separator(mix, rate)
        assert "\n" not in str(caught.value)

    def test_numbers_of_any_kind_but_no_text(self, separator):
        mix = song(0.2, 22_050, 1)[0]
        plain = separator(mix, 22_050, seed=1)
        other = separator(mix, np.float64(22_050), seed=np.int64(1))
        assert np.array_equal(plain.stems["bass"], other.stems["bass"])
        with pytest.raises(SettingsError, match="seed"):
            separator(mix, 22_050, seed=-1)

    def test_wrong_types_get_one_line_too(self, path, tmp_path):
        """In a process of its own: the suite's type checker would be first to complain."""
        script = tmp_path / "script.py"
        script.write_text(
            f"""
import numpy as np, torch
torch.cuda.is_available = lambda: False
from mgdm_audio import Separator
from mgdm_core.errors import MGDMError
s = Separator.from_pretrained({str(path)!r}, device="cpu", preset="fast")
mix = np.zeros(100)
for call in (
    lambda: s(mix, "44100"), lambda: s(mix, 44100, seed=1.5), lambda: s(mix, 44100, seed="1"),
    lambda: s(mix, 44100, seed=True), lambda: s([[1, 2], [3, 4]], 44100),
    lambda: Separator("music-stems"), lambda: Separator(s.prior, batch_size="4"),
    lambda: Separator.from_pretrained({str(path)!r}, device="cuda"),
    lambda: Separator.from_pretrained({str(path)!r}, device="gpu"),
    lambda: Separator.from_pretrained({str(path)!r}, device=1),
):
    try:
        call()
    except MGDMError as error:
        print(error)
"""
        )
        done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
        says = (
            "rate is a whole number", "seed is a whole", "seed is a whole", "seed is a whole",
            "floating point", "from_pretrained('music-stems')", "batch_size is a whole",
            "no CUDA device", "a device is auto", "a device is auto",
        )  # fmt: skip
        lines = done.stdout.splitlines()
        assert len(lines) == len(says), done.stdout
        assert all(word in line for word, line in zip(says, lines)), done.stdout

    def test_a_rate_beside_a_file_that_has_another(self, separator, tmp_path):
        file = tmp_path / "x.wav"
        sf.write(file, np.zeros(10), 8_000)
        with pytest.raises(SettingsError, match="8000"):
            separator(file, 44_100)


class TestPresets:
    def test_names_and_changes(self):
        assert set(PRESETS) == {"fast", "balanced", "posterior", "paper"}
        changed = sampling_settings("fast", changes={"levels": "5", "start_sigma": "0.2"})
        assert changed.settings.levels == 5
        assert changed.start_sigma == 0.2

    def test_python_values_stay_python_values(self):
        changes = {"levels": 5, "start_sigma": 1, "index_law": Fraction(0.25)}
        changed = sampling_settings("fast", changes=changes | {"conditional.draw": True}, window=3)
        assert changed.settings.index_law == Fraction(0.25)
        assert changed.settings.conditional.draw is True
        assert (changed.start_sigma, changed.window) == (1.0, 3.0)
        assert isinstance(changed.start_sigma, float)
        for wrong, says in (
            ({"levels": 2.5}, "whole number"),
            ({"levels": [3]}, "levels"),
            ({"window": 1e9}, r"1\.\.60 s"),
            ({"window": float("nan")}, r"1\.\.60 s"),
        ):
            with pytest.raises(SettingsError, match=says):
                sampling_settings("fast", changes=wrong)
        with pytest.raises(SettingsError, match="no setting 'sample'"):
            sampling_settings(sample=3)

    def test_another_sampler_takes_its_own_settings(self):
        chosen = sampling_settings("fast", sampler="dps", changes={"steps": "12"})
        assert chosen.settings.steps == 12

    @pytest.mark.parametrize("name", ["mgdm", "ddnm", "msdm_dirac", "diffpir", "dps"])
    def test_samplers_run_under_the_prior(self, separator, name):
        few = {"levels": "3", "denoising_steps": "2", "conditional": Variational(2, 2)}
        changes = few if name == "mgdm" else {"steps": "3"}
        chosen = sampling_settings("fast", sampler=name, changes=changes)
        mix = song(0.3, 22_050, 1)[0]
        result = Separator(separator.prior, chosen)(mix, 22_050)
        assert np.isfinite(result.stems["piano"]).all()
        assert result.trace.evaluations > 0
