"""Training of the bundled prior: the loop, resuming, presets, the command."""

import csv
import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from mgdm_audio.priors.stft_unet.network import STFTUNet
from mgdm_core.errors import MGDMError, SettingsError
from recipes.music_prior.commands import main
from recipes.music_prior.training.average import average_checkpoints
from recipes.music_prior.training.corruption import CorruptionSettings, corrupt
from recipes.music_prior.training.data import average_power
from recipes.music_prior.training.export import export, read_network
from recipes.music_prior.training.kit import slim
from recipes.music_prior.training.loss import denoising_loss
from recipes.music_prior.training.presets import PRESETS, TrainSettings, preset
from recipes.music_prior.training.train import BEFORE_DECAY, CHECKPOINT, learning_rate, train

from .tiny_training import TINY, Tones, near, same, settings_of, stream_of


class TestTraining:
    def test_same_seed_same_weights(self, tmp_path):
        a = train(settings_of(steps=2), Tones(), tmp_path / "a")
        b = train(settings_of(steps=2), Tones(), tmp_path / "b")
        c = train(settings_of(steps=2, seed=1), Tones(), tmp_path / "c")
        assert same(a["network"], b["network"])
        assert same(a["average"], b["average"])
        assert not same(a["network"], c["network"])

    def test_resume_equals_uninterrupted_to_the_bit(self, tmp_path):
        whole = train(settings_of(), Tones(), tmp_path / "a")
        train(settings_of(), Tones(), tmp_path / "b", stop_after=2)
        train(settings_of(), Tones(), tmp_path / "b", stop_after=1)
        pieces = train(settings_of(), Tones(), tmp_path / "b")
        assert pieces["step"] == whole["step"] == 4
        assert same(whole["network"], pieces["network"])
        assert same(whole["average"], pieces["average"])
        for kind in ("exp_avg_sq", "momentum_buffer"):
            moments = [
                [v[kind] for v in s["optimizer"]["state"].values() if kind in v]
                for s in (whole, pieces)
            ]
            assert moments[0]
            assert all(torch.equal(a, b) for a, b in zip(*moments, strict=True))

    def test_a_slim_checkpoint_in_pieces_goes_on(self, tmp_path):
        whole = train(settings_of(), Tones(), tmp_path / "a", stop_after=2)
        pieces = slim(tmp_path / "a" / CHECKPOINT, tmp_path / "pieces", megabytes=0.02)
        assert len(pieces) > 2
        assert all(piece.stat().st_size <= 20_000 for piece in pieces)
        (tmp_path / "b").mkdir()
        joined = b"".join(piece.read_bytes() for piece in pieces)
        (tmp_path / "b" / CHECKPOINT).write_bytes(joined)
        state = torch.load(tmp_path / "b" / CHECKPOINT, weights_only=True)
        for name, value in whole["network"].items():
            torch.testing.assert_close(state["network"][name].float(), value, rtol=5e-3, atol=1e-12)
        assert train(settings_of(), Tones(), tmp_path / "b")["step"] == 4

    def test_a_mean_of_checkpoints_and_the_way_back_to_the_start(self, tmp_path):
        first = train(settings_of(), Tones(), tmp_path / "a", stop_after=2)
        export(tmp_path / "a" / CHECKPOINT, tmp_path / "start.safetensors")
        start = read_network(tmp_path / "start.safetensors")
        begun = train(settings_of(), Tones(), tmp_path / "b", stop_after=1, origin=start)
        ended = train(settings_of(), Tones(), tmp_path / "c", origin=start)
        paths = [tmp_path / folder / CHECKPOINT for folder in "bc"]
        average_checkpoints(paths, tmp_path / "mean.pt")
        average_checkpoints(paths, tmp_path / "none.pt", tmp_path / "start.safetensors", 0.0)
        average_checkpoints(paths, tmp_path / "half.pt", tmp_path / "start.safetensors", 0.5)
        mean, none, half = (
            torch.load(tmp_path / f"{name}.pt", weights_only=True)["average"]
            for name in ("mean", "none", "half")
        )
        assert not same(begun["average"], ended["average"])
        held = dict(start.named_parameters())
        for name, value in mean.items():
            between = (begun["average"][name] + ended["average"][name]) / 2
            torch.testing.assert_close(value, between)
            torch.testing.assert_close(none[name], held[name])
            torch.testing.assert_close(half[name], (value + held[name]) / 2)
        assert same({k: v.half() for k, v in held.items()}, {k: v.half() for k, v in none.items()})
        assert not same(first["average"], mean)
        with pytest.raises(SettingsError, match="share"):
            average_checkpoints(paths, tmp_path / "x.pt", share=1.5)

    @pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"no checkpoint"])
    def test_what_is_no_checkpoint_is_said(self, tmp_path, content):
        (tmp_path / CHECKPOINT).write_bytes(content)
        with pytest.raises(MGDMError, match="cut off"):
            train(settings_of(), Tones(), tmp_path)

    def test_the_log_has_no_line_twice(self, tmp_path):
        train(settings_of(), Tones(), tmp_path, stop_after=1, report_every=1)
        state = torch.load(tmp_path / CHECKPOINT, weights_only=True)
        train(settings_of(), Tones(), tmp_path, stop_after=2, report_every=1)
        torch.save(state, tmp_path / CHECKPOINT)
        train(settings_of(), Tones(), tmp_path, report_every=1)
        lines = (tmp_path / "log.csv").read_text().splitlines()[1:]
        assert [int(line.split(",")[0]) for line in lines] == list(range(1, 5))

    def test_processor_time_and_audio_add_up_over_resumptions(self, tmp_path):
        """Columns of the log go on where a broken-off run stopped; a spent budget ends it."""
        train(settings_of(), Tones(), tmp_path, stop_after=2, report_every=1)
        train(settings_of(), Tones(), tmp_path, report_every=1)
        with (tmp_path / "log.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        cpu = [float(row["cpu_seconds"]) for row in rows]
        assert cpu == sorted(cpu)
        assert cpu[0] > 0
        data = settings_of().data
        per_step = data.batch * data.crop / 22_050
        audio = [float(row["audio_seconds"]) for row in rows]
        assert audio == pytest.approx([per_step * i for i in range(1, 5)], rel=1e-5)
        spent = train(settings_of(), Tones(), tmp_path / "spent", cpu_seconds=1e-9)
        assert spent["step"] == 1

    def test_extension_goes_on_before_the_decay(self, tmp_path):
        train(settings_of(), Tones(), tmp_path)
        state = torch.load(tmp_path / BEFORE_DECAY, weights_only=True)
        assert state["step"] == 2
        torch.save(state, tmp_path / CHECKPOINT)
        longer = train(settings_of(steps=5), Tones(), tmp_path)
        direct = train(settings_of(steps=5), Tones(), tmp_path / "direct")
        assert same(longer["network"], direct["network"])

    def test_one_batch_can_be_learnt(self):
        """Network, corruption and loss fit together: a batch seen again and again is learnt."""
        clean_wave = torch.from_numpy(np.stack([Tones().item(i)[:, :1024] for i in range(4)]))
        with torch.random.fork_rng():
            torch.random.default_generator.manual_seed(0)
            net = STFTUNet(TINY)
        clean = net.spectral.forward(clean_wave)
        white = net.spectral.forward(torch.randn(clean_wave.shape, generator=stream_of(1)))
        sigma = torch.tensor([0.02, 0.05, 0.1, 0.2])
        noisy = corrupt(clean, white, near(sigma), CorruptionSettings(cross_talk=1.0), stream_of(2))
        net.start_from_average(average_power(list(clean_wave.numpy()), net.spectral))
        optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
        losses = []
        for _ in range(40):
            turned = noisy.transpose(2, 3)
            estimate = net.denoise_parts(turned.real, turned.imag, sigma)
            loss = denoising_loss(estimate[:2], clean.transpose(2, 3), sigma, TINY.sigma_data)
            loss = loss.mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < 0.6 * losses[0]

    def test_reports_say_how_far_it_is(self, tmp_path):
        rows = []
        train(settings_of(), Tones(), tmp_path, progress=rows.append, report_every=2)
        assert [r["step"] for r in rows] == [2, 4]
        assert rows[-1]["eta_seconds"] == 0
        assert 0 < rows[-1]["loss"] < 3
        assert 0 <= rows[-1]["waiting_share"] <= 1

    def test_global_random_stream_is_left_alone(self, tmp_path):
        before = torch.random.get_rng_state()
        train(settings_of(steps=1, decay_steps=0), Tones(), tmp_path)
        assert torch.equal(before, torch.random.get_rng_state())

    def test_another_network_does_not_resume(self, tmp_path):
        train(settings_of(), Tones(), tmp_path, stop_after=1)
        other = settings_of(network=replace(TINY, widths=(8, 16)))
        with pytest.raises(MGDMError, match="another network"):
            train(other, Tones(), tmp_path)

    def test_a_run_of_another_optimizer_does_not_resume(self, tmp_path):
        state = train(settings_of(), Tones(), tmp_path, stop_after=1)
        network = STFTUNet(TINY)
        state["optimizer"] = torch.optim.AdamW(network.parameters()).state_dict()
        torch.save(state, tmp_path / CHECKPOINT)
        with pytest.raises(MGDMError, match=r"another optimizer.*--init"):
            train(settings_of(), Tones(), tmp_path)

    def test_learning_rate_rises_stays_and_falls(self):
        settings = settings_of(steps=100, warmup_steps=10, decay_steps=20, learning_rate=1.0)
        rates = [learning_rate(settings, i) for i in range(100)]
        assert rates[0] == pytest.approx(0.1)
        assert rates[10:80] == [1.0] * 70
        assert all(b < a for a, b in itertools.pairwise(rates[79:]))
        assert 0 < rates[-1] < 0.02

    def test_presets_survive_their_storage(self):
        for name in PRESETS:
            for dry in (False, True):
                chosen = preset(name, dry)
                assert TrainSettings.from_dict(json.loads(json.dumps(chosen.to_dict()))) == chosen
        with pytest.raises(SettingsError, match="cpu-2h"):
            preset("tpu")


@pytest.mark.parametrize(
    ("seconds", "text"), [(3060, "0 h 51 min"), (3599, "1 h 0 min"), (7290, "2 h 2 min")]
)
def test_durations_are_not_rounded_up_to_hours(seconds, text):
    from recipes.music_prior.commands import hours

    assert hours(seconds) == text


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["train", "--out", "{0}/run", "--data-dir", "{0}"], 1, "no .npy shards"),
        (["train", "--out", "{0}/run", "--data-dir", "{0}", "--steps", "0"], 2, "steps must be"),
        (["export", "{0}/nothing.pt"], 2, "does not exist"),
    ],
)
def test_an_error_is_one_line(tmp_path, arguments, code, text):
    result = CliRunner().invoke(main, [a.format(tmp_path) for a in arguments])
    assert result.exit_code == code
    (line,) = result.output.strip().splitlines()
    assert line.startswith("error: ")
    assert text in line


def test_crops_longer_than_packed_segments_are_refused_in_one_line(tmp_path):
    np.save(tmp_path / "shard0000.npy", np.zeros((2, 4, 131_072), np.int16))
    arguments = ["train", "--out", tmp_path / "run", "--data-dir", tmp_path, "--crop", "6"]
    result = CliRunner().invoke(main, [str(a) for a in [*arguments, "--dry"]])
    assert result.exit_code == 2
    assert result.output.splitlines()[-1] == (
        "error: items of 6.00 s (--crop) are cut from segments of 5.94 s; ask for shorter ones"
    )
    assert not (tmp_path / "run").exists()


def test_rendered_segments_hold_an_item_at_the_highest_speed(tmp_path, monkeypatch):
    asked = {}

    def source(data_dir, **songs):
        asked.update(songs)
        raise SettingsError("enough")

    monkeypatch.setattr("recipes.music_prior.commands.segment_source", source)
    CliRunner().invoke(main, ["train", "--out", str(tmp_path / "run"), "--crop", "11.9"])
    assert asked["segment"] * 4 >= round(11.9 * 22_050) * 5
