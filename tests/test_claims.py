"""The claims as written, the arithmetic of the inconsistencies, and the rules of the verdict."""

import re
from collections import Counter
from pathlib import Path

import pytest
import yaml

from covidcxr import claims, outcomes
from covidcxr.arithmetic import half_unit
from covidcxr.claims import STATUSES, StageState
from covidcxr.errors import InputError

KNOWN = claims.load()
STUDY = outcomes.read_study()
DONE = StageState("done", "real")
PROBLEMS = [problem for paper in KNOWN.papers.values() for problem in paper.inconsistencies]
CHECKS = [(problem.id, check) for problem in PROBLEMS for check in problem.checks]
NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"


def claim(**changes):
    entry = {
        "id": "p.x", "paper": "p", "place": "Table 1", "what": "a score", "kind": "performance", "value": 0.8, "unit": "IoU",
        "tolerance": 0.03, **changes,
    }
    return claims.Claim(**entry)


def record(value, **changes):
    return {"id": "p.x", "value": value, "ci": None, "comparable": True, "why": "", **changes}


def word(*arguments):
    return claims.verdict(*arguments)[0]


# ---- the files ---------------------------------------------------------------------------------------------------------------


def test_papers_have_the_figures_and_tables_that_they_print():
    kinds = Counter((entry.paper, entry.kind) for entry in KNOWN.claims.values())
    figures = {paper: kinds[paper, "figure"] + kinds[paper, "schematic"] for paper in KNOWN.papers}
    assert figures == {"ramesh2021": 5, "tang2020": 5, "zhang2020": 9, "gaikwad2020": 5, "yang2021": 4}
    tables = {paper: kinds[paper, "table"] for paper in KNOWN.papers}
    assert tables == {"ramesh2021": 1, "tang2020": 0, "zhang2020": 5, "gaikwad2020": 3, "yang2021": 0}
    assert sum(kinds[paper, "schematic"] for paper in KNOWN.papers) == 8


def test_every_printed_score_is_a_claim():
    kinds = Counter((entry.paper, entry.kind) for entry in KNOWN.claims.values())
    scores = {paper: kinds[paper, "performance"] for paper in KNOWN.papers}
    assert scores == {"ramesh2021": 4, "tang2020": 6, "zhang2020": 11, "gaikwad2020": 12, "yang2021": 5}
    assert kinds["ramesh2021", "margin"] == 4


def test_margins_and_intervals_of_ramesh_agree():
    for model in ("mask_rcnn.xrays_only", "mask_rcnn.mixed", "unet.xrays_only", "unet.mixed"):
        score, margin = KNOWN.claim(f"ramesh2021.iou.{model}"), KNOWN.claim(f"ramesh2021.margin.{model}")
        assert score.interval == pytest.approx((score.value - margin.value, score.value + margin.value), abs=1e-9)


def test_counts_add_up_where_the_papers_are_consistent():
    value = {name: entry.value for name, entry in KNOWN.claims.items()}
    data = "ramesh2021.data."
    assert value[data + "ct_kaggle"] + value[data + "ct_mosmed"] + value[data + "ct_covid1920"] == value[data + "ct_total"]
    assert value["tang2020.data.train_images"] + value["tang2020.data.test_images"] == value["tang2020.data.images"]
    masks = "zhang2020.data.with_mask"
    assert value[f"{masks}_covid"] + value[f"{masks}_non_covid"] == value[masks]
    assert value[masks] + value["zhang2020.data.without_mask"] == value["zhang2020.data.total"]
    for stage in ("train", "validation"):
        parts = value[f"zhang2020.diagnosis.{stage}_covid"] + value[f"zhang2020.diagnosis.{stage}_non_covid"]
        assert parts == value[f"zhang2020.diagnosis.{stage}_total"]


def test_released_numbers_say_that_they_are_not_from_the_paper():
    released = [entry for entry in KNOWN.claims.values() if entry.kind == "released"]
    assert released and all(entry.remarks.startswith("From the ") for entry in released)


def test_every_claim_is_owed_by_exactly_one_stage():
    assert set(claims.owners(KNOWN, STUDY)) == set(KNOWN.claims)


