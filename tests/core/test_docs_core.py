"""The reference page names what is there, and only that."""

import re

import pytest

import mgdm_core
from mgdm_core import errors, index_laws, operators, priors
from mgdm_core.conditionals import CONDITIONALS
from mgdm_core.samplers import PRESETS, SAMPLERS
from mgdm_core.steps import backward


@pytest.fixture(scope="module")
def page(repo_root):
    return (repo_root / "docs" / "core.md").read_text()


def test_the_table_of_samplers_is_the_list(page):
    rows = re.findall(r"^\| `(\w+)` \| ([\w, ]*)\| (yes)? ?\| (.+?) \|$", page, re.MULTILINE)
    told = {name: (needs, particles, paper) for name, needs, particles, paper in rows}
    assert set(told) == set(SAMPLERS)
    for name, (needs, particles, paper) in told.items():
        info = SAMPLERS[name]
        assert {n.strip() for n in needs.split(",") if n.strip()} == info.needs, name
        assert (particles == "yes") == info.interacting
        assert info.paper.startswith(paper), name


def test_every_module_has_its_line(page):
    from pathlib import Path

    package = Path(mgdm_core.__file__).parent
    modules = {path.stem for path in package.glob("*.py")} - {"__init__", "array_types", "errors"}
    modules |= {path.parent.name for path in package.glob("*/__init__.py")}
    section = page[page.index("## Modules") : page.index("## Priors")]
    told = set(
        re.findall(r"`(\w+)`(?=[^|\n]*\|)", "\n".join(re.findall(r"^\|[^|]*\|", section, re.M)))
    )
    assert told == modules


def test_what_it_names_exists(page):
    for name in (*CONDITIONALS, *PRESETS["mgdm"]):
        assert f"`{name}`" in page, name
    for module, pattern in (
        (priors, r"`(\w+Prior)`"),
        (errors, r"`(\w+Error)`"),
        (index_laws, r"`(\w+(?:Law|Fraction|Zero|Level|Mix))\b"),
    ):
        for name in re.findall(pattern, page):
            assert hasattr(module, name), name
    for name in ("Identity", "Mask", "Matrix", "SumOverChannels", "compose", "stack"):
        assert hasattr(operators, name)
    for name in ("ddpm", "ddim", "heun", "dpmpp_2m"):
        assert f"`{name}`" in page
        assert name in (backward.backward_step.__doc__ or "") + (
            backward.backward_chain.__doc__ or ""
        )
