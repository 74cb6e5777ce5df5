"""What the web server gives and refuses, asked without a browser."""

import pytest
import soundfile as sf

from tests.audio.tiny_stems_prior import STEMS, save_tiny_stems, song

pytest.importorskip("starlette", reason="starlette is in the extra web")
pytest.importorskip("httpx2", reason="starlette's test client needs it")

from click.testing import CliRunner
from starlette.testclient import TestClient

from mgdm_audio.cli import web
from mgdm_audio.web.server import create_app
from mgdm_audio.web.settings import WebSettings
from mgdm_core.errors import SettingsError


@pytest.fixture
def client(tmp_path):
    def work(device):
        def separate(job, progress):
            made = job.folder / "bass.wav"
            made.write_bytes(b"stem")
            job.files = {"bass.wav": made}

        return separate

    cost = {"real_time_factor": 1.0, "memory": 1e9}
    settings = WebSettings(tmp_path / "web", devices=("cpu",))
    with TestClient(create_app(settings, STEMS, lambda preset: cost, work)) as client:
        yield client


@pytest.fixture
def session(client):
    return client.get("/", follow_redirects=False).headers["location"]


@pytest.fixture
def job(client, session, tmp_path):
    sf.write(tmp_path / "a.wav", song(0.5, 22_050, 1).T, 22_050)
    with (tmp_path / "a.wav").open("rb") as file:
        text = client.post(f"{session}/upload", files={"file": ("../../a.wav", file)}).text
    return session + text.split(f'"{session}')[1].split('/start"')[0]


def test_only_listed_files_are_served(client, job, tmp_path):
    (tmp_path / "web" / "secret").write_text("no")
    client.post(f"{job}/start", data={"preset": "fast", "stems": "bass"})
    while "Done" not in (text := client.get(job).text):
        assert "failed" not in text
    assert client.get(f"{job}/files/bass.wav").content == b"stem"
    for name in ("input.wav", "..%2f..%2fsecret", "../../secret", "%2e%2e/secret", "secret"):
        assert client.get(f"{job}/files/{name}").status_code in (404, 405)
    assert client.get("/static/..%2fserver.py").status_code == 404


def test_where_nothing_else_plays_there_is_no_stem_for_it(tmp_path):
    prior = save_tiny_stems(tmp_path / "five.safetensors", stems=(*STEMS, "other"))
    settings = WebSettings(tmp_path / "web", prior=str(prior), devices=("cpu",))
    sf.write(tmp_path / "a.wav", song(1.0, 22_050, 1).T, 22_050)
    app = create_app(
        settings, (*STEMS, "other"), lambda preset: {"real_time_factor": 1.0, "memory": 1}
    )
    with TestClient(app) as client:
        session = client.get("/", follow_redirects=False).headers["location"]
        with (tmp_path / "a.wav").open("rb") as file:
            text = client.post(f"{session}/upload", files={"file": ("a.wav", file)}).text
        assert "nothing else plays" in text
        job = session + text.split(f'"{session}')[1].split('/start"')[0]
        asked = {"preset": "fast", "closed": "1", "stems": "other"}
        assert "Choose at least one stem" in client.post(f"{job}/start", data=asked).text
        client.post(f"{job}/start", data={**asked, "stems": [*STEMS, "other"]})
        while "Done" not in (text := client.get(job).text):
            assert "failed" not in text
        assert client.get(f"{job}/files/other.wav").status_code == 404
        record = client.get(f"{job}/files/mgdm.json").json()
    assert record["stems"] == [*STEMS, "residual"]
    assert record["identity"]["without"] == ["other"]


def test_a_session_sees_only_its_own(client, job):
    other = client.get("/", follow_redirects=False).headers["location"]
    number = job.rsplit("/", 1)[1]
    assert client.get(f"{other}/jobs/{number}").status_code == 404
    assert client.get(f"/s/guessed/jobs/{number}").status_code == 404


def test_uploads_lie_in_the_folder_whatever_they_are_called(client, job, tmp_path):
    assert "a.wav" in client.get(job).text
    inside = [p.name for p in (tmp_path / "web").rglob("*") if p.is_file()]
    assert inside == ["input.wav"]


def test_no_other_host_is_allowed(client, session):
    policy = client.get(session).headers["content-security-policy"]
    assert "http" not in policy
    assert "'unsafe" not in policy


def test_wrong_wishes_are_refused(client, job, tmp_path):
    assert "Choose at least one stem" in client.post(f"{job}/start", data={"preset": "fast"}).text
    assert client.get(f"{job}/estimate?preset=huge").status_code == 400
    with pytest.raises(SettingsError, match="max_seconds is positive"):
        WebSettings(tmp_path, max_seconds=0.0)


@pytest.mark.parametrize(
    ("host", "warns"), [("127.0.0.1", False), ("0.0.0.0", True), ("::1", False)]
)
def test_the_command_warns_when_others_can_reach_it(monkeypatch, host, warns):
    import uvicorn

    served = {}
    monkeypatch.setattr(uvicorn, "run", lambda app, **options: served.update(options))
    result = CliRunner().invoke(web.main, ["--host", host, "-d", "cpu"])
    assert result.exit_code == 0, result.output
    assert served["host"] == host
    assert ("warning:" in result.stderr) == warns
