"""In what precision a network runs where nobody says."""

import pytest
import torch

from mgdm_audio.priors.precision import has_fast_bfloat16, resolve_precision
from mgdm_core.errors import SettingsError


def test_auto_takes_bfloat16_only_where_it_is_fast():
    expected = torch.bfloat16 if has_fast_bfloat16("cpu") else torch.float32
    assert resolve_precision("auto", "cpu") == expected


def test_named_precisions():
    assert resolve_precision("float32", "cpu") == torch.float32
    assert resolve_precision("bfloat16", "cpu") == torch.bfloat16
    with pytest.raises(SettingsError, match="float16x"):
        resolve_precision("float16x", "cpu")


def test_cpu_flags_decide(monkeypatch):
    for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: False, raising=False)
    assert not has_fast_bfloat16("cpu")
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True, raising=False)
    assert has_fast_bfloat16("cpu")
