"""The local web page in a real browser, served as mgdm-web serves it."""

import contextlib
import io
import socket
import threading
import time
import zipfile

import numpy as np
import pytest
import soundfile as sf

from tests.audio.tiny_stems_prior import STEMS, save_tiny_stems, song

uvicorn = pytest.importorskip("uvicorn", reason="uvicorn is in the extra web")

from mgdm_audio.cli.web import application  # noqa: E402
from mgdm_audio.web.server import create_app  # noqa: E402
from mgdm_audio.web.settings import WebSettings  # noqa: E402
from mgdm_core.errors import CancelledError  # noqa: E402

# Drops sounds, pairs of a name and bytes, on the page.
DROP = """sounds => {
  const dataTransfer = new DataTransfer();
  for (const [name, bytes] of sounds) {
    dataTransfer.items.add(new File([new Uint8Array(bytes)], name));
  }
  document.dispatchEvent(new DragEvent("drop", { dataTransfer, cancelable: true }));
}"""


@pytest.fixture
def serve():
    """Serves applications on free loopback ports until the test ends."""
    servers = []

    def start(app) -> str:
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        listener.listen()  # who comes before the server is ready waits
        config = uvicorn.Config(app, log_level="warning", server_header=False)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        servers.append((server, thread))
        return f"http://127.0.0.1:{listener.getsockname()[1]}"

    yield start
    for server, thread in servers:
        server.should_exit = True
        thread.join(10)


@pytest.fixture
def open_page(serve, open_page):
    """The pages close before their server stops: a request on its way is no complaint."""
    return open_page


@pytest.fixture(scope="module")
def prior(tmp_path_factory):
    return save_tiny_stems(tmp_path_factory.mktemp("prior") / "tiny.safetensors")


@pytest.fixture
def sound(tmp_path):
    def write(name="song.wav", seconds=1.0):
        path = tmp_path / "sent" / name
        path.parent.mkdir(exist_ok=True)
        sf.write(path, song(seconds, 22_050, 2).T, 22_050, subtype="FLOAT", format="WAV")
        return path

    return write


def slow(device):
    """Work that takes as long as it is let."""

    def separate(job, progress):
        for step in range(2000):
            time.sleep(0.01)
            if not progress(step / 2000):
                raise CancelledError("cancelled")

    return separate


def slow_app(folder, **limits):
    cost = {"real_time_factor": 2.0, "memory": 3e9}
    settings = WebSettings(folder, devices=("cpu",), **limits)
    return create_app(settings, STEMS, lambda preset: cost, slow)


def test_upload_separate_listen_and_download(open_page, serve, prior, sound, tmp_path):
    url = serve(application(WebSettings(tmp_path / "web", prior=str(prior), devices=("cpu",))))
    page = open_page(url)
    page.set_input_files("#file", sound("my song.wav"))
    card = page.get_by_role("article", name="my song.wav")
    card.get_by_text("about").wait_for(timeout=60_000)
    assert "GB of memory" in card.locator("output").inner_text()
    card.get_by_role("combobox").select_option("fast")
    card.get_by_role("button", name="Separate").click()
    card.get_by_text("Done in").wait_for(timeout=120_000)
    with page.expect_download() as download:
        card.get_by_role("link", name="Download all as zip").click()
    with zipfile.ZipFile(download.value.path()) as archive:
        names = set(archive.namelist())
        assert names == {f"{s}.wav" for s in (*STEMS, "residual")} | {"listen.html", "mgdm.json"}
        stems = [sf.read(io.BytesIO(archive.read(f"{s}.wav")))[0] for s in (*STEMS, "residual")]
    np.testing.assert_allclose(sum(stems), song(1.0, 22_050, 2).T, atol=1e-5)
    frame = card.frame_locator("iframe")
    frame.locator("body.ready").wait_for()
    frame.get_by_role("button", name="Play", exact=True).click()
    frame.get_by_role("button", name="Play", exact=True).wait_for()  # it has played to the end


