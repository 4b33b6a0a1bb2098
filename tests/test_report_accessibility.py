"""The page for those who hear it: its tables stay tables at the width of a phone, where their parts are laid out as blocks."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import synthetic_profile

from covidcxr import report

STYLE = Path(report.__file__).parent / "templates" / "report.css"
ROLES = {"table": "table", "caption": "caption", "thead": "rowgroup", "tbody": "rowgroup", "tr": "row", "td": "cell"}


class Tables(HTMLParser):
    """Of every table, its class and the parts with their attributes."""

    def __init__(self, page: str):
        super().__init__()
        self.found: list[tuple[str, list[tuple[str, dict[str, str]]]]] = []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        if tag == "table":
            self.found.append((dict(attributes).get("class", ""), []))
        if tag in {*ROLES, "th"}:
            self.found[-1][1].append((tag, dict(attributes)))


@pytest.fixture(scope="module")
def tables(tmp_path_factory) -> list[tuple[str, list[tuple[str, dict[str, str]]]]]:
    profile = synthetic_profile.write(tmp_path_factory.mktemp("outputs") / "pilot")
    return Tables(report.render(profile)).found


def test_tables_that_become_blocks_say_what_their_parts_are(tables):
    """Browsers take the meaning of a table from how it is laid out, unless roles say it."""
    stacked = [parts for name, parts in tables if "stack" in name.split()]
    captions = sum(tag == "caption" for parts in stacked for tag, _ in parts)
    assert len(stacked) == captions > 20
    for tag, attributes in (part for parts in stacked for part in parts):
        expected = ROLES[tag] if tag != "th" else {"col": "columnheader", "row": "rowheader"}[attributes["scope"]]
        assert attributes.get("role") == expected, (tag, attributes)


def test_only_those_become_blocks():
    """A rule of the style that lays out parts of other tables as blocks would need roles there, too."""
    rules = re.findall(r"([^{}]+)\{([^{}]*)\}", STYLE.read_text(encoding="utf-8"))
    laid_out = [one.split() for chosen, what in rules for one in chosen.split(",") if re.search(r"display: (?!none)", what)]
    of_tables = [words for words in laid_out if re.split(r"[.\[:]", words[-1])[0] in {*ROLES, "th"}]
    assert len(of_tables) > 5 and all(words[0] == ".stack" for words in of_tables), of_tables
