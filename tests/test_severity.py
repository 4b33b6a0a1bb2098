"""Percentages joined with outcomes, image by image and patient by patient; what the join does with bad tables."""

import numpy as np
import pandas as pd
import pytest

from covidcxr import datasets, roc, severity
from covidcxr.errors import InputError

HEADER = ",".join(severity.COLUMNS)


def write(tmp_path, *rows):
    path = tmp_path / "opacity_percentages.csv"
    path.write_text("\n".join([HEADER, *rows]) + "\n")
    return path


@pytest.fixture
def rural():
    """Three patients of a cohort: one died after intensive care, one recovered, one has no row in the table of outcomes."""
    return pd.DataFrame({
        "case": ["COVID-19-AR-1_01-05-2012-XR", "COVID-19-AR-1_12-30-2011-XR", "COVID-19-AR-2_01-01-2012-XR",
                 "COVID-19-AR-3_01-01-2012-XR"],
        "patient": ["COVID-19-AR-1"] * 2 + ["COVID-19-AR-2", "COVID-19-AR-3"],
        "covid": pd.array([True] * 4, dtype="boolean"),
        "icu": pd.array([True, True, False, None], dtype="boolean"),
        "death": pd.array([True, True, False, None], dtype="boolean"),
        "age": [70.0, 70.0, 40.0, np.nan],
        "day": [np.nan] * 4,
    })


@pytest.fixture
def table(rural):
    percentages = rural[["case", "patient"]].assign(data_set="rural_covid_cxr", role="test", lungs="manual",
                                                    manual_percentage=[10.0, 60.0, 0.0, 5.0],
                                                    predicted_percentage=[12.0, 50.0, np.nan, 4.0])
    return severity.with_outcomes(percentages, {"rural_covid_cxr": rural})


def test_a_table_is_read_with_its_gaps(tmp_path):
    rows = ("007,rural_covid_cxr,12,test,manual,,33.5", "b,rural_covid_cxr,p,none,manual,0,100")
    table = severity.read_percentages(write(tmp_path, *rows))
    assert table.case.tolist() == ["007", "b"] and table.patient.tolist() == ["12", "p"]
    assert np.isnan(table.manual_percentage[0]) and table.predicted_percentage.tolist() == [33.5, 100.0]


@pytest.mark.parametrize(("rows", "message"), [
    (["a,s,p,test,manual,120,3"], "manual_percentage of a is '120'; it must lie in 0 to 100"),
    (["a,s,p,test,manual,1,-0.1"], "predicted_percentage of a is '-0.1'"),
    (["a,s,p,test,manual,much,3"], "manual_percentage of a is 'much'"),
    (["a,s,p,test,manual,1,2", "a,s,p,test,manual,1,2"], "a of s is listed twice"),
])
def test_a_table_that_is_none_is_refused(tmp_path, rows, message):
    with pytest.raises(InputError, match=message):
        severity.read_percentages(write(tmp_path, *rows))


