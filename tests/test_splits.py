"""Splits: sizes, sides and seeds of each protocol, the released lists, grouping, leakage, files."""

import numpy as np
import pandas
import pytest

from covidcxr import datasets, splits
from covidcxr.datasets.near_duplicates import fingerprint
from covidcxr.datasets.tables_of_cases import case_table
from covidcxr.errors import InputError, ParameterError

DRAWN = ("printed", "covid_only", "patient_grouped")
SIZES = [(100, 60, 10), (60, 36, 6), (8, 5, 1)]  # images, of them train, of these the ten


def cohort(count, covid=0.65, seed=0):
    """A table of images, one to four of a patient, all of them with one finding."""
    rng, rows, patient = np.random.default_rng(seed), [], 0
    while len(rows) < count:
        patient += 1
        finding = "COVID-19" if rng.random() < covid else "SARS"
        for day in range(min(rng.integers(1, 5), count - len(rows))):
            rows.append({"case": f"x{patient:03d}-day{day}", "patient": f"p{patient}", "finding": finding})
    return case_table(rows, "here")


def cases_of(split, role):
    return set(split.case[split.role == role])


# ---- protocols -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", DRAWN)
@pytest.mark.parametrize("count, train, ten", SIZES)
def test_sizes_are_the_papers_or_in_their_proportion(protocol, count, train, ten):
    table = cohort(count)
    split = splits.ramesh2021(table, protocol, seed=1)
    assert list(split.columns) == ["case", "patient", "role", "ten"] and sorted(split.case) == sorted(table.case)
    assert len(cases_of(split, "train")) == train and len(cases_of(split, "test")) == count - train
    assert split.ten.sum() == ten and set(split.case[split.ten]) <= cases_of(split, "train")
    assert split.set_index("case").patient.to_dict() == table.set_index("case").patient.to_dict()


@pytest.mark.parametrize("protocol", DRAWN)
def test_the_order_of_rows_changes_nothing_and_the_seed_does(protocol):
    table = cohort(100)
    split = splits.ramesh2021(table, protocol, seed=0)
    for seed in (1, 2):
        shuffled = table.sample(frac=1, random_state=seed)
        pandas.testing.assert_frame_equal(splits.ramesh2021(shuffled, protocol, seed=0), split)
        other = splits.ramesh2021(table, protocol, seed=seed)
        assert cases_of(other, "test") != cases_of(split, "test") and not other.ten.equals(split.ten)


def test_test_images_are_of_covid_patients_on_demand_only():
    table = cohort(100)
    covid = table.set_index("case").covid
    for seed in range(5):
        assert covid[list(cases_of(splits.ramesh2021(table, "covid_only", seed=seed), "test"))].all()
        assert not covid[list(cases_of(splits.ramesh2021(table, "printed", seed=seed), "test"))].all()


def test_a_finding_that_is_not_known_is_not_counted_as_covid():
    table = cohort(100)
    table.loc[:9, "covid"] = pandas.NA
    split = splits.ramesh2021(table, "covid_only", seed=0)
    assert not cases_of(split, "test") & set(table.case[:10])


def test_too_few_covid_images_are_an_error_with_numbers():
    table = cohort(50, covid=0.2)
    message = f"20 of 50 images have to be drawn among the COVID-19 images, of which there are {table.covid.sum()}"
    with pytest.raises(InputError, match=message):
        splits.ramesh2021(table, "covid_only", seed=0)


def test_unknown_protocols_are_refused_with_the_nearest_name():
    with pytest.raises(ParameterError, match="Did you mean 'printed'"):
        splits.ramesh2021(cohort(10), "print", seed=0)


@pytest.mark.parametrize("count", [60, 100])
def test_grouped_by_patient_with_covid_alike_on_both_sides(count):
    table = cohort(count)
    for seed in range(5):
        split = splits.ramesh2021(table, "patient_grouped", seed=seed)
        assert (split.groupby("patient").role.nunique() == 1).all()
        covid = table.set_index("case").covid[list(cases_of(split, "test"))]
        assert covid.mean() == pytest.approx(table.covid.mean(), abs=0.03)


