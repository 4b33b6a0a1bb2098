"""What stands beside a score: trivial predictors, known beforehand or measured, the same everywhere."""

import dataclasses
import json

import pytest
import synthetic_profile

from covidcxr import claims, outcomes, reference, report, score_chart

KNOWN = {"majority class": 0.9, "nothing": 0.5}


@pytest.fixture
def claim():
    return dataclasses.replace(claims.load().claim("zhang2020.diagnosis.accuracy.validation"), trivial=KNOWN)


@pytest.mark.parametrize(("record", "measured"), [
    (None, {}),
    ({"value": 0.8}, {}),
    ({"value": 0.8, "trivial": None}, {}),
    ({"value": 0.8, "trivial": {"majority class": 0.7, "mean grey": 0.6}}, {"majority class": 0.7, "mean grey": 0.6}),
    ({"value": 0.8, "trivial": {"majority class": None, "mean grey": 0.0}}, {"mean grey": 0.0}),
])
def test_measured_scores_of_trivial_predictors_override_those_known_beforehand(claim, record, measured):
    one = outcomes.Assessment(claim, "diagnosis", "match", "", record)
    assert one.measured == measured and one.trivial == {**KNOWN, **measured}
    nothing_known = outcomes.Assessment(dataclasses.replace(claim, trivial=None), "diagnosis", "match", "", record)
    assert nothing_known.trivial == measured


def test_page_chart_and_kept_scores_show_the_same_trivial_predictors(tmp_path):
    profile = synthetic_profile.write(tmp_path / "pilot")
    study, known = outcomes.read_study(), claims.load()
    stages = outcomes.read_profile(profile, study)
    area = outcomes.assess(known, study, stages)["zhang2020.diagnosis.auc.validation"]
    area = dataclasses.replace(area, claim=dataclasses.replace(area.claim, trivial={"mean mask": 0.3, "source collection": 0.9}))
    assert area.trivial == {"mean mask": 0.3, "source collection": 0.991}
    assert score_chart.Score.of(area, "real").trivial == area.trivial
    assert json.loads(reference._row(area, stages)["trivial"]) == area.trivial
    assert report.strip(area)["trivial"] == [30.0, 99.1]
    cell = report._environment().get_template("macros.html").module.trivial_cell(area)
    assert "source collection: 0.991<br>" in cell and '<span class="soft">mean mask: 0.3 (known)</span>' in cell
    bare = dataclasses.replace(area, claim=dataclasses.replace(area.claim, trivial=None), record=None)
    assert ">–</span>" in report._environment().get_template("macros.html").module.trivial_cell(bare)
