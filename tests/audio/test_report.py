"""The report: what it says, that it stands on its own, and (slow) what a browser makes of it."""

import html.parser
import io
import math
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mgdm_audio.datasets import open_dataset
from mgdm_audio.errors import AudioError
from mgdm_audio.evaluation.compare import choose_variant, compare_runs
from mgdm_audio.evaluation.run import EvaluationSettings, evaluate
from mgdm_audio.evaluation.run_folder import RunFolder, Variant
from mgdm_audio.evaluation.summary import summarise
from mgdm_audio.evaluation.track_scores import ACTIVE, ALL, TrackScores
from mgdm_audio.metrics.statistics import compare_paired
from mgdm_audio.reports.figures import box_plot, mel_peak, spectrogram, sweep_plot
from mgdm_audio.reports.html import write_comparison, write_report
from mgdm_audio.reports.tables import decimal
from mgdm_core.errors import SettingsError

from .fake_separator import FakeSpec
from .fake_slakh import write_fake_slakh

RATE = 8000
VARIANTS = [Variant("bands", (("steps", 2),)), Variant("bands", (("steps", "<b>&8"),))]


class Numeric(FakeSpec):
    """Takes the second variant's nasty setting for 8."""

    def _one(self, job):
        settings = tuple((k, 8 if isinstance(v, str) else v) for k, v in job.variant.settings)
        return super()._one(replace(job, variant=Variant("bands", settings)))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("report")
    dataset = open_dataset(write_fake_slakh(root / "slakh")).select("test")
    folder = RunFolder(root / "run")
    settings = EvaluationSettings(rate=RATE, bss=False)
    spec = Numeric(fail=["Track00002"])
    facts = {"Machine": {"cpu": "an abacus", "cores": 2}, "Versions": {"torch": "2.11"}}
    assert evaluate(dataset, spec, VARIANTS, folder, settings, facts=facts) == 2
    return folder


class Links(html.parser.HTMLParser):
    """Collects what a page refers to, and that its tags close in order."""

    VOID = ("meta", "link", "img", "br", "input")

    def __init__(self):
        super().__init__()
        self.links, self.open, self.images = [], [], []

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.links += [v for k, v in found.items() if k in ("src", "href", "xlink:href")]
        if tag == "img":
            self.images.append(found)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def page(run):
    return write_report(run)


def test_the_folder_stands_on_its_own(page):
    links = Links()
    links.feed(page.read_text())
    assert links.open == []
    files = {link for link in links.links if not link.startswith(("#", "data:"))}
    # Two tracks in two variants: the mixture, four references and four estimates of each.
    assert len(files) == 2 * 2 * 9 * 2
    assert {str(p.relative_to(page.parent)) for p in page.parent.rglob("sounds/*")} == files
    assert all("alt" in image for image in links.images)
    text = page.read_text()
    assert not re.search(r"""(src|href)=["'](https?:)?//""", text)
    assert "@import" not in text
    assert "url(h" not in text


def test_the_page_says_what_a_reader_needs(page, run):
    text = page.read_text()
    summary = summarise(run)
    for variant in summary.variants:
        assert f"{variant.scores[ACTIVE][ALL].value:.2f} [" in text
    for words in (
        "0" * 64,  # the prior's checksum
        "an abacus",
        "Spread over tracks",
        "Score against evaluations",
        "s per s of audio",
        "The best tracks",
        "The worst tracks",
        "Paired comparison",
        "cannot separate Track00002",
        "test/Track00003",
    ):
        assert words in text, words
    # What a user typed is text, not markup.
    assert "<b>&8" not in text
    assert "&lt;b&gt;&amp;8" in text


def test_players_say_which_they_are_where_a_narrow_screen_hides_the_headings(page):
    text = page.read_text()
    for kind in ("reference", "estimate"):
        assert text.count(f'<td data-column="{kind}">') == text.count(f', {kind}"></audio>') > 0
    assert ".sounds td::before { content: attr(data-column)" in text


def test_excerpts_are_what_was_separated(page, run):
    import soundfile

    record = run.record(VARIANTS[0], "test/Track00001")
    start, stop = record["excerpt"]
    found = sorted(page.parent.glob("sounds/*mixture.flac"))
    assert {soundfile.info(p).frames for p in found} == {stop - start, 36_000}