@pytest.mark.parametrize("protocol", DRAWN)
def test_phantom_cohorts_are_split(phantom_smoke, protocol):
    table = datasets.open("general_blockchain_cxr", str(phantom_smoke)).cases()
    split = splits.ramesh2021(table, protocol, seed=0)
    assert len(cases_of(split, "train")) == 5 and split.ten.sum() == 1


# ---- zhang2020 -------------------------------------------------------------------------------------------------------


def v7(covid=439, others=5957, per_patient=2):
    """A table of COVID-19 and other images, `per_patient` of each patient."""
    findings = ["COVID-19"] * covid + ["no finding"] * others
    rows = [{"case": f"i{i:05d}", "patient": f"{finding[:2]}{i // per_patient}", "finding": finding, "excluded": None}
            for i, finding in enumerate(findings)]
    return case_table(rows, "here")


def counts(split, table):
    """Role -> numbers of COVID-19 and of other images."""
    covid = table.set_index("case").covid[split.case].to_numpy(bool)
    return {role: tuple(int((kind & (split.role == role)).sum()) for kind in (covid, ~covid)) for role in splits.ROLES}


@pytest.mark.parametrize("session, expected", [
    ("lung", {"train": (307, 4170), "test": (132, 0), "unused": (0, 1787)}),  # Tables 2 and 3
    ("lung_500", {"train": (307, 500), "test": (132, 0), "unused": (0, 5457)}),  # section 4.4
    ("diagnosis", {"train": (307, 4170), "test": (132, 1787), "unused": (0, 0)}),  # Tables 4 and 5
])
def test_zhang2020_has_the_printed_numbers_on_the_complete_set(session, expected):
    table = v7()
    assert counts(splits.zhang2020(table, session, seed=3), table) == expected


def test_zhang2020_splits_a_smaller_set_in_proportion():
    table = v7(110, 727)
    assert counts(splits.zhang2020(table, "lung", seed=0), table) == {"train": (77, 509), "test": (33, 0), "unused": (0, 218)}
    assert counts(splits.zhang2020(table, "lung_500", seed=0), table)["train"] == (77, 61)
    assert counts(splits.zhang2020(v7(3, 2), "lung_500", seed=0), v7(3, 2)) == {"train": (2, 1), "test": (1, 0), "unused": (0, 1)}


def test_zhang2020s_sessions_share_their_images():
    table = v7(60, 300)
    lung, few, diagnosis = (splits.zhang2020(table, session, seed=5) for session in ("lung", "lung_500", "diagnosis"))
    assert cases_of(lung, "train") == cases_of(diagnosis, "train") and cases_of(few, "train") < cases_of(lung, "train")
    assert cases_of(lung, "test") == cases_of(few, "test") < cases_of(diagnosis, "test")
    assert cases_of(splits.zhang2020(table, "lung", seed=6), "test") != cases_of(lung, "test")
    shuffled = splits.zhang2020(table.sample(frac=1, random_state=0), "lung", seed=5)
    pandas.testing.assert_frame_equal(shuffled, lung)


@pytest.mark.parametrize("session", ["lung", "lung_500", "diagnosis"])
def test_zhang2020_grouped_keeps_patients_on_one_side_and_tests_both_classes(session):
    table = v7(110, 727, per_patient=3)
    split = splits.zhang2020(table, session, "patient_grouped", seed=0)
    sides = split[split.role != "unused"].groupby("patient").role.nunique()
    assert sides.max() == 1
    found = counts(split, table)
    assert sum(found["test"]) == pytest.approx(0.3 * 837, abs=2) and found["test"][0] == pytest.approx(33, abs=3)
    assert found["unused"] == (0, 0) if session != "lung_500" else found["train"][1] == 61
    leaking = splits.zhang2020(table, session, "printed", seed=0)
    assert leaking[leaking.role != "unused"].groupby("patient").role.nunique().max() == 2


