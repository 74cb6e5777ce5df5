"""Import of MSDM's Lightning checkpoints: the same outputs, or one clear line."""

from __future__ import annotations

import pickle

import pytest
import torch

from mgdm_audio.errors import CheckpointError
from mgdm_audio.priors import load_prior, verify
from mgdm_audio.priors.msdm.importer import import_msdm, import_weakly_msdm
from mgdm_audio.priors.msdm.lightning import read_msdm
from tests.audio.checkpoint_helpers import STEMS, generator, lightning_file


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / b.norm())


def noisy(stems: int = 4) -> torch.Tensor:
    return 0.5 * torch.randn(2, stems, 256, generator=generator(4))


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A file as MSDM's training writes it, and the model inside."""
    path = tmp_path_factory.mktemp("lightning") / "msdm.ckpt"
    return path, lightning_file(path)


def test_the_file_is_one_that_torch_refuses(original):
    path, _ = original
    with pytest.raises(pickle.UnpicklingError, match="LogNormalDistribution"):
        torch.load(path, weights_only=True)


def test_an_imported_prior_gives_the_models_outputs(original, tmp_path):
    path, model = original
    report = import_msdm(path, tmp_path / "out.safetensors", name="mine", licence="CC0")
    assert report.notes == ["took the weights under model.unet.*"]
    verify(report.path)
    prior = load_prior(report.path, precision="float32")
    assert (prior.stems, prior.rate, prior.window) == (STEMS, 22_050, 262_144)
    assert (prior.name, prior.licence) == ("mine", "CC0")
    assert prior.sigma_range == pytest.approx((5e-4, 20.0))
    assert prior.schedule.last == 1000
    x = noisy()
    with torch.no_grad():
        for sigma in (0.01, 0.3, 10.0):
            expected = model.diffusion.denoise_fn(x, sigmas=torch.full((2,), sigma))
            assert relative(prior.denoise_at(x, sigma), expected) < 1e-5


def test_facts_of_the_training_are_kept_as_plain_values(original):
    facts = read_msdm(original[0]).facts
    assert facts["source"] == "msdm.ckpt"
    assert len(facts["source_sha256"]) == 64
    noise = facts["hyper_parameters"]["diffusion_sigma_distribution"]
    assert noise["class"].endswith("LogNormalDistribution>")
    assert (noise["mean"], noise["std"]) == (-3.0, 1.0)
    assert facts["hyper_parameters"]["learning_rate"] == 1e-4
    assert facts["global_step"] == 0


def test_a_file_with_optimiser_state_is_read(tmp_path):
    path = tmp_path / "full.ckpt"
    model = lightning_file(path, weights_only=False)
    assert torch.load(path, weights_only=False)["optimizer_states"]
    found = read_msdm(path)
    assert torch.equal(found.state["embedding.project.bias"], model.unet.to_time[0][1].bias)


def rewrite(source, target, change):
    """Load a (trusted) file as torch does, change its content, save it again."""
    content = torch.load(source, weights_only=False)
    change(content)
    torch.save(content, target)
    return target


def drop(prefix):
    def change(content):
        state = content["state_dict"]
        for key in [key for key in state if key.startswith(prefix)]:
            del state[key]

    return change


@pytest.mark.parametrize(
    ("prefix", "left"),
    [("model.diffusion.", "model.unet."), ("model.unet.", "model.diffusion.net.")],
)
def test_one_copy_of_the_network_is_enough(original, tmp_path, prefix, left):
    path = rewrite(original[0], tmp_path / "one.ckpt", drop(prefix))
    whole, found = read_msdm(original[0]), read_msdm(path)
    assert found.prefix == left
    assert all(torch.equal(found.state[key], value) for key, value in whole.state.items())


def test_copies_that_are_equal_but_stored_apart_agree(original, tmp_path):
    def separate(content):
        for key in content["state_dict"]:
            content["state_dict"][key] = content["state_dict"][key].clone()

    assert read_msdm(rewrite(original[0], tmp_path / "two.ckpt", separate)).prefix == "model.unet."


