"""Names of priors: what resolves, where it is kept, what is refused."""

from __future__ import annotations

import json
import logging
import shutil
import sys
import types
from pathlib import Path

import pytest

from mgdm_audio.errors import CheckpointError, PriorError
from mgdm_audio.priors import catalogue as registry
from mgdm_audio.priors import hub, load_prior
from tests.audio.checkpoint_helpers import STEMS, edit_header, save_tiny, tiny_unet


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    folder = tmp_path / "home"
    monkeypatch.setenv("MGDM_HOME", str(folder))
    return folder


@pytest.fixture(scope="module")
def tiny_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("tiny") / "tiny.safetensors"
    save_tiny(path)
    return path


@pytest.fixture
def tiny(tmp_path, tiny_file):
    return Path(shutil.copy(tiny_file, tmp_path / "tiny.safetensors"))


@pytest.mark.skipif(sys.platform != "linux", reason="the paths are those of Linux")
@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, "/h/.cache/mgdm"),
        ({"XDG_CACHE_HOME": "/x"}, "/x/mgdm"),
        ({"XDG_CACHE_HOME": "relative"}, "/h/.cache/mgdm"),
        ({"XDG_CACHE_HOME": "/x", "MGDM_HOME": "/m"}, "/m"),
        ({"MGDM_HOME": "~/m"}, "/h/m"),
    ],
)
def test_the_folder_follows_the_environment(monkeypatch, variables, expected):
    for name in ("XDG_CACHE_HOME", "MGDM_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"HOME": "/h", **variables}.items():
        monkeypatch.setenv(name, value)
    assert registry.home() == Path(expected)


def test_the_default_is_the_bundled_prior():
    entry = registry.list_priors()[0]
    assert (entry.name, entry.source) == ("music-stems", "bundled")
    assert entry.path.name == "music_stems.safetensors"
    if entry.available:
        assert registry.resolve() == registry.resolve("music-stems") == entry.path
    else:
        with pytest.raises(PriorError, match="not in this installation"):
            registry.resolve()


def test_looking_up_writes_and_fetches_nothing(home):
    registry.list_priors()
    with pytest.raises(PriorError):
        registry.resolve("nothing-of-this-name")
    assert not home.exists()


def test_a_registered_name_resolves(tiny, home):
    entry = registry.register("mine", tiny)
    assert registry.resolve("mine") == tiny
    assert load_prior(registry.resolve("mine")).stems[0] == "bass"
    assert entry in registry.list_priors()
    assert json.loads((home / "priors.json").read_text())["priors"]["mine"]["path"] == str(tiny)
    assert [path.name for path in home.iterdir()] == ["priors.json"]


def test_paths_resolve(tiny, tmp_path, monkeypatch):
    assert registry.resolve(tiny) == tiny
    assert registry.resolve(str(tiny)) == tiny
    monkeypatch.chdir(tmp_path)
    assert registry.resolve("tiny.safetensors") == Path("tiny.safetensors")
    assert registry.resolve("./tiny.safetensors").is_file()


def test_a_name_wins_over_a_file(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").write_text("something else")
    registry.register("mine", tiny)
    assert registry.resolve("mine") == tiny
    assert registry.resolve("./mine") == Path("mine")


def test_unknown_names_list_the_valid_ones(tiny):
    registry.register("mine", tiny)
    with pytest.raises(PriorError, match=r"unknown prior 'yours'; known are: music-stems, .*mine"):
        registry.resolve("yours")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("no/such.safetensors", "no such file; check the path"),
        ("none.safetensors", "no such file; check the path"),
        ("model.ckpt", "imported first: mgdm-models import msdm"),
        ("hf://owner", "hf://owner/name"),
        ("hf://owner/name/../../etc/x.safetensors", "hf://owner/name"),
        ("hf://owner/name/model.ckpt", r"only \.safetensors"),
        ("", "a prior has a name; found ''; .*list"),
        (" ", "a prior has a name; found ' '"),
    ],
)
def test_what_cannot_be_resolved_is_one_line(name, words):
    with pytest.raises(PriorError, match=words) as caught:
        registry.resolve(name)
    assert "\n" not in str(caught.value)


def test_a_folder_is_no_checkpoint(tmp_path):
    with pytest.raises(PriorError, match="a folder"):
        registry.resolve(tmp_path)


def test_a_changed_file_is_noticed(tiny):
    registry.register("mine", tiny)
    edit_header(tiny, licence="something else")
    with pytest.raises(PriorError, match="not the file that was registered"):
        registry.resolve("mine")
    registry.register("mine", tiny)  # the same path again: taken as meant
    assert registry.resolve("mine") == tiny


def test_changed_weights_are_noticed_on_loading(tiny):
    registry.register("mine", tiny)
    data = bytearray(tiny.read_bytes())
    data[-100] ^= 1
    tiny.write_bytes(bytes(data))
    with pytest.raises(CheckpointError, match="corrupted"):
        load_prior(registry.resolve("mine"))


def test_a_file_that_is_gone(tiny):
    registry.register("mine", tiny)
    tiny.unlink()
    assert not registry.list_priors()[-1].available
    with pytest.raises(PriorError, match="gone; import it again"):
        registry.resolve("mine")
    assert registry.forget("mine").name == "mine"
    with pytest.raises(PriorError, match="unknown prior"):
        registry.resolve("mine")


