"""The scores that are kept with the code, and what the README shows of them."""

import json
import re
import shutil

import pytest
import synthetic_profile
from conftest import ROOT

from covidcxr import __main__ as command_line
from covidcxr import claims, outcomes, reference
from covidcxr.errors import InputError
from covidcxr.parameters import read_parameters
from covidcxr.study import Plan

PAGE = f"# Title\n\n{reference.START}\n| old |\n{reference.END}\n\nThe rest.\n"


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A project of its own, whose profile `pilot` has ended in part."""
    for name in ("params", "notebooks"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "README.md").write_text(PAGE)
    monkeypatch.setenv("COVIDCXR_HOME", str(tmp_path))
    monkeypatch.setenv("COVIDCXR_OUTPUTS", str(tmp_path / "outputs"))
    return tmp_path


def test_scores_are_kept_with_what_made_them(home, capsys):
    synthetic_profile.write(home / "outputs" / "pilot")
    assert command_line.main(["report", "pilot", "--reference"]) == 0
    assert str(home / "outputs" / "reference" / "pilot.csv") in capsys.readouterr().out
    rows = {row["claim"]: row for row in reference.read("pilot")}
    assert set(rows) == {"zhang2020.diagnosis.accuracy.validation", "zhang2020.diagnosis.auc.validation"}  # counts are no scores
    area = rows["zhang2020.diagnosis.auc.validation"]
    assert (area["paper"], area["here"], area["low"], area["high"], area["n"]) == ("0.985", "0.95", "0.94", "0.96", "1919")
    assert json.loads(area["trivial"]) == {"source collection": 0.991}
    assert area["data"] == "real" and area["verdict"] in claims.STATUSES
    made = json.loads((home / "outputs" / "reference" / "pilot.json").read_text())["diagnosis"]
    assert made["git"]["commit"] and made["versions"]["numpy"] and made["parameters"]["seed"] == 0

    page = (home / "README.md").read_text()
    assert page == PAGE.replace("| old |", reference.headlines(reference.read("pilot")))
    assert "| 0.985 | **0.95** [0.94, 0.96], 1919 images | source collection 0.991 | All COVID-19 images" in page
    picture = home / "outputs" / "reference" / "headlines.svg"
    drawn = picture.read_text()
    assert "<svg" in drawn and reference.write(home / "outputs" / "pilot") and picture.read_text() == drawn


def test_scores_of_stages_that_are_not_at_hand_stay(home):
    profile = synthetic_profile.write(home / "outputs" / "pilot")
    reference.write(profile)
    scores, made = reference.read("pilot"), json.loads((home / "outputs" / "reference" / "pilot.json").read_text())
    shutil.rmtree(profile / "diagnosis")
    stage = synthetic_profile.open_stage(profile, "shortcuts")
    stage.finish()
    stage = synthetic_profile.open_stage(profile, "lung_segmentation")
    stage.record("zhang2020.lung.dice.validation", 0.94, n=33, ci=(0.93, 0.95), ci_method="bootstrap", trivial={"nothing": 0.0})
    stage.finish()
    for name in ("shortcuts", "lung_segmentation"):
        synthetic_profile.finish(profile / name, data="real")
    reference.write(profile)
    kept = reference.read("pilot")
    assert [row["claim"] for row in kept] == ["zhang2020.lung.dice.validation", *(row["claim"] for row in scores)]
    assert [row for row in kept if row["stage"] == "diagnosis"] == scores
    now = json.loads((home / "outputs" / "reference" / "pilot.json").read_text())
    assert now["diagnosis"] == made["diagnosis"] and {"shortcuts", "lung_segmentation"} <= set(now)


def test_numbers_of_the_phantom_do_not_enter_the_readme(home):
    synthetic_profile.write(home / "outputs" / "demo", "phantom:demo")
    assert command_line.main(["report", "demo", "--reference"]) == 0
    assert {row["verdict"] for row in reference.read("demo")} == {"phantom"}
    assert (home / "README.md").read_text() == PAGE


def test_nothing_is_kept_of_a_profile_that_has_no_score(home, capsys):
    assert command_line.main(["report", "smoke", "--reference"]) == 2
    assert "No finished stage in" in capsys.readouterr().err and not reference.folder().exists()


def test_a_readme_without_its_comments_is_told(home):
    synthetic_profile.write(home / "outputs" / "pilot")
    (home / "README.md").write_text("# Title\n")
    with pytest.raises(InputError, match="has lost the comments"):
        reference.write(home / "outputs" / "pilot")


def test_the_readme_shows_what_is_kept():
    page = (ROOT / "README.md").read_text()
    shown = page.partition(reference.START)[2].partition(reference.END)[0].strip()
    assert shown == reference.headlines(reference.read("pilot"))
    assert all(claim.headline in shown for claim in claims.load().headlines)
    assert (ROOT / "outputs" / "reference" / "headlines.svg").is_file()


def test_the_files_that_the_page_of_kept_scores_names_are_there():
    folder = ROOT / "outputs" / "reference"
    named = set(re.findall(r"`([\w.]+\.(?:csv|json|svg))`", (folder / "README.md").read_text()))
    assert {"pilot.csv", "pilot.json", "headlines.svg"} <= named
    assert {name for name in named if not (folder / name).is_file()} == set()


def test_claims_name_what_the_papers_are_quoted_with_and_how_far_it_carries():
    assert {claim.paper for claim in claims.load().headlines} == set(claims.load().papers)
    assert all(bool(claim.worth) == bool(claim.headline) for claim in claims.load().claims.values())


@pytest.mark.parametrize("profile", ["demo", "pilot"])
def test_kept_scores_were_made_with_the_parameters_of_today(profile):
    """All that a stage knew then, and none that has come since has another value than its default, which changes nothing."""
    plan = Plan.load(profile)
    for name, made in json.loads((ROOT / "outputs" / "reference" / f"{profile}.json").read_text()).items():
        then, now = made["parameters"], plan.stage(name).parameters
        others = {key: (then[key], now[key]) for key in then.keys() & now.keys() if then[key] != now[key]}
        defaults = read_parameters(plan.stage(name).notebook)
        others |= {key: ("unknown", now[key]) for key in now.keys() - then.keys() if now[key] != defaults[key].default}
        assert not others.keys() - {"compare_with"}, f"{name}: {others}; run it again, then report {profile} --reference"
    stages = {row["stage"] for row in reference.read(profile)}
    owing = {claims.owners(claims.load(), outcomes.read_study())[claim.id] for claim in claims.load().headlines}
    assert owing <= stages
