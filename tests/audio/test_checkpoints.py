"""The checkpoint format: round trips, and one clear line for every kind of damage."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os

import pytest
import torch
from safetensors import safe_open

from mgdm_audio.errors import CheckpointError
from mgdm_audio.priors import Levels, load_prior, read_header, verify
from mgdm_audio.priors.unet1d.stack import StackedNetwork
from mgdm_core.errors import SettingsError
from tests.audio.checkpoint_helpers import (
    STEMS,
    edit_header,
    generator,
    read_raw,
    save_tiny,
    tiny_unet,
    write_raw,
)


@pytest.fixture
def path(tmp_path):
    save_tiny(tmp_path / "tiny.safetensors")
    return tmp_path / "tiny.safetensors"


def noisy(stems: int = 4, length: int = 200) -> torch.Tensor:
    return torch.randn(2, stems, length, generator=generator(9))


# -- round trips ----------------------------------------------------------------------------------


def test_round_trip_keeps_outputs_and_facts(path):
    network = tiny_unet()
    prior = load_prior(path, precision="float32")
    x = noisy()
    sigma = torch.full((2,), float(prior.schedule.sigma[30]))
    assert torch.equal(prior.denoise(x, 30), network(x, sigma))
    assert prior.stems == STEMS
    assert (prior.rate, prior.window, prior.licence) == (22_050, 4096, "MIT")
    assert prior.sigma_range == pytest.approx((1e-3, 2.0))
    assert prior.schedule.last == 50
    assert dict(prior.training) == {"steps": 3}
    assert prior.name == "tiny"
    assert prior.kind == "unet1d"
    header = verify(path)
    assert prior.checksum == header.checksum
    assert header == read_header(path)


def test_the_file_is_plain_safetensors(path):
    with safe_open(path, "pt") as file:
        originals = tiny_unet().state_dict()
        assert set(file.keys()) == set(originals)
        assert json.loads(file.metadata()["mgdm"])["format_version"] == 1
        for key, value in originals.items():
            assert torch.equal(file.get_tensor(key), value)


def test_the_digest_is_what_the_documentation_says(path):
    digest = hashlib.sha256()
    with safe_open(path, "pt") as file:
        for key in sorted(file.keys()):
            tensor = file.get_tensor(key)
            shape = ",".join(str(n) for n in tensor.shape)
            digest.update(f"{key} F32 {shape}\n".encode() + tensor.numpy().tobytes())
    assert read_header(path).tensors_sha256 == digest.hexdigest()


def test_writing_twice_gives_the_same_bytes(tmp_path):
    save_tiny(tmp_path / "a.safetensors")
    save_tiny(tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float16, 2**-10), (torch.bfloat16, 2**-7)])
def test_half_precision_weights_load_as_float32(tmp_path, dtype, bound):
    path = tmp_path / "half.safetensors"
    save_tiny(path, dtype=dtype)
    save_tiny(tmp_path / "whole.safetensors")
    assert path.stat().st_size < 0.6 * (tmp_path / "whole.safetensors").stat().st_size
    prior = load_prior(path, precision="float32")
    verify(path)
    originals = tiny_unet().state_dict()
    for key, value in prior.network.state_dict().items():
        original = originals[key]
        assert value.dtype == torch.float32
        assert (value - original).abs().max() <= bound * original.abs().max()


def test_a_stack_round_trips(tmp_path):
    networks = [tiny_unet(seed, in_channels=1) for seed in range(4)]
    stack = StackedNetwork(networks)
    config = {"networks": [network.config.to_dict() for network in networks]}
    path = tmp_path / "stack.safetensors"
    save_tiny(path, stack, kind="unet1d_stack", config=config)
    prior = load_prior(path, precision="float32")
    x = noisy()
    assert torch.equal(prior.denoise_at(x, 0.3), stack(x, torch.full((2,), 0.3)))


def test_the_spectral_network_round_trips(tmp_path):
    from mgdm_audio.priors.stft_unet.config import STFTUNetConfig
    from mgdm_audio.priors.stft_unet.network import STFTUNet

    config = STFTUNetConfig(
        n_fft=256, hop=64, bands=8, widths=(8, 16), blocks=(1, 1), embedding=16, heads=2
    )
    network = STFTUNet(config).eval()
    rng = generator(3)
    with torch.no_grad():
        for tensor in network.parameters():
            tensor += 0.05 * torch.randn(tensor.shape, generator=rng)
        network.average_power.copy_(1e-9 + torch.rand(network.average_power.shape, generator=rng))
    path = tmp_path / "spectral.safetensors"
    save_tiny(
        path,
        network,
        kind="stft_unet",
        config=config.to_dict(),
        sigma_data=config.sigma_data,
        dtype=torch.float16,
    )
    prior = load_prior(path, precision="float32")
    # Half precision would flush powers below 6e-8 to zero: buffers are kept whole.
    assert torch.equal(prior.average_power, network.average_power)
    x = noisy(length=1000)
    mean, variance, basis = prior.denoise_with_variance(x, 30)
    assert torch.equal(mean, prior.denoise(x, 30))
    assert variance.shape == basis.forward(mean).shape
    sigma = float(prior.schedule.sigma[30])
    assert variance.min() >= 0
    assert variance.max() <= sigma**2 * (1 + 1e-6)


def test_loading_leaves_the_global_generator_alone(path):
    before = torch.random.get_rng_state()
    load_prior(path)
    assert torch.equal(before, torch.random.get_rng_state())


# -- refusals: header -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"format_version": 2}, "newer"),
        ({"format_version": "1"}, "format_version"),
        ({"format_version": ...}, "format_version"),
        ({"network": "transformer"}, "unknown network 'transformer'"),
        ({"network": ...}, "lacks network"),
        ({"stems": ...}, "lacks stems"),
        ({"stems": ["bass"]}, "4 stem"),
        ({"stems": ["bass", "bass", "guitar", "piano"]}, "different"),
        ({"stems": ["../bass", "drums", "guitar", "piano"]}, "named by letters"),
        ({"stems": [1, 2, 3, 4]}, "list of names"),
        ({"stems": "bass"}, "wrong type"),
        ({"rate": 0}, "rate"),
        ({"rate": True}, "rate"),
        ({"rate": "22050"}, "rate"),
        ({"window": -5}, "window"),
        ({"sigma_data": 0.5}, "sigma_data is 0.5 in the header but 0.2"),
        ({"levels": {}}, None),
        ({"levels": {"sigma_min": 2.0, "sigma_max": 1.0}}, "sigma_min < sigma_max"),
        ({"levels": {"kind": "cosine"}}, "karras"),
        ({"levels": {"beta": 1}}, "beta"),
        ({"levels": {"steps": 10**9}}, "steps"),
        ({"levels": {"rho": "7"}}, "rho"),
        ({"licence": " "}, "licence"),
        ({"tensors_sha256": "abc"}, "64 hexadecimal"),
        ({"tensors_sha256": ...}, "lacks tensors_sha256"),
        ({"config": {"channels": 10**6}}, "channels"),
        ({"config": {"colour": "red"}}, "colour"),
        ({"config": []}, "config"),
        ({"extra": 1}, "unknown keys: extra"),
    ],
)
def test_a_header_that_is_wrong_is_one_clear_line(path, changes, words):
    edit_header(path, **changes)
    if words is None:  # defaults are allowed
        read_header(path)
        return
    with pytest.raises(CheckpointError, match=words) as caught:
        read_header(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    with pytest.raises(CheckpointError):
        load_prior(path)


def test_a_stack_of_wrong_configurations_is_refused(path):
    for config in (
        {},
        {"networks": 4},
        {"networks": []},
        {"networks": [3]},
        {"networks": [{}] * 99},
    ):
        edit_header(path, network="unet1d_stack", config=config)
        with pytest.raises(CheckpointError):
            read_header(path)


def test_other_safetensors_files_are_refused(tmp_path):
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match="not one of a prior"):
        load_prior(tmp_path / "other.safetensors")


# -- refusals: tensors ----------------------------------------------------------------------------


def change_tensor(path, name, **changes):
    header, body = read_raw(path)
    header[name] |= changes
    write_raw(path, header, body)


def test_missing_tensor(path):
    header, body = read_raw(path)
    last = max((k for k in header if k != "__metadata__"), key=lambda k: header[k]["data_offsets"])
    start, _ = header.pop(last)["data_offsets"]
    write_raw(path, header, body[:start])
    with pytest.raises(CheckpointError, match=f"1 tensor\\(s\\) missing, the first is '{last}'"):
        load_prior(path)


def test_unexpected_tensor(path):
    header, body = read_raw(path)
    header["surplus"] = {"dtype": "U8", "shape": [2], "data_offsets": [len(body), len(body) + 2]}
    write_raw(path, header, body + b"xy")
    with pytest.raises(CheckpointError, match=r"unexpected tensor.*'surplus'"):
        load_prior(path)


def test_wrong_shape(path):
    change_tensor(path, "down.0.resample.weight", shape=[32, 64, 9])
    with pytest.raises(CheckpointError, match=r"must have the shape \(64, 32, 9\); found \(32, 64"):
        load_prior(path)


def test_wrong_dtype(path):
    change_tensor(path, "down.0.resample.bias", dtype="I32")
    with pytest.raises(CheckpointError, match=r"must be like torch\.float32"):
        load_prior(path)


def test_unsupported_dtype(path):
    change_tensor(path, "down.0.resample.bias", dtype="F8_E4M3", shape=[4 * 64])
    with pytest.raises(CheckpointError, match="F8_E4M3"):
        load_prior(path)


@pytest.mark.parametrize("keep", [0, 5, 8, 100, 0.5, -1])
def test_truncated_files(path, keep):
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data)) if isinstance(keep, float) else keep])
    with pytest.raises(CheckpointError, match=r"truncated|shorter"):
        load_prior(path)


def test_corrupted_tensor(path):
    data = bytearray(path.read_bytes())
    data[-1000] ^= 1
    path.write_bytes(bytes(data))
    read_header(path)  # the header is whole
    for reader in (load_prior, verify):
        with pytest.raises(CheckpointError, match="corrupted"):
            reader(path)


def test_not_finite_tensor(path):
    data = bytearray(path.read_bytes())
    data[-4:] = b"\x00\x00\xc0\x7f"
    path.write_bytes(bytes(data))
    with pytest.raises(CheckpointError, match="NaN"):
        load_prior(path)


@pytest.mark.parametrize(
    "header",
    [
        b"not json",
        b"[]",
        b"[" * 100_000,
        b'{"a": 1, "a": 2}',
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 8]}}',
        b'{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [1.5], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0]}}',
        b'{"a": {"dtype": ["F32"], "shape": [1], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}',
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},'
        b' "b": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}',
        b'{"__metadata__": {"mgdm": {}}}',
        b'{"__metadata__": "mgdm"}',
        b"\xff\xfe",
    ],
)
def test_damaged_layouts(tmp_path, header):
    write_raw(tmp_path / "bad.safetensors", header, b"\0" * 8)
    with pytest.raises(CheckpointError):
        load_prior(tmp_path / "bad.safetensors")


def test_a_lying_header_length_reads_nothing(tmp_path):
    (tmp_path / "bad.safetensors").write_bytes(b"\xff" * 64)
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        load_prior(tmp_path / "bad.safetensors")


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(CheckpointError, match="no such file"):
        load_prior(tmp_path / "none.safetensors")
    with pytest.raises(CheckpointError, match="not a file"):
        load_prior(tmp_path)


# -- refusals: saving -----------------------------------------------------------------------------


def test_saving_checks_the_network_against_the_configuration(tmp_path):
    config = tiny_unet().config.to_dict() | {"num_blocks": [1, 1]}
    with pytest.raises(CheckpointError, match="unexpected tensor"):
        save_tiny(tmp_path / "a.safetensors", config=config)
    with pytest.raises(SettingsError, match="4 stem"):
        save_tiny(tmp_path / "a.safetensors", stems=("bass", "drums"))
    with pytest.raises(SettingsError, match="licence"):
        save_tiny(tmp_path / "a.safetensors", licence="")
    with pytest.raises(CheckpointError, match="JSON"):
        save_tiny(tmp_path / "a.safetensors", training={"loss": float("nan")})
    with pytest.raises(CheckpointError, match=r"\.safetensors"):
        save_tiny(tmp_path / "a.pt")
    network = tiny_unet()
    with torch.no_grad():
        network.embedding.frequencies[0] = 1e6
    with pytest.raises(CheckpointError, match="infinity"):
        save_tiny(tmp_path / "a.safetensors", network, dtype=torch.float16)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    save_tiny(path)
    before = path.read_bytes()

    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mgdm_audio.priors.checkpoint.store.save_file", full)
    with pytest.raises(CheckpointError, match="No space left"):
        save_tiny(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(os.name != "posix", reason="permissions are those of POSIX")
def test_files_can_be_read_by_those_the_umask_allows(path, tmp_path):
    (tmp_path / "plain").touch()
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_unwritable_folder(tmp_path):
    blocker = tmp_path / "file"
    blocker.write_text("")
    with pytest.raises(CheckpointError, match="cannot be written"):
        save_tiny(blocker / "a.safetensors")


def test_levels_are_the_schedule():
    levels = Levels(sigma_min=1e-3, sigma_max=1.0, rho=7.0, steps=10)
    assert Levels(**dataclasses.asdict(levels)) == levels
    schedule = levels.schedule()
    assert schedule.last == 10
    assert bool((schedule.alpha == 1).all())
    middle = (1e-3 ** (1 / 7) + 4 / 9 * (1 - 1e-3 ** (1 / 7))) ** 7
    assert float(schedule.sigma[5]) == pytest.approx(middle)


def test_save_prior_takes_levels_as_a_mapping(tmp_path):
    header = save_tiny(tmp_path / "a.safetensors", levels={"sigma_max": 1.0, "steps": 7})
    assert header.levels == Levels(sigma_max=1.0, steps=7)
