"""The listening page as a listener meets it: opened from a disk in a real browser."""

import json
import time

import numpy as np
import pytest
from scipy.signal import butter, sosfilt

from mgdm_audio.listening_page import Confidence, PageOptions, write_page

RATE = 48_000
SECONDS = 12
NAMES = ("bass", "drums", "guitar", "piano", "residual")


@pytest.fixture(scope="module")
def sounds():
    """Noise below 6 kHz, other for each stem: any stretch of it tells where it is from."""
    low = butter(6, 6000, fs=RATE, output="sos")
    noise = {
        name: sosfilt(low, np.random.default_rng(seed).normal(0, 0.1, RATE * SECONDS))
        for seed, name in enumerate(NAMES)
    }
    return {name: values.astype(np.float32) for name, values in noise.items()}


@pytest.fixture(scope="module")
def file_url(sounds, tmp_path_factory):
    return written(sounds, tmp_path_factory.mktemp("listen") / "page.html", folder=False)


@pytest.fixture(scope="module")
def folder_url(sounds, tmp_path_factory):
    return written(sounds, tmp_path_factory.mktemp("listen") / "page", folder=True)


@pytest.fixture(params=["file", "folder"])
def page_url(request):
    return request.getfixturevalue(f"{request.param}_url")


def written(sounds, path, folder):
    stems = {name: sounds[name] for name in NAMES[:4]}
    path = write_page(
        path,
        stems,
        sum(sounds.values()),
        RATE,
        residual=sounds["residual"],
        title="<script>alert(1)</script> & Söhne",
        confidence=Confidence({"bass": np.linspace(0, 1, 500)}, SECONDS / 500),
        options=PageOptions(folder=folder, codec="mp3" if folder else "opus"),
    )
    return path.as_uri()


def listen(page):
    """What each track sends to the output now, and the clock's reading beside it."""
    return page.evaluate(
        """() => mgdm.mixer.chains.map((chain) => {
            const samples = new Float32Array(2048);
            chain.meter.getFloatTimeDomainData(samples);
            return [mgdm.transport.currentTime, [...samples]];
        })"""
    )


def levels(page):
    return [float(np.sqrt(np.mean(np.square(samples)))) for _, samples in listen(page)]


def lag(samples, sound, now):
    """Seconds by which a snippet ends later in the sound than the clock says, within half one."""
    first = max(0, round((now - 0.5) * RATE))
    part = sound[first : round((now + 0.5) * RATE)]
    match = np.correlate(part, samples, "valid")
    return (first + int(np.argmax(match)) + len(samples)) / RATE - now