def test_copies_that_differ_are_refused(original, tmp_path):
    def differ(content):
        key = "model.unet.to_time.0.0.weights"
        content["state_dict"][key] = content["state_dict"][key] + 1

    path = rewrite(original[0], tmp_path / "differ.ckpt", differ)
    with pytest.raises(CheckpointError, match="differ; it is not clear"):
        read_msdm(path)


def test_averaged_weights_are_preferred(original, tmp_path):
    def average(content):
        state = content["state_dict"]
        for key in list(state):
            if key.startswith("model.unet."):
                name = key.removeprefix("model.")
                state[f"model_ema.ema_model.{name}"] = state[key] + 1
                state[f"model_ema.online_model.{name}"] = state[key]

    found = read_msdm(rewrite(original[0], tmp_path / "ema.ckpt", average))
    assert found.prefix == "model_ema.ema_model.unet."
    plain = read_msdm(original[0])
    assert torch.equal(
        found.state["embedding.project.bias"], plain.state["embedding.project.bias"] + 1
    )


@pytest.mark.parametrize("inner", [True, False])
def test_bare_state_dicts_are_read(original, tmp_path, inner):
    model = original[1]
    torch.save((model.unet if inner else model).state_dict(), tmp_path / "bare.ckpt")
    found = read_msdm(tmp_path / "bare.ckpt")
    assert found.prefix == ("" if inner else "unet.")
    # Nothing says how many heads made 32 features: the published number is taken, and told.
    assert found.assumed["attention_heads"] == 8
    assert found.assumed["sigma_data"] == 0.2


def test_hyper_parameters_may_be_left_out(original, tmp_path):
    def forget(content):
        for key in ("channels", "factors", "attentions", "diffusion_sigma_data"):
            del content["hyper_parameters"][key]

    found = read_msdm(rewrite(original[0], tmp_path / "less.ckpt", forget))
    assert found.config.channels == 32
    assert found.config.factors == (4, 2)
    assert found.config.attentions == (False, True)
    # What the package takes when a training script leaves it out.
    assert found.assumed == {"sigma_data": 0.1}
    report = import_msdm(tmp_path / "less.ckpt", tmp_path / "less.safetensors")
    assert any("assumed: sigma_data = 0.1" in note for note in report.notes)


@pytest.mark.parametrize("nearest", [True, False])
def test_sizes_are_those_of_the_tensors(tmp_path, nearest):
    changes = {
        "channels": 24, "patch_blocks": 2, "patch_factor": 2, "factors": [3, 1, 2],
        "multipliers": [1, 1, 2, 3], "num_blocks": [1, 2, 1], "attentions": [True, False, True],
        "attention_heads": 2, "attention_features": 5, "attention_multiplier": 3, "in_channels": 2,
        "use_nearest_upsample": nearest,
    }  # fmt: skip
    path = tmp_path / "odd.ckpt"
    lightning_file(path, **changes)

    def forget(content):
        for key in changes:
            if key != "attention_heads":
                del content["hyper_parameters"][key]

    config = read_msdm(rewrite(path, tmp_path / "bare.ckpt", forget)).config.to_dict()
    assert {key: config[key] for key in changes} == changes


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c["state_dict"].pop("model.unet.to_mapping.0.bias"), "1 tensor.s. missing"),
        (lambda c: c["state_dict"].update({"model.unet.more": torch.zeros(1)}), "unexpected"),
        (
            lambda c: c["state_dict"].update(
                {"model.unet.to_mapping.0.bias": torch.zeros(7)}
            ),
            r"'to_mapping.0.bias' must have the shape \(128,\); found \(7,\)",
        ),
        (
            lambda c: c["state_dict"].update(
                {"model.unet.to_mapping.0.bias": torch.zeros(128, dtype=torch.int64)}
            ),
            "not a floating point tensor",
        ),
        (lambda c: c["state_dict"].update({"model.unet.to_mapping.0.bias": 3}), "is not a tensor"),
        (lambda c: c["hyper_parameters"].update(channels=64), "say channels 64, the tensors 32"),
        (lambda c: c["hyper_parameters"].update(factors=[4, 4]), "say factors"),
        (lambda c: c["hyper_parameters"].update(resnet_groups=7), "resnet_groups"),
        (lambda c: c["hyper_parameters"].update(attention_heads=0), "MSDM network"),
        (lambda c: c.update(state_dict={}), "holds no MSDM network"),
        (lambda c: c.update(state_dict=[1]), "holds no MSDM network"),
    ],
)  # fmt: skip
def test_files_that_do_not_fit_are_one_clear_line(original, tmp_path, change, words):
    def apply(content):
        drop("model.diffusion.")(content)
        change(content)

    path = rewrite(original[0], tmp_path / "bad.ckpt", apply)
    out = tmp_path / "out.safetensors"
    with pytest.raises(CheckpointError, match=words) as caught:
        import_msdm(path, out)
    assert "\n" not in str(caught.value)
    assert "bad.ckpt" in str(caught.value)
    assert not out.exists()


