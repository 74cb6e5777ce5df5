"""Networks at equal processor time: the rival trunk, the command and its table."""

import json
import shutil

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from mgdm_audio.priors.networks import network_kinds
from mgdm_core.errors import SettingsError
from recipes.music_prior.commands import main
from recipes.music_prior.sound import validation_sets
from recipes.music_prior.training import compare
from recipes.music_prior.training.loss import choose_bins
from recipes.music_prior.training.presets import PRESETS, TrainSettings
from recipes.music_prior.training.tfc_tdf import TFCTDFConfig
from recipes.music_prior.training.train import train

from .tiny_training import TINY, Tones, settings_of

SIZES = {**TINY.to_dict(), "path_layers": 2, "path_width": 8, "path_heads": 2, "path_patch": 2}


def test_the_rival_looks_at_all_bands_of_a_column_and_at_columns_near_by():
    torch.manual_seed(0)
    layer = TFCTDFConfig(**SIZES).build()._layer()
    x = torch.randn(1, 8, 12, 8, requires_grad=True)
    layer(x, torch.zeros(1, 8))[0, 0, 6].sum().backward()
    seen = x.grad.abs().sum((0, 3)) > 0
    assert seen[:, 6].all()
    assert seen[0].nonzero().flatten().tolist() == [4, 5, 6, 7, 8]


def test_every_weight_of_the_rival_learns_and_its_settings_come_back():
    settings = settings_of(network=TFCTDFConfig(**SIZES))
    assert TrainSettings.from_dict(json.loads(json.dumps(settings.to_dict()))) == settings
    assert "tfc_tdf" in network_kinds()
    network = settings.network.build()
    network.start_from_average(torch.rand(4, 33) + 0.1)
    with torch.no_grad():
        for p in network.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    chosen = choose_bins(32, 0.5, torch.Generator().manual_seed(0))
    re, im = torch.randn(2, 2, 4, 16, 33, generator=torch.Generator().manual_seed(1)) * 0.05
    out = network.denoise_bins(re, im, torch.tensor([0.1, 0.3]), chosen.bins)
    (out[0].square() + out[1]).sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in network.path.parameters())
    with pytest.raises(SettingsError, match="path_bottleneck"):
        TFCTDFConfig(path_bottleneck=0)


def test_the_default_networks_are_presets():
    assert set(compare.NETWORKS) <= set(PRESETS)


def stand_ins(monkeypatch):
    """Trainings of four steps, and a set C of tones; what was asked to be trained."""
    asked = []

    def trained(out, preset, arguments):
        asked.append((preset, arguments))
        train(settings_of(), Tones(), out, report_every=1, devices=1)

    songs = np.stack([Tones().item(i) for i in range(2)]).repeat(30, axis=2)
    found = validation_sets.ValidationSet("C", songs, "C-0")
    known = {"C": found}.__getitem__
    monkeypatch.setattr(compare, "_train", trained)
    monkeypatch.setattr(validation_sets, "validation_set", lambda name, shared: known(name))
    return asked


@pytest.fixture
def quick(monkeypatch):
    return stand_ins(monkeypatch)


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """A folder with a comparison of one network."""
    out = tmp_path_factory.mktemp("compared") / "out"
    with pytest.MonkeyPatch.context() as patch:
        asked = stand_ins(patch)
        assert command(out, out.parent).exit_code == 0
    assert len(asked) == 1
    return out


def command(out, shared, *more):
    given = ["compare", str(out), "--shared", str(shared), "--sets", "C", "--network", "cpu-2h"]
    return CliRunner().invoke(main, [*given, *more])


@pytest.mark.parametrize(
    ("more", "named"),
    [
        (["--cpu-seconds", "60"], "--cpu-seconds"),
        (["--learning-rate", "0.00070001"], "--learning-rate"),
        (["--sets", "CC", "--composed-share", "0.25"], "--composed-share, --sets"),
        (["--network", "cpu-tfc", "--soundfont", "debian"], "--soundfont"),
    ],
)
def test_rows_of_other_settings_are_not_taken_for_the_same(tmp_path, quick, compared, more, named):
    out = shutil.copytree(compared, tmp_path / "out")
    refused = command(out, compared.parent, *more)
    assert refused.exit_code != 0
    (line,) = refused.output.splitlines()
    assert line == f"error: {out} holds a comparison with other {named}; give another folder"
    assert quick == []


def test_a_network_or_a_set_that_there_is_not_is_refused_before_the_training(tmp_path):
    for more, text in ((["--network", "cpu-3h"], "cpu-3h"), (["--sets", "X"], "validation set")):
        refused = command(tmp_path / "out", tmp_path, *more)
        assert refused.exit_code != 0
        (line,) = refused.output.splitlines()
        assert line.startswith("error: ")
        assert text in line
        assert not (tmp_path / "out/cpu-2h").exists()


def test_a_training_too_short_for_its_log_is_said_in_one_line(tmp_path, monkeypatch, quick):
    def trained(out, preset, arguments):
        train(settings_of(), Tones(), out, report_every=9, stop_after=1, devices=1)

    monkeypatch.setattr(compare, "_train", trained)
    refused = command(tmp_path / "out", tmp_path)
    assert refused.exit_code == 1
    assert "more --cpu-seconds" in refused.output
    assert refused.output.startswith("error: ")


def test_runs_are_scored_once_and_shown_again(tmp_path, quick):
    more = ["--network", "cpu-tfc", "--cpu-seconds", "30"]
    first = command(tmp_path / "out", tmp_path, *more)
    assert first.exit_code == 0
    assert [preset for preset, _ in quick] == ["cpu-2h", "cpu-tfc"]
    assert quick[0][1][:2] == ["--cpu-seconds", "30.0"]
    rows = [
        json.loads(line) for line in (tmp_path / "out/comparison.jsonl").read_text().splitlines()
    ]
    assert [row["steps"] for row in rows] == [4, 4]
    assert all(len(row["sets"]["C"]) == 4 for row in rows)
    again = command(tmp_path / "out", tmp_path, *more)
    assert again.output == first.output
    assert len(quick) == 2
    assert f"{sum(rows[0]['sets']['C']) / 4:.2f}" in first.output.splitlines()[0]


def test_a_line_that_is_no_row_is_said(tmp_path, quick, compared):
    out = shutil.copytree(compared, tmp_path / "out")
    with (out / "comparison.jsonl").open("a") as file:
        file.write('{"network": "cpu-')
    refused = command(out, compared.parent)
    assert refused.exit_code == 2
    (line,) = refused.output.splitlines()
    assert line.startswith("error: ")
    assert "comparison.jsonl has a line that is no row" in line