def test_zhang2020_refuses_one_class_unknown_findings_and_excluded_images():
    with pytest.raises(InputError, match="these 5 are all COVID-19 images"):
        splits.zhang2020(v7(5, 0), "lung", seed=0)
    with pytest.raises(InputError, match="all other images"):
        splits.zhang2020(v7(0, 5), "lung", seed=0)
    with pytest.raises(InputError, match="a single image"):
        splits.zhang2020(v7(1, 5), "diagnosis", seed=0)
    table = v7(4, 4)
    with pytest.raises(InputError, match="1 images are excluded, such as CT slices: i00001"):
        splits.zhang2020(table.assign(excluded=[None, "CT slice", *[None] * 6]), "lung", seed=0)
    table.loc[2, "covid"] = pandas.NA
    with pytest.raises(InputError, match="Of 1 images it is not known .*: i00002"):
        splits.zhang2020(table, "lung", seed=0)
    with pytest.raises(ParameterError, match="Did you mean 'lung_500'"):
        splits.zhang2020(v7(4, 4), "lung500", seed=0)
    with pytest.raises(ParameterError, match="No protocol"):
        splits.zhang2020(v7(4, 4), "lung", "released", seed=0)


# ---- released lists --------------------------------------------------------------------------------------------------


def released_cohort():
    known = pandas.read_csv(splits.paths.params_dir() / splits.RELEASED)
    return known, case_table([{"case": case, "patient": case} for case in known.case], "here")


def test_released_lists_have_their_known_sizes():
    known, table = released_cohort()
    split = splits.ramesh2021(table, "released", seed=0)
    assert split.role.value_counts().to_dict() == {"train": 56, "test": 40, "unused": 4}
    assert split.ten.sum() == 10 and not split.ten[split.role == "test"].any()
    assert sorted(split.case[split.ten & (split.role == "unused")]) == [
        "ARDSSevere", "pneumocystis-carinii-pneumonia-1-PA", "pneumocystis-pneumonia-12",
    ]
    roles = known.set_index("case").role
    assert (split.set_index("case").role == roles[split.case]).all()
    pandas.testing.assert_frame_equal(splits.ramesh2021(table[::-1], "released", seed=9), split)


def test_images_that_the_released_lists_do_not_know_are_unused():
    known, _ = released_cohort()
    table = case_table([{"case": case, "patient": case} for case in [*known.case, "another"]], "here")
    split = splits.ramesh2021(table, "released", seed=0).set_index("case")
    assert split.role["another"] == "unused" and not split.ten["another"]


def test_released_names_that_are_missing_are_named():
    _, table = released_cohort()
    with pytest.raises(InputError, match="2 of them are not among these 98 cases: ARDSSevere, lancet-case2a"):
        splits.ramesh2021(table[~table.case.isin(["ARDSSevere", "lancet-case2a"])], "released", seed=0)
    with pytest.raises(InputError, match="100 of them are not among these 8 cases: 1312A392.* and 95 more"):
        splits.ramesh2021(cohort(8), "released", seed=0)


def test_released_split_of_the_real_set(real_data):
    table = datasets.open("general_blockchain_cxr", str(real_data)).cases()
    split = splits.ramesh2021(table, "released", seed=0)
    testing = table[table.case.isin(cases_of(split, "test"))]
    assert len(testing) == 40 and testing.covid.sum() == 35 and testing.lesion.isna().sum() == 5
    assert not set(testing.patient) & set(split.patient[split.role == "train"])


# ---- grouped splits --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.1, 0.3, 67 / 221])
def test_shares_of_images_and_of_strata_are_met(share):
    table = cohort(221)
    split = splits.grouped(table, share, seed=3, stratify="finding")
    assert list(split.columns) == ["case", "patient", "role"]
    testing = table[table.case.isin(cases_of(split, "test"))]
    assert len(testing) == round(share * 221)
    for finding, due in (share * table.finding.value_counts()).items():
        assert abs((testing.finding == finding).sum() - due) <= 1.5
    assert (split.groupby("patient").role.nunique() == 1).all()