def test_other_content_is_refused(tmp_path):
    for value in ([1, 2], 3, {"a": 1}):
        torch.save(value, tmp_path / "a.ckpt")
        with pytest.raises(CheckpointError):
            read_msdm(tmp_path / "a.ckpt")


def test_stem_names(original, tmp_path):
    out = tmp_path / "out.safetensors"
    with pytest.raises(CheckpointError, match="4 channel"):
        import_msdm(original[0], out, stems=("a", "b"))
    report = import_msdm(original[0], out, stems=("a", "b", "c", "d"), rate=44_100, window=1000)
    assert report.header.stems == ("a", "b", "c", "d")
    assert (report.header.rate, report.header.window) == (44_100, 1000)


def test_single_source_models_become_one_prior(tmp_path):
    paths = [tmp_path / f"{stem}.ckpt" for stem in STEMS]
    models = [lightning_file(path, seed=i, in_channels=1) for i, path in enumerate(paths)]
    told = []
    report = import_weakly_msdm(paths, tmp_path / "weak.safetensors", on_file=told.append)
    assert tuple(told) == STEMS
    assert report.header.network == "unet1d_stack"
    prior = load_prior(report.path, precision="float32")
    assert prior.stems == STEMS
    x = noisy()
    with torch.no_grad():
        expected = torch.cat(
            [
                model.diffusion.denoise_fn(x[:, i : i + 1], sigmas=torch.full((2,), 0.3))
                for i, model in enumerate(models)
            ],
            dim=1,
        )
    assert relative(prior.denoise_at(x, 0.3), expected) < 1e-5
    with pytest.raises(CheckpointError, match="1 channel"):
        import_msdm(paths[0], tmp_path / "one.safetensors")
    one = import_msdm(paths[0], tmp_path / "one.safetensors", stems=["bass"])
    assert load_prior(one.path).stems == ("bass",)


def test_a_stack_takes_single_source_models_of_one_scaling(original, tmp_path):
    single = tmp_path / "a.ckpt"
    lightning_file(single, in_channels=1)
    other = tmp_path / "b.ckpt"
    lightning_file(other, in_channels=1, diffusion_sigma_data=0.1)
    out = tmp_path / "out.safetensors"
    with pytest.raises(CheckpointError, match="single-source network has 1 channel; found 4"):
        import_weakly_msdm([single, original[0]], out, stems=("a", "b"))
    with pytest.raises(CheckpointError, match=r"sigma_data is 0\.1"):
        import_weakly_msdm([single, other], out, stems=("a", "b"))
    with pytest.raises(CheckpointError, match="one file per stem"):
        import_weakly_msdm([single], out)
    assert not out.exists()