def test_every_notebook_is_a_stage():
    assert {entry["notebook"] for entry in STUDY["stages"].values()} == {path.stem for path in NOTEBOOKS.glob("*.ipynb")}


def test_a_claim_owed_twice_or_unknown_is_refused():
    name = "ramesh2021.figure1"
    with pytest.raises(InputError, match="both first and second owe"):
        claims.owners(KNOWN, {"stages": {"first": {"claims": [name]}, "second": {"claims": [name]}}})
    with pytest.raises(InputError, match="ramesh2021.figure9.*ramesh2021.figure"):
        claims.owners(KNOWN, {"stages": {"first": {"claims": ["ramesh2021.figure9"]}}})


def test_a_stage_need_not_record_a_table_whose_numbers_are_claims():
    assert KNOWN.owed(["zhang2020.table1", "zhang2020.data.total", "gaikwad2020.table1"]) == {
        "zhang2020.data.total", "gaikwad2020.table1",
    }


@pytest.mark.parametrize(("name", "check"), CHECKS, ids=[f"{name}-{i}" for i, (name, _) in enumerate(CHECKS)])
def test_the_arithmetic_gives_what_is_written(name, check):
    assert check.holds, f"{name}: {check.arithmetic} = {check.value}, not {check.gives}"


def test_the_inconsistencies_that_can_be_computed_differ_from_what_is_printed():
    agree = {
        "tang2020.problem.correction", "ramesh2021.problem.similar", "zhang2020.problem.majority", "tang2020.problem.steps",
    }  # there the paper's arithmetic is right, and the point is another one
    for name, check in CHECKS:
        if check.printed is not None and name not in agree:
            assert abs(check.value - check.printed) > half_unit(check.gives), name


def test_every_paper_has_its_inconsistencies():
    assert {paper: len(entry.inconsistencies) for paper, entry in KNOWN.papers.items()} == {
        "ramesh2021": 15, "tang2020": 14, "zhang2020": 11, "gaikwad2020": 11, "yang2021": 9,
    }


# ---- reading strictly --------------------------------------------------------------------------------------------------------

PAPER = {"title": "t", "authors": "a", "venue": None, "year": 2020, "doi_or_url": None, "code": None, "inconsistencies": []}
ENTRY = {"id": "p.x", "paper": "p", "place": "1", "what": "w", "kind": "count", "value": 3, "unit": "images", "tolerance": 0}


def load(tmp_path, entries, paper=PAPER):
    path = tmp_path / "claims.yaml"
    path.write_text(yaml.safe_dump({"papers": {"p": paper}, "claims": entries}))
    return claims.load(path)


def test_a_right_entry_is_read(tmp_path):
    assert load(tmp_path, [ENTRY]).claim("p.x").value == 3


@pytest.mark.parametrize(("changes", "message"), [
    ({"vlaue": 3}, "unknown vlaue"),
    ({"kind": "score"}, "kind 'score'"),
    ({"value": "three"}, "p.x, value: float | tuple[float, ...] | None is expected, found 'three'"),
    ({"value": True}, "found 'True'"),
    ({"value": float("nan")}, "found 'nan'"),
    ({"value": None}, "a number or a list of numbers"),
    ({"value": []}, "a number or a list of numbers"),
    ({"see": ["p.problem.none", 3]}, "see: tuple[str, ...] is expected"),
    ({"tolerance": -1}, "tolerance -1"),
    ({"unit": None}, "needs a unit"),
    ({"relation": "less"}, "relation 'less'"),
    ({"interval": [4, 5]}, "does not hold the value 3"),
    ({"kind": "figure"}, "neither value nor tolerance"),
    ({"paper": "q"}, "must begin with a known paper"),
    ({"see": ["p.problem.none"]}, "No inconsistency 'p.problem.none'"),
    ({"part_of": "p.none"}, "No claim 'p.none'"),
    ({"part_of": "p.x"}, "neither a table nor a figure"),
    ({"trivial": {"nothing": "zero"}}, "trivial: Mapping[str, float] | None is expected, found \"{'nothing': 'zero'}\""),
])
def test_a_wrong_entry_is_refused_by_name(tmp_path, changes, message):
    with pytest.raises(InputError, match=re.escape(message)):
        load(tmp_path, [{**ENTRY, **changes}])


