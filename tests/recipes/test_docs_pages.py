"""The pages of docs/: blocks run, links lead somewhere, errors are what is said."""

import re
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from click.testing import CliRunner

from mgdm_audio.cli.separate import main as separate
from mgdm_audio.priors import networks
from recipes.site.commands import COMMANDS, command_pages
from recipes.site.reference import page_of, reference_pages

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted((ROOT / "docs").glob("*.md"))
LINK = re.compile(r"(!?)\[[^\]\[]*(?:\[[^\]]*\][^\]\[]*)*\]\(([^)\s]+)\)|(?:src|href)=\"([^\"]+)\"")


@pytest.fixture(autouse=True)
def registry(monkeypatch):
    """Networks that a page registers are gone after it."""
    monkeypatch.setattr(networks, "_KINDS", dict(networks._KINDS))


@pytest.mark.parametrize(
    ("page", "said"),
    [
        ("add_a_sampler.md", r"^50.0 0.8"),
        ("add_an_operator.md", r""),
        ("add_a_network.md", r"'piano': \(2, 22050\)"),
        ("start_audio_researchers.md", r"'bass': -?\d"),
        ("start_samplers.md", r"torch.Size\(\[20, 48\]\)"),
    ],
)
def test_a_page_runs_as_it_stands(page, said, tmp_path, monkeypatch, capsys):
    blocks = re.findall(r"^```python\n(.*?)^```$", (ROOT / "docs" / page).read_text(), re.M | re.S)
    assert blocks
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "page"}
    for block in blocks:
        exec(compile(block, page, "exec"), names)
    out = capsys.readouterr().out
    assert re.search(said, out)
    if page == "add_an_operator.md":  # adjoint, inverse, the two proximal maps
        assert [abs(float(line)) < 1e-4 for line in out.split()] == [True] * 3
    if page == "add_a_sampler.md":
        assert (names["mean"], round(names["deviation"], 2)) == (0.8, 0.45)
        assert abs(float(names["observed"].mean()) - 0.87) < 0.03  # what the page says of it
        assert abs(float(names["observed"].std()) - 0.35) < 0.03
    if page == "add_a_network.md":
        observed, free = names["draws"].mean(0).split(4)
        assert float((observed - 1).abs().max()) < 0.05
        assert float(free.abs().max()) < 0.4


def targets(page: Path) -> list[tuple[bool, str]]:
    """Links and pictures of a page outside its code."""
    text = re.sub(r"```.*?```|`[^`]*`", "", page.read_text(encoding="utf-8"), flags=re.S)
    return [(bool(m[0]), m[1] or m[2]) for m in LINK.findall(text)]


def slugs(text: str) -> set[str]:
    heads = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", text, flags=re.S), re.M)
    plain = (re.sub(r"[^\w\- ]", "", head.replace("`", "")).strip().lower() for head in heads)
    return {re.sub(r"[\s\-]+", "-", head) for head in plain}


@pytest.fixture(scope="module")
def generated():
    """Pages that exist in the built site only."""
    return set(command_pages()) | set(reference_pages(ROOT))


@pytest.mark.parametrize("page", [*PAGES, *ROOT.glob("*.md")], ids=lambda path: path.name)
def test_links_lead_somewhere(page, generated):
    for picture, target in targets(page):
        if "://" in target or target.startswith(("#", "mailto:", "data:")):
            continue
        name, _, anchor = target.partition("#")
        if name.startswith("players/"):  # written when the site is built
            assert (ROOT / "docs" / "gallery" / Path(name).stem).is_dir(), target
            continue
        path = page.parent / name
        if not path.exists():
            assert not picture, f"{page.name}: no picture {target}"
            assert name in generated, f"{page.name}: {target} leads nowhere"
        elif anchor and path.suffix == ".md":
            found = slugs(path.read_text(encoding="utf-8"))
            assert anchor in found, f"{page.name}: {name} has no heading #{anchor}"


