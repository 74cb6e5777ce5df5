"""Pickles as data: what plain pickles mean is read, what hostile ones want does not happen."""

from __future__ import annotations

import collections
import contextlib
import io
import os
import pickle
import struct
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mgdm_audio.errors import CheckpointError
from mgdm_audio.priors.msdm.archive import TorchArchive, plain_value
from mgdm_audio.priors.msdm.inert_pickle import Call, Name, read_inert
from mgdm_audio.priors.msdm.lightning import read_msdm

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)

plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary(),
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(st.text() | st.integers(-(2**40), 2**40), inner)
    ),
    max_leaves=25,
)


@given(value=plain, protocol=st.sampled_from([2, 3, 4, 5]))
@settings(deadline=None, max_examples=150)
def test_plain_values_are_read_as_python_reads_them(value, protocol):
    data = pickle.dumps(value, protocol)
    if protocol == 2 and (b"_codecs" in data or b"__builtin__" in data):
        return  # bytes are written as a call there, which is not made
    assert read_inert(data, "test") == value


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_shared_and_ordered_containers(protocol):
    shared = [1]
    value = collections.OrderedDict(a=shared, b=shared, c=frozenset({1}), d={2, 3})
    read = read_inert(pickle.dumps(value, protocol), "test")
    assert read["a"] == [1]
    assert read["a"] is read["b"]
    assert list(read)[:2] == ["a", "b"]
    if protocol >= 4:
        assert read["c"] == {1}
        assert read["d"] == {2, 3}


class Settings:
    """An ordinary object inside a checkpoint."""

    def __init__(self):
        self.mean = -3.0


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_objects_become_records(protocol):
    read = read_inert(pickle.dumps([Settings(), Settings, os.system], protocol), "test")
    record, name, function = read
    assert isinstance(record, Call)
    assert record.state == {"mean": -3.0}
    assert name == Name(Settings.__module__, "Settings")
    assert isinstance(function, Name)
    assert function.name == "system"


# -- hostile pickles ------------------------------------------------------------------------------