def test_missing_fields_double_ids_and_damaged_files_are_refused(tmp_path):
    with pytest.raises(InputError, match="claims, p.x: missing unit, tolerance"):
        load(tmp_path, [{key: value for key, value in ENTRY.items() if key not in ("unit", "tolerance")}])
    with pytest.raises(InputError, match="p.x is used twice"):
        load(tmp_path, [ENTRY, ENTRY])
    with pytest.raises(InputError, match="can't be worked out"):
        problem = {"id": "p.problem.a", "text": "t", "consequence": "c", "arithmetic": "open('x')", "gives": 1}
        load(tmp_path, [ENTRY], {**PAPER, "inconsistencies": [problem]})
    with pytest.raises(InputError, match="can't be read"):
        claims.load(tmp_path / "none.yaml")
    (tmp_path / "damaged.yaml").write_text("papers: [")
    with pytest.raises(InputError, match="can't be read as YAML"):
        claims.load(tmp_path / "damaged.yaml")


def test_an_unknown_id_offers_the_nearest():
    with pytest.raises(InputError, match="Did you mean .*zhang2020.diagnosis.auc.validation"):
        KNOWN.claim("zhang2020.diagnosis.auc.valdation")


# ---- arithmetic --------------------------------------------------------------------------------------------------------------


def test_expressions_are_worked_out():
    assert claims.evaluate("-(1 + 2) * 3 ** 2 / sqrt(9)") == -9
    assert claims.evaluate("1e-5 / 2.4e-10") == pytest.approx(41666.67, abs=0.01)


@pytest.mark.parametrize("text", [
    "__import__('os').getcwd()", "abs(-1)", "sqrt(-1)", "1 / 0", "9 ** 9 ** 9", "True + 1", "'a' * 9", "x", "1 if 1 else 2", "",
    "[1][0]", "1 // 2", "sqrt(x=4)", "1e308 * 10", "(" * 300 + "1" + ")" * 300,
])
def test_other_expressions_are_refused(text):
    with pytest.raises(InputError, match="can't be worked out"):
        claims.evaluate(text)


@pytest.mark.parametrize(("value", "half"), [(0.738, 0.0005), (2251, 0.5), (4.9e-8, 5e-10), (0.4, 0.05), (82.38, 0.005)])
def test_half_a_unit_of_the_last_digit(value, half):
    assert half_unit(value) == pytest.approx(half)


@pytest.mark.parametrize(("value", "text"), [
    (0.8056, "0.8056"), (1919, "1919"), (14340570, "14\N{THIN SPACE}340\N{THIN SPACE}570"), (2.4e-10, "2.4e\N{MINUS SIGN}10"),
    (-0.0119, "\N{MINUS SIGN}0.0119"), (None, "–"), ([0.5, 1, 2], "0.5, 1, 2"), (0, "0"),
])
def test_numbers_as_text(value, text):
    assert claims.number(value) == text


# ---- verdict -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("value", "ci", "expected"), [
    (0.82, None, "match"),  # within the tolerance
    (0.83, None, "match"),  # at its edge, which binary fractions would miss
    (0.8301, None, "differs"),
    (0.85, (0.79, 0.91), "match"),  # outside the tolerance, but the interval holds the paper's number
    (0.85, (0.82, 0.88), "differs"),
    (0.81, (0.802, 0.818), "match"),  # a narrow interval that misses by less than the tolerance
    (0.8, (0.5, 0.95), "not comparable"),  # an interval so wide that it holds anything
])
def test_scores_match_by_tolerance_or_interval(value, ci, expected):
    assert word(claim(), record(value, ci=ci), DONE) == expected


def test_counts_are_exact():
    count = claim(kind="count", value=241, unit="volumes", tolerance=0)
    assert word(count, record(241), DONE) == "match"
    assert claims.verdict(count, record(240), DONE) == ("differs", "Difference \N{MINUS SIGN}1, tolerance 0.")


