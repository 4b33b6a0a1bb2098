"""Damaged and hostile parameters, facts, results and completion records (see `fuzzing`)."""

import json

import numpy as np
import pytest
import synthetic_profile
from conftest import ROOT
from fuzzing import ends_well, examples, read_damaged, root_folder, watched, write  # noqa: F401 - fixtures
from hypothesis import given
from hypothesis import strategies as st
from mutations import TEXTS, damaged, json_files

from covidcxr import claims, datasets, execution, outcomes, parameters, paths, report, study
from covidcxr.datasets import download
from covidcxr.errors import InputError, ParameterError
from covidcxr.maskrcnn.settings import Pixels
from covidcxr.models import published
from covidcxr.models.resnet import ResNet

pytestmark = pytest.mark.filterwarnings("ignore")  # what readers warn of is the files' fault

# ---- parameters -------------------------------------------------------------------------------------------------------

SCHEMA = [
    parameters.Parameter(f"p{number}", annotation, None, "")
    for number, annotation in enumerate(
        ("int", "float", "str", "bool", "list[int]", "list[float]", "list[str]", 'Literal["a", "b"]')
    )
]
YAML = (
    "1", "1e3", "[1, 2]", "a", "!!bool x", "!!int ''", "!!float x", "!!timestamp x", "2020-13-45", "&a [*a]", "{a: 1, a: 2}",
    "? [a]", "!!python/object/apply:os.system [ls]", "'\\ud800'", '"\\ud800"', "[" * 9999, "{a: " * 9999, "- " * 9999, "%YAML 9",
    "a: b: c", "\t", "\0", "\udcff", "!!map [1]", "!!set {a}", "!!binary x", ".nan", ".inf", "0x", "0b2", "1:" * 999 + "1",
    *TEXTS,
)  # fmt: skip