def test_progress_time_left_and_cancel(open_page, serve, sound, tmp_path):
    page = open_page(serve(slow_app(tmp_path / "web")))
    page.set_input_files("#file", sound())
    card = page.get_by_role("article", name="song.wav")
    assert "about 2 s and 3.0 GB" in card.locator("output", has_text="about").inner_text()
    card.get_by_role("button", name="Separate").click()
    card.get_by_text("left").wait_for()
    assert 0 < float(card.get_by_role("progressbar").get_attribute("value")) < 1
    card.get_by_role("button", name="Cancel").click()
    card.get_by_text("Cancelled; nothing was kept.").wait_for()
    card.get_by_role("button", name="Remove").click()
    card.wait_for(state="detached")
    assert list((tmp_path / "web").iterdir()) == []


def test_two_at_once_wait_for_one_worker_and_the_history_stays(open_page, serve, sound, tmp_path):
    page = open_page(serve(slow_app(tmp_path / "web")))
    for name in ("one.wav", "two.wav"):
        page.set_input_files("#file", sound(name))
        card = page.get_by_role("article", name=name)
        card.get_by_role("button", name="Separate").click()
    page.get_by_role("article", name="one.wav").get_by_text("left").wait_for()
    page.get_by_text("waiting, 1 before it").wait_for()
    page.reload()
    page.get_by_role("article", name="one.wav").get_by_role("button", name="Cancel").click()
    page.get_by_role("article", name="two.wav").get_by_text("left").wait_for()
    page.get_by_role("article", name="two.wav").get_by_role("button", name="Cancel").click()
    page.get_by_role("article", name="two.wav").get_by_text("Cancelled").wait_for()


def test_a_bad_file_a_long_one_and_a_big_one_are_refused(open_page, serve, sound, tmp_path):
    page = open_page(serve(slow_app(tmp_path / "web", max_seconds=3.0, max_bytes=900_000)))
    bad = tmp_path / "notes.wav"
    bad.write_text("no sound")
    big = tmp_path / "big.wav"
    big.write_bytes(bytes(2_000_000))
    for path, says in (
        (bad, "notes.wav"),
        (sound("long.wav", 4.0), "at most 0.05 minutes"),
        (big, "Files here are at most"),
    ):
        page.set_input_files("#file", path)
        page.get_by_role("alert").filter(has_text=says).wait_for()
    assert list((tmp_path / "web").iterdir()) == []


def test_a_name_full_of_html_is_text(open_page, serve, sound, tmp_path):
    name = "<img src=x onerror=alert(1)>'\"&.wav"
    page = open_page(serve(slow_app(tmp_path / "web")))
    page.set_input_files(
        "#file", {"name": name, "mimeType": "audio/wav", "buffer": sound().read_bytes()}
    )
    page.get_by_role("button", name="Separate").wait_for()
    assert page.locator(".job h2").inner_text() == name.replace('"', "%22")
    assert page.locator(".job img").count() == 0


def test_several_dropped_files_are_sent_and_a_refusal_stays_beside_what_runs(
    chromium, serve, sound, tmp_path
):
    """In a context of its own: the browser logs the refusal and the server that is gone."""
    with contextlib.closing(chromium.new_context()) as context:
        page = context.new_page()
        page.goto(serve(slow_app(tmp_path / "web")))
        sounds = [[name, [*sound(name).read_bytes()]] for name in ("one.wav", "two.wav")]
        page.evaluate(DROP, sounds)
        one, two = (page.get_by_role("article", name=name) for name, _ in sounds)
        one.get_by_role("button", name="Separate").click()
        one.get_by_text("left").wait_for()
        two.get_by_role("combobox").wait_for()
        removal = two.locator("form").get_attribute("hx-post").replace("/start", "/remove")
        assert page.request.post(page.url.split("/s/")[0] + removal).ok  # as in another tab
        two.get_by_role("button", name="Separate").click()
        trouble = page.locator("#trouble")
        trouble.get_by_text("no such recording").wait_for()
        before = one.get_by_role("progressbar").get_attribute("value")
        page.wait_for_timeout(1600)  # two questions of the card that runs
        assert one.get_by_role("progressbar").get_attribute("value") != before
        assert trouble.inner_text() == "no such recording"
        context.set_offline(True)
        trouble.get_by_text("The server does not answer").wait_for()
        context.set_offline(False)
        trouble.wait_for(state="hidden")
        one.get_by_role("button", name="Cancel").click()
        one.get_by_text("Cancelled").wait_for()
