"""A tiny prior, a mix of one second, and the command on both."""

import pytest
import soundfile as sf
from click.testing import CliRunner

from mgdm_audio.cli.separate import main
from tests.audio.tiny_stems_prior import save_tiny_stems, song

from .support import QUICK


@pytest.fixture(scope="module")
def prior(tmp_path_factory):
    return save_tiny_stems(tmp_path_factory.mktemp("prior") / "tiny.safetensors")


@pytest.fixture
def mix(tmp_path):
    path = tmp_path / "mix.wav"
    sf.write(path, song(1.0, 44_100, 2).T, 44_100, subtype="FLOAT")
    return path


@pytest.fixture
def call(prior, tmp_path):
    def run(*args, out="out", code=0):
        arguments = [*QUICK, *map(str, args), "-n", str(prior), "-o", str(tmp_path / out)]
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == code, result.output
        return result

    return run