def test_names_are_kept_apart(tiny, tmp_path):
    other = tmp_path / "other.safetensors"
    save_tiny(other, tiny_unet(7))
    registry.register("mine", tiny)
    with pytest.raises(PriorError, match="stands for"):
        registry.register("mine", other)
    assert registry.resolve("mine") == tiny
    registry.register("mine", other, replace=True)
    assert registry.resolve("mine") == other
    for name in ("", "a/b", "..", "-x", "a b", "x" * 200):
        with pytest.raises(PriorError, match="made of letters"):
            registry.register(name, tiny)
        with pytest.raises(PriorError, match="made of letters"):
            registry.default_path(name)
    for action in (
        lambda: registry.register("music-stems", tiny),
        lambda: registry.forget("music-stems"),
    ):
        with pytest.raises(PriorError, match="music-stems"):
            action()
    with pytest.raises(PriorError, match="imported are: mine"):
        registry.forget("nobody")


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"version": 9, "priors": {}}',
        '{"version": 1, "priors": {"a": 1}}',
        '{"version": 1, "priors": {"a": {"path": "/x"}}}',
    ],
)
def test_a_damaged_list_is_one_line(home, text):
    home.mkdir()
    (home / "priors.json").write_text(text)
    with pytest.raises(PriorError, match=r"priors\.json"):
        registry.list_priors()


# -- the hub --------------------------------------------------------------------------------------


def fake_hub(monkeypatch, download):
    module = types.ModuleType("huggingface_hub")
    module.hf_hub_download = download
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    return module


def test_hub_addresses_are_fetched_into_the_folder(monkeypatch, tiny, home):
    calls = []

    def download(repository, file, **settings):
        calls.append((repository, file, settings))
        return str(tiny)

    fake_hub(monkeypatch, download)
    assert registry.resolve("hf://owner/name/sub/tiny.safetensors") == tiny
    assert registry.resolve("hf://owner/name@v1/tiny.safetensors") == tiny
    assert registry.resolve("hf://owner/name") == tiny
    assert registry.load_prior("hf://owner/name@main", device="cpu").stems == STEMS
    cache = {"cache_dir": str(home / "hub")}
    assert calls == [
        ("owner/name", "sub/tiny.safetensors", cache),
        ("owner/name", "tiny.safetensors", cache | {"revision": "v1"}),
        ("owner/name", "prior.safetensors", cache),
        ("owner/name", "prior.safetensors", cache | {"revision": "main"}),
    ]
    assert {entry.source for entry in registry.list_priors()[1:]} == {"hub"}
    edit_header(tiny, licence="other")
    with pytest.raises(PriorError, match="not the one fetched before"):
        registry.resolve("hf://owner/name/sub/tiny.safetensors")


def test_a_hub_that_cannot_be_reached_is_one_line(monkeypatch):
    def download(*_args, **_settings):
        raise ConnectionError("no route\nto host")

    fake_hub(monkeypatch, download)
    with pytest.raises(PriorError, match=r"could not be fetched .no route to host"):
        registry.resolve("hf://owner/name/a.safetensors")


def test_warnings_of_the_hubs_client_are_not_shown(caplog):
    def call():
        logging.getLogger("huggingface_hub").setLevel(logging.WARNING)  # as its modules do
        logging.getLogger("huggingface_hub.utils._http").warning("Retrying in 1s [Retry 1/5].")
        raise OSError("no network")

    refused = pytest.raises(PriorError, match=r"not fetched \(no network\); do this")
    with refused, hub._asking("not fetched", "do this"):
        call()
    assert caplog.records == []
    logging.getLogger("huggingface_hub.utils._http").warning("somebody else's")
    assert len(caplog.records) == 1


def test_without_the_hubs_client(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(PriorError, match=r"pip install 'mgdm\[hub\]'"):
        registry.resolve("hf://owner/name/a.safetensors")


class FakeApi:
    """Keeps what is sent, as the hub would."""

    def __init__(self, files):
        self.files = files

    def create_repo(self, repository, *, private, exist_ok):
        self.files["repository"] = (repository, private, exist_ok)
        return f"https://huggingface.co/{repository}"

    def upload_file(self, *, path_or_fileobj, path_in_repo, repo_id, revision):
        held = path_or_fileobj
        self.files[path_in_repo] = held if isinstance(held, bytes) else Path(held).read_bytes()

    def file_exists(self, *, filename, repo_id, revision):
        return filename in self.files


def test_a_pushed_prior_is_the_one_that_is_fetched(monkeypatch, tiny, tmp_path):
    files = {}

    def download(repository, file, **_):
        (tmp_path / "fetched").write_bytes(files[file])
        return str(tmp_path / "fetched")

    fake_hub(monkeypatch, download).HfApi = lambda: FakeApi(files)
    address = hub.HubAddress.parse("hf://me/mine")
    assert hub.push(tiny, address, private=True) == "https://huggingface.co/me/mine"
    assert files["repository"] == ("me/mine", True, True)
    card = files["README.md"].decode()
    assert "bass, drums, guitar, piano at 22050 Hz" in card
    assert "mgdm-separate -n hf://me/mine mix.wav" in card
    assert registry.resolve("hf://me/mine").read_bytes() == tiny.read_bytes()
    files["README.md"] = b"mine"
    hub.push(tiny, hub.HubAddress.parse("hf://me/mine/sub/other.safetensors"))
    assert files["README.md"] == b"mine"
    assert files["sub/other.safetensors"] == tiny.read_bytes()


def test_what_cannot_be_pushed_is_one_line(monkeypatch, tiny):
    class Refusing(FakeApi):
        def create_repo(self, *_args, **_options):
            raise PermissionError("401\nUnauthorized")

    fake_hub(monkeypatch, None).HfApi = lambda: Refusing({})
    address = hub.HubAddress.parse("hf://me/mine")
    with pytest.raises(PriorError, match=r"could not be pushed \(401 Unauthorized\); log in"):
        hub.push(tiny, address)
    tiny.write_bytes(tiny.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="truncated"):
        hub.push(tiny, address)
