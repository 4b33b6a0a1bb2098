"""The phantom's radiographs in the layouts of the rural cohort and the Cohen collection: the same truth, outlined."""

import json

import numpy as np
import pandas
import pytest

from covidcxr import datasets
from covidcxr.datasets.outlines import rasterise
from covidcxr.phantom import SIZES
from covidcxr.phantom.cohort import COHEN_SET, CXR_SET, RURAL_SET, draw_patients, outlined_set
from covidcxr.phantom.write_outlined import outlines, severity

PHANTOM = "phantom:smoke"


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    """Intersection over union."""
    return np.count_nonzero(one & other) / np.count_nonzero(one | other)


@pytest.fixture(scope="module")
def pairs(phantom_smoke) -> list[tuple]:
    """(set, its case, case of the first set) of every radiograph."""
    images = pandas.read_csv(phantom_smoke / "images.csv")
    images = images[images.modality == "CXR"].assign(case=lambda table: table.file.map(lambda file: file.rpartition("/")[2]))
    images["case"] = images.case.str.rpartition(".")[0]
    first = images[images.dataset == CXR_SET].set_index(["patient", "day"]).case
    others = images[images.dataset.isin((RURAL_SET, COHEN_SET))]
    assert len(others) == len(first) and others.dataset.nunique() == 2
    return [(row.dataset, row.case, first[row.patient, row.day]) for row in others.itertuples()]


@pytest.mark.parametrize("name", [RURAL_SET, COHEN_SET])
def test_the_sets_are_sound(name, phantom_smoke):
    verification = datasets.open(name, PHANTOM).verify()
    assert verification.ok and not verification.unused, str(verification)
    assert {problem.check for problem in verification.warnings} <= {"empty mask"}, str(verification)


def test_no_patient_is_in_both_sets_at_any_size():
    for spec in SIZES.values():
        people = [patient for patient in draw_patients(spec) if patient.studies[0].dataset == CXR_SET]
        groups = pandas.DataFrame([{"set": outlined_set(patient), "group": patient.group} for patient in people]).value_counts()
        assert set(groups[RURAL_SET].index) == {"covid", "normal"} and set(groups[COHEN_SET].index) == {"covid", "pneumonia"}
        assert groups[RURAL_SET, "covid"] > groups[COHEN_SET, "covid"] > 0


def test_outlines_give_the_masks_back(pairs, phantom_smoke):
    """Intersection over union of lungs at least 0.98, of opacities, which are smaller, at least 0.95."""
    first, checked = datasets.open(CXR_SET, PHANTOM), 0
    for name, case, same in pairs:
        dataset = datasets.open(name, PHANTOM)
        row = dataset.row(case)
        if not row["annotated"]:
            continue
        for kind in ("left_lung", "right_lung"):
            assert overlap(dataset.mask(case, kind), first.mask(same, kind)) > 0.98
        lesion, drawn = first.mask(same, "lesion"), dataset.mask(case, "lesion")
        assert drawn.any() == lesion.any() == (row["lesion"] is not None)
        if lesion.any():
            assert overlap(drawn, lesion) > 0.95
            checked += 1
    assert checked >= 4


def test_images_patients_and_outcomes_are_those_of_the_first_set(pairs, phantom_smoke):
    truth = pandas.read_csv(phantom_smoke / "cohort.csv").set_index("patient")
    first, covid = datasets.open(CXR_SET, PHANTOM), 0
    for name, case, same in pairs:
        dataset = datasets.open(name, PHANTOM)
        row, person = dataset.row(case), truth.loc[int(first.row(same)["patient"])]
        assert row["patient"] == first.row(same)["patient"] and f"{name}/{row['image']}" in person.files.split(";")
        assert np.abs(dataset.image(case) - first.image(same)).mean() < 0.02  # JPEG
        assert row["age"] == person.age and row["sex"] == person.sex
        if name == RURAL_SET:
            assert (row["icu"], row["death"]) == (bool(person.icu), bool(person.death)) and row["annotated"]
            assert row["view"] == first.row(same)["view"].removesuffix(" Supine")
            assert (row["lesion"] is None) == (person.group == "normal")
        else:
            assert row["annotated"] == (person.group == "covid") == pandas.notna(row["geographic_mean"])
            covid += row["annotated"]
    assert covid


def test_outlines_are_polygons_of_few_points_inside_the_image(phantom_smoke):
    files = sorted(path for name in (RURAL_SET, COHEN_SET) for path in phantom_smoke.glob(f"{name}/**/*.json"))
    assert len(files) >= 6
    for path in files:
        content = json.loads(path.read_text())
        for shape in content["shapes"]:
            points = np.array(shape["points"])
            assert 3 <= len(points) <= 80 and (points >= 0).all()
            assert (points <= [content["imageWidth"], content["imageHeight"]]).all()


def test_outlines_of_a_rectangle_are_exact_and_parts_are_apart():
    mask = np.zeros((40, 60), bool)
    mask[5:20, 10:30] = mask[25:30, 40:55] = True
    polygons = outlines(mask)
    assert len(polygons) == 2 and not outlines(np.zeros((5, 5), bool))
    np.testing.assert_array_equal(rasterise([np.array(polygon) for polygon in polygons], mask.shape), mask)


def test_scores_grow_with_the_opacity_and_stay_in_their_range():
    lung = np.zeros((40, 80), bool)
    lung[:, :40] = True
    means = []
    for rows in (0, 5, 15, 25, 40):
        opacity = np.zeros_like(lung)
        opacity[:rows] = True
        masks = {"Right Lung": lung, "Left Lung": ~lung, "Ground Glass Opacities": opacity}
        if rows == 40:
            masks["Consolidation"] = opacity
        scores = np.array([severity(masks, np.random.default_rng(seed)) for seed in range(40)])
        assert (scores >= 0).all() and (scores <= [8, 6]).all()
        means.append(scores.mean(axis=0))
    extent, degree = np.array(means).T
    assert extent == pytest.approx([0, 2, 4, 6, 8], abs=0.25) and degree == pytest.approx([0, 2, 2, 2, 6], abs=0.3)