def test_what_the_command_line_sets():
    @examples(400)
    @given(st.sampled_from(SCHEMA), st.one_of(st.sampled_from(YAML), st.text(max_size=12)))
    def check(parameter, text):
        value = ends_well(lambda: parameter.parse(text, "--set stage.p"), "--set stage.p")
        if value is not None:
            json.dumps(value, allow_nan=False, ensure_ascii=False).encode()

    check()


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A small study in a folder of its own."""
    base = tmp_path / "project"
    notebook = {
        "cells": [
            {
                "cell_type": "code",
                "metadata": {"tags": ["parameters"]},
                "source": [
                    "data: str = 'real'  # which\n",
                    "seed: int = 0\n",
                    "rate: float = 0.5\n",
                    "stage_dir: str = ''\n",
                    "mode: Literal['a', 'b'] = 'a'\n",
                    "sizes: list[int] = [1]",
                ],
            },
            {"cell_type": "code", "metadata": {}, "source": "x = 1"},
        ],
        "metadata": {},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    write(base / "notebooks" / "first.ipynb", json.dumps(notebook).encode())
    stages = {  # as study.yaml has them
        "first": {"notebook": "first", "params": {"seed": 3}, "threads": 1, "claims": []},
        "second": {"notebook": "first", "needs": ["first"], "datasets": ["folder"], "files": ["params/smoke.yaml"]},
    }
    write(base / "params" / "study.yaml", json.dumps({"stages": stages}).encode())
    profile = {
        "title": "T",
        "description": "d",
        "data": "real",
        "common": {"seed": 1},
        "stages": {"first": {"rate": 2}},
        "leave_out": [],
    }
    write(base / "params" / "smoke.yaml", json.dumps(profile).encode())
    write(base / "params" / "claims.yaml", b"{papers: {}, claims: []}")
    for name, folder in (("HOME", base), ("OUTPUTS", base / "outputs"), ("DATA", base / "data")):
        monkeypatch.setenv(f"COVIDCXR_{name}", str(folder))
    return base


@pytest.mark.parametrize("name", ["params/smoke.yaml", "params/study.yaml", "notebooks/first.ipynb"])
def test_files_of_parameters(project, name):
    path = project / name
    sound = path.read_bytes()

    def load():
        plan = study.Plan.load("smoke")
        json.dumps([stage.parameters for stage in plan.stages], allow_nan=False)

    load()
    read_damaged(200, json_files(json.loads(sound)), path, load, path.name, "params/", "stage", "notebooks/")


def test_cells_of_parameters(project):
    path = project / "notebooks" / "first.ipynb"
    notebook = json.loads(path.read_bytes())
    source = "".join(notebook["cells"][0]["source"]).encode()

    @examples(200)
    @given(damaged(source))
    def check(cell):
        notebook["cells"][0]["source"] = cell.decode("latin-1")
        write(path, json.dumps(notebook).encode())
        ends_well(lambda: parameters.read_parameters(path), path.name)

    check()


def test_aliases_of_yaml_that_stand_for_more_than_there_is_memory(root):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"] + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    path = write(root / "laughs.yaml", "\n".join(lines).encode())
    with pytest.raises(InputError, match="laughs.yaml can't be read as YAML: its aliases stand for too many values"):
        paths.read_yaml(path)
    with pytest.raises(ParameterError, match="leave_out"):
        study.read_mapping(write(root / "deep.yaml", b"leave_out: " + b"[" * 40 + b"]" * 40), {"other"})


# ---- facts that the project knows ---------------------------------------------------------------------------------------

PAPER = {"title": "T", "authors": "A", "venue": None, "year": 2020, "doi_or_url": None, "code": None}
SUM = {"arithmetic": "(1 + 2) / 4", "gives": 0.75, "printed": 0.8}
PROBLEM = {"id": "p.problem.a", "text": "t", "consequence": "c"}
SEVERAL = {**PROBLEM, "id": "p.problem.b", "checks": [{**SUM, "what": "w"}]}
NUMBER = {
    "id": "p.x", "paper": "p", "place": "1", "what": "w", "kind": "performance", "value": 0.8, "unit": "IoU", "tolerance": 0.03,
}  # fmt: skip
FIGURE = {**NUMBER, "id": "p.figure1", "kind": "figure", "value": None, "unit": None, "tolerance": None}
CLAIMS = {
    "papers": {"p": {**PAPER, "inconsistencies": [{**PROBLEM, **SUM}, SEVERAL]}},
    "claims": [
        {**NUMBER, "interval": [0.7, 0.9], "trivial": {"nothing": 0.1}, "see": ["p.problem.a"], "part_of": "p.figure1"},
        {**NUMBER, "id": "p.y", "value": [1, 2], "relation": "at_least", "inconsistent": "p.problem.b", "remarks": "r"},
        FIGURE,
    ],
}


def use_claims():
    known = claims.load()
    problems = [problem for paper in known.papers.values() for problem in paper.inconsistencies]
    assert all(isinstance(check.holds, bool) for problem in problems for check in problem.checks)
    for claim in known.claims.values():
        record = {"id": claim.id, "value": 0.8, "ci": [0.7, 0.9], "comparable": True, "why": ""}
        for stage in (claims.StageState(), claims.StageState("done", "real")):
            assert claims.verdict(claim, record, stage)[0] in claims.STATUSES


def test_what_the_papers_claim(project):
    path = write(project / "params" / "claims.yaml", json.dumps(CLAIMS).encode())
    use_claims()
    read_damaged(400, json_files(CLAIMS), path, use_claims, "claims.yaml", "expression")


def test_where_data_sets_come_from(project):
    sound = paths.read_yaml(ROOT / "params" / "datasets.yaml")

    def use_facts():
        datasets._all_facts.cache_clear()
        for row in datasets.status(project):
            facts = datasets.facts(row["name"])
            assert download.instructions(row["name"], project, facts) and len(row["how"]) >= 0
            assert all(len(file["sha256"]) >= 0 for file in facts["files"])

    path = write(project / "params" / "datasets.yaml", json.dumps(sound).encode())
    use_facts()
    read_damaged(60, json_files(sound), path, use_facts, path.name)
    datasets._all_facts.cache_clear()


def test_where_weights_come_from(project):
    sound = paths.read_yaml(ROOT / "params" / "weights.yaml")
    sound["weights"] = {name: sound["weights"][name] for name in list(sound["weights"])[:3]}
    for entry in sound["weights"].values():
        entry["design"]["epsilon"] = 0.001  # JSON's 1e-05 is a text in YAML

    def use_weights():
        published._read.cache_clear()
        for name, entry in published.table().items():
            assert name == entry.name and entry.file is not None and (entry.size is None or entry.size > -np.inf)
            assert Pixels(**entry.pixels).scale and ResNet(**entry.design)

    path = write(project / "params" / "weights.yaml", json.dumps(sound).encode())
    use_weights()
    read_damaged(200, json_files(sound), path, use_weights, path.name)
    published._read.cache_clear()


# ---- results ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def profile(tmp_path_factory):
    return synthetic_profile.write(tmp_path_factory.mktemp("outputs") / "pilot")


@pytest.mark.parametrize("name", ["results.json", "run.json", "failure.json"])
def test_the_report(profile, name):
    path = profile / ("lung_segmentation" if name == "failure.json" else "start_here") / name
    sound = path.read_bytes()

    @examples(12)
    @given(json_files(json.loads(sound)))
    def check(content):
        write(path, content)
        report.build(profile)

    check()
    write(path, sound)


def test_what_a_notebook_recorded(project):
    """A record that can't be used fails its stage, in words."""
    write(project / "params" / "claims.yaml", json.dumps(CLAIMS).encode())
    stage = study.Plan.load("smoke").stage("second")
    folder = project / "outputs" / "smoke" / ".partial" / "second"
    write(folder / "figures" / "one.svg", b"<svg/>")
    record = {
        "stage": "second", "data": "real", "source": "real", "seed": 0, "finished": True,
        "claims": [{"id": "p.x", "value": 0.5, "ci": [0.4, 0.6], "n": 3, "trivial": {"nothing": 0.1}, "comparable": True}],
        "numbers": [{"name": "one", "value": 1.0}], "tables": [], "models": [], "datasets": [{"name": "folder", "files": 3}],
        "figures": [{"name": "one", "file": "figures/one.svg", "reproduces": "p.figure1"}],
    }

    def read():
        return execution._complete_results(stage, folder, "python -m covidcxr run smoke second")

    write(folder / "results.json", json.dumps(record).encode())
    assert read().datasets == record["datasets"]
    read_damaged(300, json_files(record), folder / "results.json", read, "second failed: ")


def test_what_the_status_reads(project):
    plan = study.Plan.load("smoke")
    stage = plan.stage("first")
    record = {
        "status": "done",
        "stage": "first",
        "seconds": 3.5,
        "started": "2026-01-02",
        "files": {"results.json": {"bytes": 2, "mtime_ns": 1, "sha256": "44136fa355b3678a"}},
        "upstream": {},
        "why": "",
        "how": "",
        "fingerprint": plan.fingerprint(stage),
        "parameters": {"data": "real"},
    }
    failure = {"heading": "h", "cell": "c", "error": "e"}

    @examples(150)
    @given(json_files(record), json_files(failure))
    def check(run, failed):
        write(plan.folder / "first" / "run.json", run)
        write(plan.folder / "first" / "failure.json", failed)
        state = ends_well(lambda: plan.again().state(stage), "first")
        assert isinstance(state.why, str) and state.why.encode() is not None
        outcome = outcomes.read_stage(plan.folder / "first")
        assert all(problem.encode() for problem in outcome.problems)

    check()
