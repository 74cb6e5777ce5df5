"""``mgdm-separate --engine ray``: the same stems, wherever they are made."""

import json
import re
import socket

import pytest
import soundfile as sf
from click.testing import CliRunner

from mgdm_audio.cli.separate import main
from mgdm_audio.compute.engines import EngineError
from mgdm_audio.compute.engines_ray import check_address
from tests.audio.tiny_stems_prior import STEMS, save_tiny_stems, song


@pytest.fixture(scope="module")
def ray():
    ray = pytest.importorskip("ray", reason="ray is not installed (extra `cluster`)")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield ray
    ray.shutdown()


@pytest.fixture
def call(tmp_path):
    prior = save_tiny_stems(tmp_path / "tiny.safetensors")

    def run(*args, out="out", code=0):
        given = ["--preset", "fast", "--set", "levels=3", "-d", "cpu", *map(str, args)]
        result = CliRunner().invoke(main, [*given, "-n", str(prior), "-o", str(tmp_path / out)])
        assert result.exit_code == code, result.output
        return result

    return run


@pytest.fixture
def mixes(tmp_path):
    folder = tmp_path / "mixes"
    folder.mkdir()
    for i in range(2):
        sf.write(folder / f"{i}.wav", song(0.5 + i, 22_050, 1).T, 22_050, subtype="FLOAT")
    return folder


@pytest.mark.slow
def test_a_ray_writes_the_same_bytes_and_goes_on_past_a_bad_file(ray, call, mixes, tmp_path):
    call(mixes, out="here")
    (mixes / "2.wav").write_bytes(b"no sound")
    result = call(mixes, "--engine", "ray", "--json", out="there", code=1)
    told = json.loads(result.stdout)
    assert [record["source"] for record in told["tracks"]] == [
        str(mixes / f"{i}.wav") for i in (0, 1)
    ]
    assert list(told["failed"]) == [str(mixes / "2.wav")]
    for track in ("0", "1"):
        for stem in (*STEMS, "residual"):
            name = f"tiny/{track}/{stem}.wav"
            assert (tmp_path / "here" / name).read_bytes() == (
                tmp_path / "there" / name
            ).read_bytes()
    again = call(mixes / "0.wav", "--engine", "ray", "--resume", out="there")
    assert "finished before" in again.stderr


def test_what_the_ray_engine_cannot_do_is_said(call, mixes):
    pytest.importorskip("ray", reason="ray is not installed (extra `cluster`)")
    assert "standard input" in call("-", "--engine", "ray", code=2).stderr
    assert "--engine ray" in call(mixes, "--address", "auto", code=2).stderr


@pytest.mark.parametrize("address", ["127.0.0.1:{port}", "ray://127.0.0.1:{port}", "here:x"])
def test_a_cluster_that_is_not_there_is_told_at_once(address):
    """Ray itself tries for minutes; nothing of that for an address where nothing listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = address.format(port=port)
    with pytest.raises(EngineError, match=f"no Ray cluster at address '{re.escape(address)}'"):
        check_address(address)


def test_an_address_that_answers_is_left_to_ray():
    with socket.create_server(("127.0.0.1", 0)) as server:
        check_address(f"127.0.0.1:{server.getsockname()[1]}")
    for word in (None, "auto", "local"):
        check_address(word)


def test_the_command_says_so_in_one_line(call, mixes):
    pytest.importorskip("ray", reason="ray is not installed (extra `cluster`)")
    result = call(mixes, "--engine", "ray", "--address", "127.0.0.1:1", code=1)
    assert "no Ray cluster at address '127.0.0.1:1'" in result.stderr
    assert "Traceback" not in result.output