def test_a_missing_column_is_named(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("case,patient\na,b\n")
    with pytest.raises(InputError, match="column 'data_set', 'role'"):
        severity.read_percentages(path)


def test_each_image_stands_beside_its_patients_outcome(table):
    assert table.icu.tolist() == [True, True, False, pd.NA]
    assert table.xrays.tolist() == [2, 2, 1, 1] and table.any_opacity.tolist() == [1, 1, 0, 1]
    assert table.order[1] < table.order[0], "the year has turned between the two dates"


def test_what_has_no_outcome_or_no_score_is_counted_not_dropped_in_silence(table):
    """The patient without a row in the table of outcomes (16407177 in the real cohort) is named, as is an image without score."""
    assert severity.without(table, "icu", "predicted_percentage") == {
        "ICU admission not known": ["COVID-19-AR-3_01-01-2012-XR"], "no predicted_percentage": ["COVID-19-AR-2_01-01-2012-XR"],
    }
    assert severity.without(table[:2], "icu", "manual_percentage") == {}


@pytest.mark.parametrize(("change", "message"), [
    (lambda rural: {"rural_covid_cxr": rural[:1]}, r"rural_covid_cxr has no image .* \(3 of 4 are unknown\).* run unet_opacity"),
    (lambda rural: {"rural_covid_cxr": rural.assign(patient="x")}, "of patient COVID-19-AR-1 in .* and of x in the data set"),
    (lambda rural: {"rural_covid": rural}, "percentages of rural_covid_cxr, but no table .* Did you mean 'rural_covid'"),
])
def test_a_table_of_other_data_is_refused(rural, table, change, message):
    with pytest.raises(InputError, match=message):
        severity.with_outcomes(table[list(severity.COLUMNS)], change(rural))


@pytest.mark.parametrize(("rule", "expected"), [("maximum", 60.0), ("mean", 35.0), ("last", 10.0)])
def test_a_patient_counts_once(table, rule, expected):
    people = severity.per_patient(table, "manual_percentage", "icu", rule)
    assert people.patient.tolist() == ["COVID-19-AR-1", "COVID-19-AR-2"], "no outcome, no row"
    assert people.icu.tolist() == [True, False] and people.manual_percentage.tolist() == [expected, 0.0]


def test_the_last_of_several_images_must_be_known(table):
    undated = table.assign(order=[1.0, np.nan, np.nan, np.nan])
    assert severity.per_patient(undated, "manual_percentage", "icu", "last").patient.tolist() == ["COVID-19-AR-2"]
    assert len(severity.per_patient(undated, "manual_percentage", "icu", "mean")) == 2


def test_an_unknown_rule_is_refused(table):
    with pytest.raises(InputError, match="No rule is called 'max'. Did you mean 'maximum'"):
        severity.per_patient(table, "manual_percentage", "icu", "max")


def test_days_order_images_whose_names_have_no_date():
    cases = pd.DataFrame({"day": [7.0, None, 2.0]}, index=["a-day7", "b", "x_13-45-2012-XR"])
    assert severity.in_time(cases).tolist()[::2] == [7.0, 2.0] and np.isnan(severity.in_time(cases)[1])
    assert np.isnan(severity.in_time(pd.DataFrame(index=["a"]))).all()


def test_areas_are_those_of_roc_in_every_unit(phantom_smoke):
    cases = datasets.open("general_blockchain_cxr", "phantom:smoke").cases()
    random = np.random.default_rng(0)
    percentages = cases[["case", "patient"]].assign(
        data_set="general_blockchain_cxr", role="test", lungs="manual", manual_percentage=random.uniform(0, 100, len(cases)),
        predicted_percentage=random.uniform(0, 100, len(cases)),
    )
    table = severity.with_outcomes(percentages, {"general_blockchain_cxr": cases})
    found = severity.areas(table, ["manual_percentage"], seed=1, outcomes=["death"]).set_index("unit")
    kept = table.dropna(subset=["death"])
    assert found.n["image"] == len(kept) and found.positives["image"] == kept.death.sum()
    expected = roc.bootstrap_auc(kept.death, kept.manual_percentage, kept.patient, seed=1)
    assert (found.auc["image"], found.low["image"], found.high["image"]) == (expected.value, *expected.interval)
    for rule in severity.RULES:
        people = severity.per_patient(table, "manual_percentage", "death", rule)
        row = found.loc[f"patient, {rule}"]
        assert row.n == row.patients == len(people) and row.auc == roc.auc(people.death, people.manual_percentage)


def test_an_outcome_that_nobody_had_leaves_a_reason(table):
    nobody = table.assign(icu=pd.array([False] * 4, dtype="boolean"), death=pd.array([None] * 4, dtype="boolean"))
    found = severity.areas(nobody, ["manual_percentage"], seed=0, rules=["maximum"])
    assert found.auc.isna().all() and found.low.isna().all()
    assert found.why.tolist() == [
        "A ROC needs both classes; all 4 cases are negative. Take more cases, or another outcome.",
        "A ROC needs both classes; all 3 cases are negative. Take more cases, or another outcome.",
        *["A ROC needs both classes; all 0 cases are negative. Take more cases, or another outcome."] * 2,
    ]


def test_scores_find_their_patients_where_only_the_table_is_at_hand():
    """The table has file names; sets made from the collection have the names without suffix, V7 with its part before."""
    tables = pd.DataFrame({"case": ["severity/a", "severity/b.c", "severity/z", "rural/1"],
                           "filename": ["a.jpg", "b.c.png", "z.png", None], "geographic_mean": [1.0, 2.0, 3.0, np.nan],
                           "opacity_mean": [4.0, 5.0, 6.0, np.nan]})
    blank = {"icu": pd.array([True, None], dtype="boolean"), "death": pd.array([None, False], dtype="boolean"), "day": [1, 2]}
    general = pd.DataFrame({"case": ["a", "q"], "patient": ["cohen-1", "cohen-2"], **blank})
    v7 = pd.DataFrame({"case": ["covid/a", "covid/b.c"], "patient": ["cohen-9", "cohen-3"], **blank})
    found = severity.scored_images({"tables": tables, "general_blockchain_cxr": general, "v7_cxr": v7}.get)
    assert found.image.tolist() == ["a", "b.c"] and found.patient.tolist() == ["cohen-1", "cohen-3"]
    assert found.opacity_mean.tolist() == [4.0, 5.0] and found.order.tolist() == [1, 2]
    assert severity.scored_images({"tables": tables}.get).empty and severity.scored_images({"v7_cxr": v7}.get).empty


def test_scores_of_the_collection_itself(phantom_smoke):
    cases = {name: datasets.open(name, "phantom:smoke").cases() for name in ("cohen_cxr", "general_blockchain_cxr")}
    found = severity.scored_images(cases.get)
    cohen = cases["cohen_cxr"].set_index("case")
    assert found.image.tolist() == cohen.index[cohen.opacity_mean.notna()].tolist()
    assert found.opacity_mean.tolist() == cohen.opacity_mean[found.image].tolist()


def test_real_scores_join_real_patients(real_data):
    """73 of the 94 scored images are in General Blockchain or V7; of few of them the outcome is known."""
    found = severity.scored_images(
        lambda name: datasets.open(name, real_data).cases() if name in datasets.present(real_data) else None
    )
    assert len(found) == 73 and found.image.is_unique and found.patient.notna().all()
    assert found.icu.notna().sum() == 22 and found.icu.sum() == 11
    assert found.death.notna().sum() == 25 and found.death.sum() == 1