def test_every_patient_tests_about_as_often_as_the_share():
    table = cohort(60)
    often = np.mean([splits.grouped(table, 0.3, seed=seed, stratify="covid").role == "test" for seed in range(150)], axis=0)
    assert often.min() > 0.15 and often.max() < 0.45


def test_missing_values_are_a_stratum_and_other_columns_may_group():
    table = cohort(40).assign(ward=[f"w{row // 10}" for row in range(40)])
    table.loc[::2, "covid"] = pandas.NA
    split = splits.grouped(table, 0.5, seed=0, stratify="covid", group="ward")
    sides = split.merge(table[["case", "ward", "covid"]], on="case")
    assert (sides.groupby("ward").role.nunique() == 1).all() and cases_of(split, "test")
    assert sides.covid[sides.role == "test"].isna().mean() == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("change, error, message", [
    (lambda t: t.assign(patient="one"), InputError, "at least two values of patient"),
    (lambda t: t.drop(columns="patient"), InputError, "lacks patient"),
    (lambda t: t.drop(columns="covid"), InputError, "lacks covid"),
    (lambda t: t.assign(case=["twice"] * 2 + list(t.case[2:])), InputError, "more than once: twice"),
    (lambda t: t.assign(patient=[None, *t.patient[1:]]), InputError, "1 rows have no patient; their cases: x001-day0"),
])
def test_tables_that_can_not_be_split_are_refused(change, error, message):
    with pytest.raises(error, match=message):
        splits.grouped(change(cohort(20)), 0.3, seed=0, stratify="covid")


@pytest.mark.parametrize("share", [0, 1, 30])
def test_shares_out_of_range_are_refused(share):
    with pytest.raises(ParameterError, match="test_share"):
        splits.grouped(cohort(20), share, seed=0)


# ---- leakage ---------------------------------------------------------------------------------------------------------


def pictures(count, seed=0):
    """Unlike smooth pictures."""
    rng = np.random.default_rng(seed)
    return [np.kron(rng.random((8, 8)), np.ones((8, 8))).astype("float32") for _ in range(count)]


def small_split(roles, patients="abcdef", ten=None):
    split = pandas.DataFrame({"case": list("ABCDEF"), "patient": list(patients), "role": roles})
    return split if ten is None else split.assign(ten=ten)


def test_leakage_counts_patients_and_near_duplicates_across_sides_only():
    images = dict(zip("ABCDEF", pictures(6), strict=True))
    images["E"] = images["A"] * 0.8 + 0.1  # brighter copies: A trains, E and F test
    images["F"] = images["A"] * 0.9
    prints = {case: fingerprint(image) for case, image in images.items()}
    split = small_split(["train", "train", "unused", "test", "test", "test"], "abbbef")
    leak = splits.leakage(split, prints)
    assert leak.patients == ("b",) and leak.affected == ("D", "E", "F") and leak.share == 1
    assert [pair[:2] for pair in leak.near_duplicates] == [("A", "E"), ("A", "F")]
    assert all(pair[2] > 0.99 for pair in leak.near_duplicates)
    assert str(leak).endswith("3 of 3 test images affected")


def test_unused_images_leak_only_where_they_are_of_the_ten():
    prints = {case: fingerprint(image) for case, image in zip("ABCDEF", pictures(6), strict=True)}
    roles = ["train", "train", "unused", "test", "test", "test"]
    assert splits.leakage(small_split(roles, "abccef"), prints).patients == ()
    ten = [False, False, True, False, False, False]
    assert splits.leakage(small_split(roles, "abccef", ten), prints).patients == ("c",)


def test_leakage_without_an_image_is_an_error():
    prints = {case: fingerprint(image) for case, image in zip("ABCDE", pictures(5), strict=True)}
    with pytest.raises(InputError, match="fingerprint is given of F"):
        splits.leakage(small_split(["train"] * 3 + ["test"] * 3), prints)