def poll(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def wait_until(page, seconds):
    # The page's own policy forbids the evaluation that Playwright's waiting would need.
    poll(lambda: page.evaluate("mgdm.transport.currentTime") > seconds)


def test_it_plays_and_the_clock_advances(open_page, page_url):
    page = open_page(page_url)
    assert page.locator("h1").inner_text() == "<script>alert(1)</script> & Söhne"
    assert page.locator("#now").inner_text() == "0:00"
    page.keyboard.press("Space")
    wait_until(page, 1.2)
    assert page.locator("#now").inner_text() == "0:01"
    assert min(levels(page)[1:]) > 0.02
    page.keyboard.press("Space")
    stopped = page.evaluate("mgdm.transport.currentTime")
    time.sleep(0.3)
    assert page.evaluate("mgdm.transport.currentTime") == stopped


def test_solo_mute_level_and_mixture_change_what_is_heard(open_page, file_url):
    page = open_page(file_url)
    page.click("#play")
    wait_until(page, 0.3)

    def heard():
        page.wait_for_timeout(150)
        return [level > 1e-4 for level in levels(page)]

    assert heard() == [False, True, True, True, True, True]
    page.keyboard.press("2")
    assert heard() == [False, False, True, False, False, False]
    page.keyboard.press("2")
    page.keyboard.press("Shift+1")
    assert heard() == [False, False, True, True, True, True]
    assert page.get_by_role("button", name="Mute Bass").get_attribute("aria-pressed") == "true"
    page.keyboard.press("m")
    assert heard() == [True, False, False, False, False, False]
    page.keyboard.press("m")
    heard()  # levels fade, they do not jump
    before = levels(page)[3]
    page.get_by_label("Level of Guitar").fill("-20")
    heard()
    assert levels(page)[3] == pytest.approx(before / 10, rel=0.3)


def test_a_seek_lands_on_the_same_sample_of_all_stems(open_page, page_url, sounds):
    page = open_page(page_url)
    page.click("#play")
    wait_until(page, 0.2)
    lane = page.locator(".track .wave").nth(2).bounding_box()
    for share in (0.45, 0.3, 0.88):  # forward, back, into the next clip
        page.mouse.click(lane["x"] + share * lane["width"], lane["y"] + 9)
        wait_until(page, share * SECONDS + 0.15)
        # The tracks are read one after the other, each against its own reading of the clock.
        lags = [lag(x, sounds[n], now) for n, (now, x) in zip(NAMES, listen(page)[1:])]
        assert max(map(abs, lags)) < 0.02
        assert np.ptp(lags) < 0.004


def test_it_plays_on_across_clips_without_a_gap(open_page, page_url, sounds):
    page = open_page(page_url)
    page.evaluate("mgdm.transport.currentTime = 9.2")
    page.click("#play")
    wait_until(page, 10.4)
    for name, (now, samples) in zip(NAMES, listen(page)[1:]):
        assert abs(lag(samples, sounds[name], now)) < 0.02  # the clock is read on a busy machine


def test_a_selection_is_repeated(open_page, file_url):
    page = open_page(file_url)
    lane = page.locator(".track .wave").nth(1).bounding_box()
    y = lane["y"] + 20
    page.mouse.move(lane["x"] + 0.50 * lane["width"], y)
    page.mouse.down()
    page.mouse.move(lane["x"] + 0.54 * lane["width"], y, steps=3)
    page.mouse.move(lane["x"] + 0.58 * lane["width"], y, steps=3)
    page.mouse.up()
    page.click("#play")
    for _ in range(8):
        page.wait_for_timeout(250)
        assert 5.9 < page.evaluate("mgdm.transport.currentTime") < 7.1
    page.keyboard.press("Escape")
    wait_until(page, 7.2)


def test_it_stops_at_the_end_and_starts_again(open_page, file_url):
    page = open_page(file_url)
    page.evaluate(f"mgdm.transport.currentTime = {SECONDS - 0.4}")
    page.click("#play")
    page.get_by_role("button", name="Play", exact=True).wait_for()
    assert page.evaluate("mgdm.transport.currentTime") == SECONDS
    page.click("#play")
    wait_until(page, 0.1)
    assert page.evaluate("mgdm.transport.currentTime") < 5


def test_by_keyboard_and_for_a_screen_reader(open_page, file_url):
    page = open_page(file_url, viewport={"width": 390, "height": 800})
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Shift+ArrowRight")
    position = page.get_by_role("slider", name="Position")
    assert position.get_attribute("aria-valuetext") == "6 seconds of 12 seconds"
    page.get_by_role("button", name="Solo Drums").focus()
    page.keyboard.press("Enter")
    assert page.get_by_role("status").inner_text() == "Drums: solo on"
    assert page.get_by_role("img", name="Confidence in bass: 50 % on average").is_visible()
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll("button, a, input")].filter((e) =>
            !e.getAttribute("aria-label") && !e.textContent.trim()).length"""
    )
    assert unnamed == 0
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_spectrograms_come_when_asked_for(open_page, page_url):
    page = open_page(page_url)
    assert page.locator(".spectrogram:visible").count() == 0
    page.keyboard.press("s")
    assert page.locator(".spectrogram:visible").count() == 6
    drawn = "[...document.querySelectorAll('.spectrogram img')].every((i) => i.naturalWidth > 0)"
    poll(lambda: page.evaluate(drawn))


def test_a_track_can_be_saved(open_page, file_url, sounds, tmp_path):
    import soundfile

    page = open_page(file_url)
    with page.expect_download() as download:
        page.get_by_role("button", name="Save Piano as wav").click()
    assert download.value.suggested_filename == "piano.wav"
    download.value.save_as(tmp_path / "piano.wav")
    saved, rate = soundfile.read(tmp_path / "piano.wav")
    assert (rate, len(saved)) == (RATE, RATE * SECONDS)
    error = saved - sounds["piano"]
    assert np.sqrt(np.mean(error**2)) < 0.5 * np.sqrt(np.mean(sounds["piano"] ** 2))


def test_colours_follow_the_system_and_the_switch(open_page, file_url):
    page = open_page(file_url, color_scheme="dark")
    ground = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(ground)
    page.get_by_role("button", name="Colours: auto").click()
    assert page.evaluate(ground) != dark
    page.get_by_role("button", name="Colours: light").click()
    assert page.evaluate(ground) == dark


def test_data_cannot_close_its_element(open_page, file_url):
    page = open_page(file_url)
    text = page.evaluate("document.getElementById('mgdm-data').textContent")
    assert "<" not in text
    assert json.loads(text)["frames"] == RATE * SECONDS