def test_every_option_of_every_command_is_in_the_reference():
    pages = command_pages()
    assert set(pages) == {f"commands/{name}.md" for name in COMMANDS}
    for option in ("--two-stems", "--page", "--shifts", "-j, --jobs", "--resume"):
        assert f"<code>{option}" in pages["commands/mgdm-separate.md"]
    table = [line for line in pages["commands/mgdm-separate.md"].split("\n") if line[:1] == "|"]
    assert not any("`" in line or line.count("|") != 3 for line in table)
    assert "mgdm-models import weakly-msdm" in pages["commands/mgdm-models.md"]
    # A command keeps the help option that it is first asked for: also for those who call it later.
    assert all("<code>-h, --help</code>" in page for page in pages.values())


def test_every_public_module_has_a_page_and_private_ones_have_none():
    pages = reference_pages(ROOT)
    assert "::: mgdm_core.samplers.mgdm\n" in pages["reference/mgdm_core/samplers/mgdm.md"]
    assert page_of(ROOT, ROOT / "mgdm_core" / "sample.py") == "reference/mgdm_core/sample.md"
    assert page_of(ROOT, ROOT / "mgdm_core" / "samplers" / "_msdm.py") is None
    assert page_of(ROOT, ROOT / "mgdm_audio" / "cli" / "separate.py") is None
    assert not any("/cli/" in path or "/_" in path for path in pages)


# -- troubleshooting ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trouble(tmp_path_factory):
    """A folder of the files that the page speaks of."""
    folder = tmp_path_factory.mktemp("trouble")
    sound = 0.1 * np.random.default_rng(0).standard_normal((22_050, 2))
    sf.write(folder / "good.wav", sound, 22_050)
    whole = (folder / "good.wav").read_bytes()
    (folder / "song.wav").write_bytes(whole[: len(whole) // 2])
    sound[5, 0] = np.nan
    sf.write(folder / "nan.wav", sound, 22_050, subtype="FLOAT")
    sf.write(folder / "low.wav", np.zeros(4000), 4000)
    sf.write(folder / "silent.wav", np.zeros((2205, 2)), 22_050)
    (folder / "notes.txt").write_text("hi")
    (folder / "y.safetensors").write_text("xx")
    (folder / "empty").mkdir()
    (folder / "o" / "music-stems" / "song").mkdir(parents=True)
    sf.write(folder / "o" / "music-stems" / "song" / "bass.wav", np.zeros(10), 22_050)
    return folder


TROUBLE = {
    "is cut off": ["song.wav"],
    "notes.txt": ["notes.txt"],
    "nan.wav": ["nan.wav"],
    "low.wav": ["low.wav"],
    "empty": ["empty"],
    "silent.wav": ["silent.wav", "-o", "silence"],
    "exists already": ["song.wav", "-o", "o"],
    "--resume keeps": ["good.wav", "--resume", "--overwrite"],
    "'vocals'": ["good.wav", "--two-stems", "vocals"],
    "'strings'": ["good.wav", "--without", "strings"],
    "uncertainty is": ["good.wav", "--uncertainty", "--preset", "balanced"],
    "'--page'": ["--page", "song.wav"],
    "no preset": ["good.wav", "--preset", "best"],
    "'nope'": ["good.wav", "-n", "nope"],
    "y.safetensors": ["good.wav", "-n", "y.safetensors"],
    "no CUDA device": ["good.wav", "-d", "cuda"],
}


@pytest.mark.parametrize("key", TROUBLE)
def test_the_errors_of_the_troubleshooting_page_are_what_is_said(key, trouble, monkeypatch):
    monkeypatch.chdir(trouble)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```\n(.*?)\n```$", page, re.M | re.S)
    (told,) = [block for block in blocks if key in block]
    if key == "exists already":
        (trouble / "song.wav").write_bytes((trouble / "good.wav").read_bytes())
    result = CliRunner().invoke(separate, TROUBLE[key], prog_name="mgdm-separate")
    if told.startswith("error:"):
        assert result.exit_code in (1, 2)
    assert told in result.output


def test_every_error_of_the_troubleshooting_page_is_provoked():
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```\n(.*?)\n```$", page, re.M | re.S)
    assert len(blocks) == len(TROUBLE)