def test_by_image_patients_leak_and_grouped_they_do_not():
    table = cohort(40)
    prints = {case: fingerprint(image) for case, image in zip(table.case, pictures(40), strict=True)}
    assert splits.leakage(splits.ramesh2021(table, "printed", seed=0), prints).patients
    grouped = splits.leakage(splits.ramesh2021(table, "patient_grouped", seed=0), prints)
    assert grouped.patients == grouped.near_duplicates == grouped.affected == () and grouped.tests == 16


# ---- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [
    lambda table: splits.ramesh2021(table, "patient_grouped", seed=0), lambda table: splits.grouped(table, 0.3, seed=0),
])
def test_written_and_read_back(tmp_path, make):
    table = cohort(30).replace({"patient": {"p1": "007", "p2": "NA"}})  # names that a spreadsheet would change
    split = make(table)
    splits.write(split, tmp_path / "new" / "split.csv")
    pandas.testing.assert_frame_equal(splits.read(tmp_path / "new" / "split.csv", table[::-1]), split)


def test_a_split_of_other_cases_or_patients_is_refused(tmp_path):
    table = cohort(30)
    splits.write(splits.grouped(table, 0.3, seed=0), tmp_path / "split.csv")
    with pytest.raises(InputError, match="1 cases are not in the data set: x001-day0"):
        splits.read(tmp_path / "split.csv", table[1:])
    with pytest.raises(InputError, match="6 cases are not in the split: a, b, c, d, e and 1 more"):
        splits.read(tmp_path / "split.csv", pandas.concat([table, cohort(6).assign(case=list("abcdef"))]))
    with pytest.raises(InputError, match="other patients for x001-day0"):
        splits.read(tmp_path / "split.csv", table.assign(patient=["somebody", *table.patient[1:]]))


@pytest.mark.parametrize("text, message", [
    ("case,patient,role\na,1,train\na,2,test\n", "more than once: a"),
    ("case,patient,role\na,1,train\nb,2,training\n", "a role is train, test, unused; found training"),
    ("case,patient,role\na,1,train\nb,2,train\n", "no image has the role test"),
    ("case,patient,role\na,1,train\nb,,test\n", "1 rows have no patient; their cases: b"),
    ("case,patient,role,ten\na,1,train,True\nb,2,test,True\n", "b belong to the ten training X-rays and to the test"),
    ("case,patient,role,ten\na,1,train,yes\nb,2,test,no\n", "column ten holds True or False"),
    ("case,patient,role,fold\na,1,train,1\nb,2,test,2\n", "found case, patient, role, fold"),
    ("case,role\na,train\nb,test\n", "'patient' missing"),
])
def test_files_that_are_no_split_are_refused(tmp_path, text, message):
    (tmp_path / "split.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        splits.read(tmp_path / "split.csv", cohort(10))


def test_what_is_no_split_is_not_written(tmp_path):
    with pytest.raises(InputError, match="no image has the role train"):
        splits.write(small_split(["test"] * 6), tmp_path / "split.csv")
    assert not list(tmp_path.iterdir())


def test_slices_of_a_patient_stay_together_only_where_volumes_are_drawn():
    names = [(f"p{i}/{k}", f"p{i}") for i in range(8) for k in range(20 + i)]
    slices = pandas.DataFrame(names, columns=["case", "patient"])
    by_volume, by_slice = (splits.gaikwad2020(slices, protocol, seed=0) for protocol in ("volume", "slice"))
    for split in (by_volume, by_slice):
        assert (split.role == "test").mean() == pytest.approx(0.3, abs=0.07)
    assert (by_volume.groupby("patient").role.nunique() == 1).all() and (by_slice.groupby("patient").role.nunique() == 2).all()
    with pytest.raises(ParameterError, match="volume"):
        splits.gaikwad2020(slices, "patient", seed=0)