class Bomb:
    """Calls ``function(*arguments)`` when Python unpickles it."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def target(tmp_path: Path) -> Path:
    return tmp_path / "it-happened"


def bombs(witness: Path) -> dict[str, bytes]:
    touch = f"open({str(witness)!r}, 'w').close()"
    command = f"touch {witness}"
    nested = Bomb(getattr, Bomb(__import__, "os"), "system")
    path = str(witness).encode()
    return {
        "os.system": pickle.dumps(Bomb(os.system, command)),
        "exec": pickle.dumps(Bomb(exec, touch)),
        "eval": pickle.dumps(Bomb(eval, touch)),
        "in a list": pickle.dumps([{"state_dict": Bomb(os.system, command)}]),
        "as an argument": pickle.dumps(Bomb(list, Bomb(os.mkdir, str(witness)))),
        "getattr": pickle.dumps(nested),
        "os.system, protocol 0": pickle.dumps(Bomb(os.system, command), 0),
        "INST": b"(S'" + b"touch " + path + b"'\nios\nsystem\n.",
        "OBJ": b"(cos\nsystem\nS'touch " + path + b"'\no.",
        "NEWOBJ": b"\x80\x02cos\nsystem\nX" + _counted(b"touch " + path) + b"\x85\x81.",
        "BUILD on a class": (
            b"\x80\x02cbuiltins\nobject\n)R}X"
            + _counted(b"__setstate__")
            + b"cos\nsystem\nsbX"
            + _counted(b"touch " + path)
            + b"b."
        ),
        "EXT1": b"\x80\x02\x82\x01.",
        "persistent id": b"\x80\x02cos\nsystem\nQ.",
    }


def _counted(text: bytes) -> bytes:
    return struct.pack("<I", len(text)) + text


BOMB_NAMES = list(bombs(Path("x")))


def as_checkpoint(path: Path, description: bytes, **entries: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", description)
        file.writestr("archive/version", b"3\n")
        for name, data in entries.items():
            file.writestr(f"archive/{name}", data)
    return path


@pytest.mark.parametrize("name", BOMB_NAMES)
def test_bombs_do_nothing(tmp_path, name):
    data = bombs(target(tmp_path))[name]
    modules = set(sys.modules)
    with contextlib.suppress(CheckpointError):
        read_inert(data, "test")
    with pytest.raises(CheckpointError) as caught:
        read_msdm(as_checkpoint(tmp_path / "bomb.ckpt", data))
    assert "\n" not in str(caught.value)
    assert not target(tmp_path).exists()
    assert not {name for name in set(sys.modules) - modules if not name.startswith("encodings.")}


def test_the_bombs_are_real(tmp_path):
    # Otherwise the test above could not fail.
    pickle.loads(bombs(target(tmp_path))["exec"])
    assert target(tmp_path).exists()


def test_a_bomb_beside_a_good_network_is_not_run(tmp_path):
    state = {"model.unet.to_time.0.0.weights": torch.zeros(16)}
    torch.save(
        {"state_dict": state, "callbacks": {"x": Bomb(os.mkdir, str(target(tmp_path)))}},
        tmp_path / "a.ckpt",
    )
    with pytest.raises(CheckpointError, match="not those of an MSDM network"):
        read_msdm(tmp_path / "a.ckpt")
    assert not target(tmp_path).exists()


def test_nothing_named_is_imported(tmp_path):
    data = b"\x80\x02cthis_module_does_not_exist\nthing\n)R."
    assert read_inert(data, "test").function == Name("this_module_does_not_exist", "thing")


def laughs(depth: int) -> bytes:
    """A pickle of ``depth`` lists, each holding the one before ten times."""
    parts = [b"\x80\x02]q\x00X\x03\x00\x00\x00lola"]
    for i in range(depth):
        parts.append(b"0]r" + struct.pack("<I", i + 1))
        parts.append(b"(" + (b"j" + struct.pack("<I", i)) * 10 + b"e")
    return b"".join([*parts, b"."])


def test_shared_structures_do_not_grow():
    read = read_inert(laughs(60), "test")
    shown = plain_value(read, depth=100)
    assert len(str(shown)) < 100_000


def test_keys_that_would_hash_for_ever_are_refused():
    # t0 = (); t(n+1) = (tn, tn): hashing t60 visits 2^60 places.
    parts = [b"\x80\x02})q\x000"]
    parts += [b"h%ch%c\x86q%c0" % (i, i, i + 1) for i in range(60)]
    parts.append(b"h%c" % 60)
    with pytest.raises(CheckpointError, match="a tuple as a key"):
        read_inert(b"".join([*parts, b"Ns."]), "test")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b".",
        b"\x80\x02",
        b"\x80\x02NN.",
        b"\x80\x02(.",
        b"\x80\x02e.",
        b"\x80\x020.",
        b"\x80\x02h\x05.",
        b"\x80\x02X\xff\xff\xff\xffabc.",
        b"\x80\x05\x8e\xff\xff\xff\xff\xff\xff\xff\x7fabc.",
        b"\x80\x02]]Ns.",
        b"\x80\x02}]Ns.",
        b"\x80\x02}(Nu.",
        b"\x80\x02Na.",
        b"\x80\x02NNb.",
        b"\x80\x04NN\x93.",
        b"\x80\x02(NNR.",
        b"\x80\x05\x97.",
        b"garbage",
    ],
)
def test_damaged_pickles_are_one_line(data):
    with pytest.raises(CheckpointError) as caught:
        read_inert(data, "some.ckpt")
    assert str(caught.value).startswith("some.ckpt")
    assert len(str(caught.value)) < 250


def test_endless_pickles_are_cut_short(monkeypatch):
    monkeypatch.setattr("mgdm_audio.priors.msdm.inert_pickle._MOST_OPCODES", 1000)
    assert read_inert(b"\x80\x02" + b"N0" * 400 + b"N.", "test") is None
    with pytest.raises(CheckpointError, match="over 1000 instructions"):
        read_inert(b"\x80\x02" + b"N0" * 600 + b"N.", "test")


@given(data=st.binary(max_size=200))
@settings(deadline=None, max_examples=300)
def test_any_bytes_are_read_or_refused(data):
    with contextlib.suppress(CheckpointError):
        plain_value(read_inert(data, "test"))


# -- archives -------------------------------------------------------------------------------------


def saved(tmp_path, value, **how) -> Path:
    path = tmp_path / "saved.ckpt"
    torch.save(value, path, **how)
    return path


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.bool]
)
def test_tensors_are_read_as_torch_reads_them(tmp_path, dtype):
    base = (10 * torch.rand(4, 6)).to(dtype)
    value = {
        "whole": base,
        "transposed": base.T,
        "part": base[1:3, ::2],
        "scalar": base[2, 3],
        "empty": base[:0],
        "parameter": torch.nn.Parameter(base, requires_grad=False),
        "text": "x",
    }
    with TorchArchive(saved(tmp_path, value)) as archive:
        assert archive.stored(archive.content["text"]) is None
        for name in set(value) - {"text"}:
            stored = archive.stored(archive.content[name])
            assert stored is not None
            assert torch.equal(archive.read(stored), value[name])


def read_all(path: Path) -> None:
    with TorchArchive(path) as archive:
        for value in archive.content.values():
            stored = archive.stored(value)
            if stored is not None:
                archive.read(stored)


def refused(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        read_all(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_old_format_is_named(tmp_path):
    path = saved(tmp_path, {"a": torch.zeros(3)}, _use_new_zipfile_serialization=False)
    assert "before PyTorch 1.6" in refused(path)


@pytest.mark.parametrize("keep", [0, 3, 40, 0.5, -30])
def test_truncated_archives(tmp_path, keep):
    path = saved(tmp_path, {"a": torch.zeros(1000)})
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data)) if isinstance(keep, float) else keep])
    assert "truncated" in refused(path) or "no zip archive" in refused(path)


def test_a_flipped_bit_is_noticed(tmp_path):
    path = saved(tmp_path, {"a": torch.arange(1000, dtype=torch.float32)})
    data = bytearray(path.read_bytes())
    place = bytes(data).index(struct.pack("<f", 500.0))
    data[place] ^= 4
    path.write_bytes(bytes(data))
    assert "damaged" in refused(path)


def test_other_files_are_refused(tmp_path):
    (tmp_path / "a.ckpt").write_text("no checkpoint at all, just text")
    assert "no zip archive" in refused(tmp_path / "a.ckpt")
    with zipfile.ZipFile(tmp_path / "b.ckpt", "w") as file:
        file.writestr("hello.txt", "hello")
    assert "not one of torch.save" in refused(tmp_path / "b.ckpt")
    assert "no such file" in refused(tmp_path / "c.ckpt")
    assert "not a file" in refused(tmp_path)


def test_compressed_entries_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb.ckpt", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", b"\x80\x02}." + b"\0" * 50_000_000)
    assert "compressed" in refused(tmp_path / "bomb.ckpt")


def tensor_pickle(shape=(4,), stride=(1,), offset=0, numel=4, key="0", kind="FloatStorage"):
    """The description that torch.save writes for {"a": tensor}, with any numbers."""

    class Storage:
        pass

    class Writer(pickle._Pickler):
        def persistent_id(self, obj):
            if isinstance(obj, Storage):
                return ("storage", getattr(torch, kind), key, "cpu", numel)
            return None

    class Tensor:
        def __reduce__(self):
            arguments = (Storage(), offset, shape, stride, False, collections.OrderedDict())
            return torch._utils._rebuild_tensor_v2, arguments

    buffer = io.BytesIO()
    Writer(buffer, 2).dump({"a": Tensor()})
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, None),
        ({"shape": (5,)}, "beyond its storage"),
        ({"offset": 1}, "beyond its storage"),
        ({"offset": -1}, "damaged"),
        ({"stride": (-1,)}, "damaged"),
        ({"stride": (1, 1)}, "damaged"),
        ({"stride": ("1",)}, "damaged"),
        ({"shape": (100,), "stride": (0,)}, "over a storage of 4"),
        ({"shape": (10**12,), "stride": (0,)}, "larger than the file"),
        ({"shape": (10**12,), "numel": 10**12}, "larger than the file"),
        ({"numel": 5, "shape": (5,)}, "has 16 bytes; expected 20"),
        ({"key": "7"}, "missing"),
        ({"key": "../data.pkl"}, "missing"),
        ({"kind": "nn"}, "damaged"),
    ],
)
def test_lying_tensors_are_refused(tmp_path, changes, words):
    data = struct.pack("<4f", 1, 2, 3, 4)
    if changes.get("kind") == "nn":
        description = tensor_pickle().replace(b"FloatStorage", b"NoSuchStorage")
    else:
        description = tensor_pickle(**changes)
    path = as_checkpoint(tmp_path / "a.ckpt", description, **{"data/0": data})
    if words is None:
        with TorchArchive(path) as archive:
            stored = archive.stored(archive.content["a"])
            assert archive.read(stored).tolist() == [1, 2, 3, 4]
    else:
        assert words in refused(path)


def test_big_endian_files_are_refused(tmp_path):
    path = as_checkpoint(tmp_path / "a.ckpt", tensor_pickle(), byteorder=b"big")
    assert "big-endian" in refused(path)
