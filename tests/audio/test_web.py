"""What the web server gives and refuses, asked without a browser."""

import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
import soundfile as sf

from tests.audio.tiny_stems_prior import STEMS, save_tiny_stems, song

pytest.importorskip("starlette", reason="starlette is in the extra web")
pytest.importorskip("httpx2", reason="starlette's test client needs it")

from click.testing import CliRunner
from starlette.testclient import TestClient

from mgdm_audio.cli import web
from mgdm_audio.web.jobs import Job, JobQueue
from mgdm_audio.web.server import create_app, shown_name
from mgdm_audio.web.settings import WebSettings
from mgdm_core.errors import CancelledError, SettingsError


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

    served = []
    monkeypatch.setattr(
        uvicorn.Server, "run", lambda server, sockets: served.append(sockets[0].getsockname())
    )
    result = CliRunner().invoke(web.main, ["--host", host, "--port", "0", "-d", "cpu"])
    assert result.exit_code == 0, result.output
    ((address, port, *_),) = served
    assert address == host
    assert f":{port}/" in result.stdout
    assert ("warning:" in result.stderr) == warns


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("../../a.wav", "a.wav"),
        ("C:\\music\\a.wav", "a.wav"),
        ("folder/", "recording"),
        ("é" * 200 + ".flac", "é" * 97 + ".flac"),
        ("a" * 300, "a" * 200),
    ],
)
def test_names_are_cut_to_what_files_may_be_called(given, shown):
    assert shown_name(given) == shown


def test_texts_say_the_limits_as_they_are(tmp_path):
    settings = WebSettings(tmp_path, max_seconds=12.0, max_bytes=1_500_000)
    assert (settings.minutes_words, settings.size_words) == ("0.2 minutes", "1.5 MB")
    assert WebSettings(tmp_path, max_seconds=60.0).minutes_words == "1 minute"
    for wrong in (float("nan"), float("inf")):
        with pytest.raises(SettingsError, match="max_seconds is positive"):
            WebSettings(tmp_path, max_seconds=wrong)


def test_an_upload_of_unknown_length_is_told_what_is_missing(client, session):
    sent = client.post(f"{session}/upload", content=iter([b"a"]))
    assert (sent.status_code, "Content-Length" in sent.text) == (411, True)


def test_a_folder_that_is_gone_is_a_refusal(client, session, tmp_path):
    (tmp_path / "web").write_text("a file now")
    sent = client.post(f"{session}/upload", files={"file": ("a.wav", b"RIFF")})
    assert (sent.status_code, 'role="alert"' in sent.text) == (200, True)


@pytest.fixture
def jobs(tmp_path):
    def made(name):
        return Job(name, f"{name}.wav", tmp_path, tmp_path / name, 1.0, 22_050, 1)

    return [made(name) for name in "abc"]


def test_a_closed_queue_has_stopped_what_ran_and_begins_nothing(jobs):
    running, ended = threading.Event(), []

    def work(device):
        def separate(job, progress):
            running.set()
            while progress(0.5):
                time.sleep(0.001)
            ended.append(job.id)
            raise CancelledError("as asked")

        return separate

    queue = JobQueue(work, ("cpu",))
    for job in jobs:
        queue.submit(job)
    assert running.wait(10)
    assert [queue.ahead(job) for job in jobs] == [0, 1, 2]
    queue.cancel(jobs[1])
    assert queue.ahead(jobs[2]) == 1
    queue.close()
    assert ended == ["a"]
    assert [job.state for job in jobs] == ["cancelled"] * 3


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--host", ""), "--host is an address or a name; found nothing"),
        (("--host", "no.such.host.invalid"), "cannot listen on port 0 of no.such.host.invalid"),
        (("--max-minutes", "nan"), "--max-minutes is a number; found nan"),
        (("--max-megabytes", "inf"), "is not in the range"),
        (("--folder", "/proc/x"), "cannot write into /proc/x"),
    ],
)
def test_what_cannot_be_served_is_said_before_anything_is(monkeypatch, options, said):
    monkeypatch.setattr(web, "application", lambda settings: None)
    result = CliRunner().invoke(web.main, ["--port", "0", *options])
    assert (result.exit_code, "http://" in result.output) == (2, False), result.output
    assert said in " ".join(result.output.split())


def test_a_port_that_is_taken_is_no_address(monkeypatch):
    monkeypatch.setattr(web, "application", lambda settings: None)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        result = CliRunner().invoke(web.main, ["--port", port])
    assert (result.exit_code, "http://" in result.output) == (2, False)
    assert f"cannot listen on port {port} of 127.0.0.1" in " ".join(result.output.split())


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_a_signal_ends_the_server_without_a_trace(tmp_path, name, code):
    prior = save_tiny_stems(tmp_path / "tiny.safetensors")
    words = ["-m", "mgdm_audio.cli.web", "-n", str(prior), "-d", "cpu", "--port", "0"]
    server = subprocess.Popen(
        [sys.executable, "-u", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert server.stdout.readline().startswith("http://127.0.0.1:")
    server.send_signal(getattr(signal, name))
    _, said = server.communicate(timeout=60)
    assert (server.returncode, "Traceback" in said) == (code, False), said
