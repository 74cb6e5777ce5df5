"""The comparison of two runs in a real browser, wide and narrow: its tables can be read."""

import pytest

from mgdm_audio.reports.tables import Table
from tests.audio.test_report import Links

# Words of cells that stand on more than one line, and whether the page itself is wider than it.
BROKEN = """() => {
    const found = [];
    for (const cell of document.querySelectorAll("th, td")) {
        const text = cell.firstChild;
        if (!text || text.nodeType !== Node.TEXT_NODE || !cell.checkVisibility()) continue;
        for (const word of text.data.matchAll(/[\\w.]+/g)) {
            const range = document.createRange();
            range.setStart(text, word.index);
            range.setEnd(text, word.index + word[0].length);
            const lines = new Set([...range.getClientRects()].map((r) => Math.round(r.top)));
            if (lines.size > 1) found.push(word[0]);
        }
    }
    const whole = document.documentElement;
    return [found, whole.scrollWidth > whole.clientWidth];
}"""

NOTHING = [f"nothing: Wiener filter of average spectra of {name}" for name in ("A", "B", "all")]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A paired comparison of many rows that separate nothing: a table wider than the screen."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    columns = ["", "A", "B", "B less A", "median", "B above/below", "p", *NOTHING, *NOTHING]
    cells = ["12.34", "13.45", "1.11 [-0.9, 1.3]", "1.00", "150/1", "1.2e-05", *6 * ["-10.00"]]
    names = ("accompaniment without percussion", "bass", "nothing: unrecognisable")
    table = Table("Paired comparison", "In dB", columns, [[name, *cells] for name in names])
    environment = Environment(
        loader=PackageLoader("mgdm_audio.reports"), autoescape=True, undefined=StrictUndefined
    )
    text = environment.get_template("comparison.html").render(
        title="B against A", comparison={"remarks": []}, paired=table, bars="", by_track=[table]
    )
    links = Links()
    links.feed(text)
    assert links.open == []
    path = tmp_path_factory.mktemp("report") / "index.html"
    path.write_text(text, encoding="utf-8")
    return path.as_uri()


@pytest.mark.parametrize("width", [1200, 880, 390])
def test_words_of_a_wide_table_stay_whole_and_the_page_as_wide_as_the_screen(
    open_page, page, width
):
    opened = open_page(page, viewport={"width": width, "height": 900})
    broken, wider = opened.evaluate(BROKEN)
    assert broken == []
    assert not wider
    if width > 832:  # narrower, a row is a list
        table = opened.locator(".scores").first
        box = table.locator("xpath=..")
        assert box.evaluate("box => box.scrollWidth > box.clientWidth")