def test_lists_are_compared_element_by_element():
    setting = claim(kind="setting", value=(4, 8, 16), unit="px", tolerance=0)
    assert word(setting, record([4, 8, 16]), DONE) == "match"
    assert word(setting, record([4, 8, 32]), DONE) == "differs"
    assert word(setting, record([4, 8]), DONE) == "differs"


def test_more_than_is_a_lower_bound():
    bound = claim(value=0.7, relation="at_least", tolerance=0.05)
    assert word(bound, record(0.9), DONE) == "match"
    assert word(bound, record(0.66), DONE) == "match"
    assert word(bound, record(0.6), DONE) == "differs"
    assert word(bound, record(0.7, ci=(0.3, 0.9)), DONE) == "not comparable"


@pytest.mark.parametrize("kind", [kind for kind in claims.KINDS if kind != "schematic"])
def test_the_phantom_never_matches(kind):
    numbers = {} if kind not in claims.WITHOUT_VALUE else {"value": None, "tolerance": None}
    entry = claim(kind=kind, **numbers)
    assert word(entry, record(entry.value, pictures=1), StageState("done", "phantom")) == "phantom"
    assert word(entry, record(entry.value, pictures=1, comparable=False), StageState("done", "phantom")) == "phantom"


def test_data_of_unknown_kind_never_match():
    assert word(claim(), record(0.8), StageState("done", None)) == "not comparable"


def test_what_the_notebook_calls_not_comparable_stays_so_with_its_reason():
    elsewhere = record(0.8, comparable=False, why="Other images.")
    assert claims.verdict(claim(), elsewhere, DONE) == ("not comparable", "Other images.")
    assert word(claim(), record(None, why="No such class."), DONE) == "not comparable"
    assert word(claim(), record(float("nan")), DONE) == "not comparable"


@pytest.mark.parametrize(("state", "expected"), [
    ("not run", "not run"), ("failed", "not run"), ("unfinished", "not run"), ("no-data", "no data"),
    ("blocked", "no data"), ("done", "not run"),
])
def test_without_a_record_the_state_of_the_stage_decides(state, expected):
    assert word(claim(), None, StageState(state, "real")) == expected


def test_a_record_of_a_stage_that_did_not_end_does_not_count():
    assert word(claim(), record(0.8), StageState("failed", "real")) == "not run"


def test_figures_are_not_judged():
    figure = claim(kind="figure", value=None, tolerance=None, unit=None)
    assert word(figure, record(None, pictures=1), DONE) == "figure only"
    assert claims.verdict(figure, record(None, why="No such image here."), DONE) == ("not comparable", "No such image here.")
    schematic = claim(kind="schematic", value=None, tolerance=None, unit=None)
    assert word(schematic, record(None, pictures=1), StageState("done", "phantom")) == "figure only"


def test_a_contradiction_in_the_paper_stands_whatever_was_obtained():
    entry = KNOWN.claim("gaikwad2020.data.images")
    for state in (DONE, StageState("not run"), StageState("done", "phantom")):
        assert word(entry, record(2151), state) == "paper inconsistent"


@pytest.mark.parametrize(("parts", "expected"), [
    (["match", "match"], "match"),
    (["match", "differs", "not run"], "differs"),
    (["match", "not run"], "not comparable"),
    (["phantom", "not run"], "phantom"),
    (["not run", "not run"], "not run"),
    (["no data", "not run"], "no data"),
])
def test_a_table_has_the_verdict_of_its_numbers(parts, expected):
    status, why = claims.table_verdict(parts)
    assert status == expected and why.startswith(f"{len(parts)} numbers")


def test_every_verdict_is_a_known_word():
    words = ("done", "no-data", "blocked", "failed", "x")
    states = [StageState(state, data) for state in words for data in ("real", "phantom", None)]
    for entry in KNOWN.claims.values():
        for state in states:
            for given in (None, record(entry.value), record(entry.value, comparable=False)):
                assert word(entry, given, state) in STATUSES