def test_nothing_half_written_and_nothing_foreign_replaced(run, page, tmp_path, monkeypatch):
    before = page.read_text()
    monkeypatch.setattr("mgdm_audio.reports.html._sounds", lambda *a: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_report(run)
    assert page.read_text() == before
    assert not list(run.path.glob(".mgdm-*"))
    (tmp_path / "photo.jpg").write_text("x")
    comparison = compare_runs(run, run, VARIANTS[0].label, VARIANTS[1].label)
    with pytest.raises(AudioError, match="something other than a report"):
        write_comparison(comparison, tmp_path)


def test_comparison_is_paired_by_track(run, tmp_path):
    labels = [v.label for v in VARIANTS]
    found = compare_runs(run, run, *labels)
    assert found.tracks == ["test/Track00001", "test/Track00003"]
    scores = [
        [TrackScores.of(run.record(v, key)).value(ACTIVE, "bass") for key in found.tracks]
        for v in VARIANTS
    ]
    row = found.rows[0]
    assert row.stem == "bass"
    assert row.pairs == list(zip(*scores, strict=True))
    assert row.result == compare_paired(*scores)
    assert found.rows[-1].stem == ALL
    assert found.rows[-1].result.better == 2
    text = write_comparison(found, tmp_path / "cmp").read_text()
    links = Links()
    links.feed(text)
    assert links.open == []
    assert f"{row.result.difference.value:.2f}" in text
    with pytest.raises(SettingsError, match="several variants"):
        choose_variant(run, None)
    with pytest.raises(SettingsError, match="no variant 'x'"):
        compare_runs(run, run, "x", "x")


def test_a_score_of_nothing_has_no_sign():
    assert [decimal(v) for v in (-0.004, 0.0, -0.006, float("nan"))] == [
        "0.00",
        "0.00",
        "-0.01",
        "–",
    ]


def test_sweep_needs_two_costs(run):
    summary = summarise(run)
    assert "evaluations" in (sweep_plot(summary) or "")
    one = replace(summary, variants=summary.variants[:1])
    assert sweep_plot(one) is None
    free = replace(summary, variants=[replace(v, evaluations=0.0) for v in summary.variants])
    assert sweep_plot(free) is None


def test_box_plot_of_gaps():
    values = {"a": {"t": {"bass": math.nan, "all": 1.0}}, "b": {}}
    drawn = box_plot(values, ("bass", "all"), "dB")
    assert drawn.startswith("<svg")
    assert drawn == box_plot(values, ("bass", "all"), "dB")  # nothing of the clock in it


def test_spectrogram_shows_where_the_sound_is():
    t = np.arange(2 * RATE) / RATE
    tone = np.sin(2 * np.pi * 1000 * t) * (t > 1)
    peak = mel_peak(tone, RATE)

    def brightness(samples):
        picture = Image.open(io.BytesIO(spectrogram(samples, RATE, peak))).convert("L")
        return np.asarray(picture, float)[10:165, 66:425]

    loud, quiet = brightness(tone), brightness(0.01 * tone)
    half = loud.shape[1] // 2
    assert loud[:, half + 10 :].max() > 200
    assert loud[:, : half - 40].max() < 60
    assert quiet[:, half + 10 :].max() < loud[:, half + 10 :].max() - 40
    assert spectrogram(np.zeros(RATE), RATE)[:4] == b"\x89PNG"


@pytest.mark.slow
def test_chromium_opens_it_without_an_error(page, tmp_path):
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("chromium is not installed")
    shot = tmp_path / "report.png"
    # A page with a broken script first: what is looked for must be found when it is there.
    bad = tmp_path / "bad.html"
    bad.write_text("<script>missing()</script>")
    assert _console(chromium, bad, tmp_path / "bad.png") != []
    assert _console(chromium, page, shot) == []
    picture = np.asarray(Image.open(shot).convert("L"), float)
    assert picture.shape == (8000, 1200)
    assert (picture[:600] < 100).mean() > 0.005  # there is text
    colours = np.asarray(Image.open(shot).convert("RGB"), float).std(axis=2)
    assert (colours > 30).mean() > 0.01  # and there are pictures


def _console(chromium: str, page: Path, shot: Path) -> list[str]:
    """Lines of the browser's console."""
    done = subprocess.run(
        [
            chromium,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            "--window-size=1200,8000",
            "--virtual-time-budget=10000",
            "--enable-logging=stderr",
            f"--user-data-dir={shot.with_suffix('')}",
            f"--screenshot={shot}",
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return [line for line in done.stderr.splitlines() if "CONSOLE" in line]
