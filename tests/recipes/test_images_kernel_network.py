"""The blur whose kernel a network makes."""

import pytest
import torch

from mgdm_core.operators import ReflectBlur
from mgdm_core.trace import Trace
from recipes.images import sweep
from recipes.images.errors import TaskError, WeightsError
from recipes.images.image_io import read_image
from recipes.images.kernel_network import KernelNetworkBlur, load_kernel_network
from recipes.images.metrics import LPIPS
from recipes.images.priors import load_prior
from recipes.images.restore import Restoration
from recipes.images.tasks import build_task


def kernel_network_state(nf=4, code=8, depth=5, front=2, back=3, channels=3):
    """Random tensors under the published names, at small width."""
    g, state = torch.Generator().manual_seed(0), {}

    def conv(name, n_out, n_in, side, bias=True):
        spread = 0.5 / (n_in * side**2) ** 0.5
        state[f"{name}.weight"] = spread * torch.randn(n_out, n_in, side, side, generator=g)
        if bias:
            state[f"{name}.bias"] = 0.1 * torch.randn(n_out, generator=g)

    for layer, n_in in ((0, channels), (2, nf), (4, nf)):
        conv(f"feature_extractor.{layer}", nf, n_in, 3)
    for prefix, count, start in (("feature_extractor", front, 6), ("recon_trunk", back, 0)):
        for k in range(count):
            for part in ("conv1", "conv2"):
                conv(f"{prefix}.{start + k}.{part}", nf, nf, 3)
    widths = [nf, nf, 2 * nf, 2 * nf, code, code][: depth + 1]
    for level in range(depth):
        name = "adapter.model" + ".submodule" * level
        outer, inner = widths[level], widths[level + 1]
        conv(f"{name}.down.{min(level, 1)}", inner, outer, 4, bias=False)
        conv(f"{name}.up.1.double_conv.0", outer, 2 * inner, 5)
        conv(f"{name}.up.1.double_conv.2", outer, outer, 5)
    conv(f"recon_trunk.{back}", 4 * nf, nf, 3)
    conv(f"recon_trunk.{back + 3}", 16, nf, 3)
    conv(f"recon_trunk.{back + 6}", 4, 4, 3)
    conv(f"recon_trunk.{back + 8}", channels, 4, 3)
    state["kernel_extractor.model.1.weight"] = torch.zeros(1)
    return state


def test_kernel_network_blurs_with_one_kernel(tmp_path):
    file = tmp_path / "GOPRO_wVAE.pth"
    torch.save(kernel_network_state(), file)
    task = build_task("nonlinear_blur", (3, 128, 140), kernel_weights=file, seed=4)
    operator = task.operator
    assert isinstance(operator, KernelNetworkBlur)
    assert operator.code.shape == (1, 8, 1, 2)
    x = torch.rand(2, 3, 128, 140, generator=torch.Generator().manual_seed(1)) * 2 - 1
    x.requires_grad_(True)
    y = operator.forward(x)
    assert y.shape == x.shape
    assert torch.equal(y, operator.forward(x))  # data and likelihood meet the same kernel
    torch.testing.assert_close(operator.forward(x[1:]), y[1:])  # items do not mix
    other = build_task("nonlinear_blur", (3, 128, 140), kernel_weights=file, seed=5).operator
    assert not torch.allclose(other.forward(x), y)
    y.square().sum().backward()
    assert x.grad is not None
    assert float(x.grad.abs().max()) > 0
    assert not any(k.startswith("kernel_extractor") for k in load_kernel_network(file))


@pytest.mark.parametrize("kind", ["none", "absent", "garbage", "other", "pickle"])
def test_kernel_network_absent_says_how_to_get_it(tmp_path, kind):
    file = tmp_path / "weights.pth"
    if kind == "garbage":
        file.write_bytes(b"no checkpoint")
    elif kind == "other":
        torch.save({"a": torch.zeros(2)}, file)
    elif kind == "pickle":
        torch.save({"a": ReflectBlur}, file)
    with pytest.raises(WeightsError, match="GOPRO_wVAE") as caught:
        build_task("nonlinear_blur", (3, 64, 64), kernel_weights=None if kind == "none" else file)
    assert "\n" not in str(caught.value)


def test_kernel_network_of_other_channels_is_refused(tmp_path):
    file = tmp_path / "k.pth"
    torch.save(kernel_network_state(), file)
    with pytest.raises(TaskError, match="images of 3 channels; found 1"):
        build_task("nonlinear_blur", (1, 32, 32), kernel_weights=file)


def test_a_sweep_tells_networks_apart_by_what_they_hold(tmp_path, monkeypatch):
    pytest.importorskip("torchmetrics", reason="torchmetrics is not installed")
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    files = []

    def restored(prior, degradation, y, *_, **__):
        files.append(file)
        return Restoration(torch.zeros(len(y), 1, 1, 32, 32), Trace("dps"), 1.0)

    monkeypatch.setattr(sweep, "restore", restored)
    for name, bias in (("a.pth", 0.0), ("a.pth", 1.0), ("b.pth", 1.0)):
        file, state = tmp_path / name, kernel_network_state(channels=1)
        state["feature_extractor.0.bias"] += bias
        with file.open("wb") as stream:  # by its name torch would write that name into it
            torch.save(state, stream)
        sweep.run_sweep(
            tmp_path,
            sweep.Sweep(["nonlinear_blur"], ["dps"], kernel_weights=str(file)),
            load_prior("digits"),
            ["digit:0"],
            lambda name: read_image(name, (1, 32, 32)),
            lpips=LPIPS.absent("not asked for"),
        )
    assert [file.name for file in files] == ["a.pth", "a.pth"]
    assert len(list((tmp_path / "cells").glob("*.json"))) == 2
