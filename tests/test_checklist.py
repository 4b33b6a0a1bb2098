"""CLAIM for five papers: complete, judged by known words, and what a damaged file is told."""

import pytest
import yaml

from covidcxr import checklist, claims, paths
from covidcxr.errors import InputError


@pytest.fixture
def content() -> dict:
    return yaml.safe_load((paths.params_dir() / checklist.FILE).read_text(encoding="utf-8"))


def test_every_paper_answers_every_item():
    table = checklist.read()
    assert set(table.paper) == set(claims.load().papers)
    assert (table.groupby("paper").item.apply(list).map(lambda items: items == list(range(1, 43)))).all()
    found = checklist.counts(table)
    assert (found.sum(axis=1) == 42).all()
    assert table[table.judged == "-"].item.eq(27).all()  # nobody has an ensemble


@pytest.mark.parametrize("damage, words", [
    (lambda paper: paper.pop(7), "in order"),
    (lambda paper: paper.update({3: ["yes", "section 1", ""]}), "item 3: judged 'yes'"),
    (lambda paper: paper.update({3: ["met", "–", ""]}), "item 3: what is met has a place"),
    (lambda paper: paper.update({3: ["not", "section 1", ""]}), "item 3: what is met has a place"),
    (lambda paper: paper.update({3: "met"}), "item 3: a list of 3 texts is expected, found 'met'"),
    (lambda paper: paper.update({3: ["met", 1, ""]}), "item 3: a list of 3 texts is expected"),
])  # fmt: skip
def test_a_damaged_file_says_where(content, tmp_path, damage, words):
    damage(content["papers"]["zhang2020"])
    path = tmp_path / "list.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")
    with pytest.raises(InputError, match=words):
        checklist.read(path)


@pytest.mark.parametrize("text", ["items: 3", "[]", "{items: {1: [a, b]}, papers: {zhang2020: none}}", "{items: {}}"])
def test_a_file_of_another_form_is_refused(tmp_path, text):
    path = tmp_path / "list.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match="list.yaml"):
        checklist.read(path)
