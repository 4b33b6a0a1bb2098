"""CC-CCII: its layout, what its list says of a slice, its masks, and the faults that the verifier must name."""

import shutil

import numpy as np
import pytest
from PIL import Image

from covidcxr import datasets
from covidcxr.errors import InputError
from covidcxr.phantom.write_cc_ccii import write_set


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("cc")
    write_set(root / "cc_ccii", seed=3, patients=(1, 1, 3), segmented=1, spacing_mm=(6.0, 24.0), tips=20)
    return root


@pytest.fixture
def own(made, tmp_path):
    """A copy to break."""
    shutil.copytree(made / "cc_ccii", tmp_path / "cc_ccii")
    return tmp_path / "cc_ccii"


def opened(folder):
    return datasets.open("cc_ccii", folder.parent)


def test_every_slice_has_its_class_patient_and_label(made):
    dataset = opened(made / "cc_ccii")
    table = dataset.cases()
    assert set(table.label) == {"NCP", "CP", "Normal", "ct_lesion_seg"} and table.patient.nunique() == 6
    assert table.finding[table.label == "NCP"].eq("COVID-19").all() and table.covid[table.label == "CP"].eq(False).all()
    assert not table.has_lesion[table.label == "Normal"].any()
    ill = table[table.label == "NCP"]
    assert 0 < ill.has_lesion.sum() < len(ill), "some slices of the scan show a lesion, others do not"
    assert table.has_lesion[table.label == "ct_lesion_seg"].isna().all()


def test_the_verifier_accepts_the_phantoms(made):
    report = opened(made / "cc_ccii").verify()
    assert report.ok, str(report)
    assert report.counts["slices segmented"] > 0 and report.counts["slices of Normal"] > 0


def test_masks_hold_lungs_with_their_lesions(made):
    dataset = opened(made / "cc_ccii")
    table = dataset.cases()
    case = max(table.case[table.label == "ct_lesion_seg"], key=lambda case: dataset.mask(case, "lung").sum())
    lung, lesion = dataset.mask(case, "lung"), dataset.mask(case, "lesion")
    assert lesion.any() and not (lesion & ~lung).any()
    np.testing.assert_array_equal(lesion, dataset.mask(case, "ground_glass") | dataset.mask(case, "consolidation"))
    image = dataset.image(case)
    assert image[lesion].mean() > image[lung & ~lesion].mean() + 0.1
    with pytest.raises(InputError, match="no mask of kind 'lesion'"):
        dataset.mask(table.case[table.label == "NCP"].iloc[0], "lesion")


def test_some_normal_scans_are_cut_to_the_lungs(made):
    dataset = opened(made / "cc_ccii")
    table = dataset.cases()
    dark = {patient: np.mean([np.mean(dataset.image(case) == 0) for case in group.case])
            for patient, group in table[table.label == "Normal"].groupby("patient")}
    assert max(dark.values()) > 0.7 and min(dark.values()) < 0.6


def test_the_same_seed_writes_the_same_bytes(made, tmp_path):
    again = write_set(tmp_path / "again", seed=3, patients=(1, 0, 0), segmented=0, spacing_mm=(6.0, 24.0), tips=20)
    files = sorted((again / "NCP").rglob("*.png"))
    assert files
    for path in files:
        assert path.read_bytes() == (made / "cc_ccii" / path.relative_to(again)).read_bytes()


def test_a_scan_that_nobody_looked_at_has_no_label(own):
    (own / "lesions_slices.csv").write_text("imgpath\n")
    table = opened(own).cases()
    assert table.has_lesion[table.label == "NCP"].isna().all() and table.has_lesion[table.label == "Normal"].eq(False).all()


def problems(folder) -> set[tuple[str, str]]:
    return {(problem.severity, problem.check) for problem in opened(folder).verify(near_duplicates=False).problems}


def test_a_listed_slice_that_is_missing_is_an_error(own):
    table = opened(own).cases()
    (own / table.image[table.has_lesion.eq(True)].iloc[0]).unlink()
    assert {("error", "listed slice missing"), ("error", "slice count")} <= problems(own)


def test_a_lesion_on_a_normal_and_a_patient_in_two_classes_are_told(own):
    normal = next((own / "Normal").rglob("*.png")).relative_to(own)
    (own / "lesions_slices.csv").write_text(f"imgpath\n{normal.as_posix()}\n")
    patient = next((own / "NCP").iterdir())
    shutil.copytree(patient, own / "CP" / patient.name)
    assert {("warning", "lesion on a normal"), ("warning", "patient in two classes")} <= problems(own)


def test_a_scan_that_was_not_unpacked_is_told(own):
    shutil.rmtree(next((own / "CP").iterdir()))
    assert ("warning", "scan not here") in problems(own)


def test_odd_masks_are_errors(own):
    masks = sorted((own / "ct_lesion_seg" / "mask").rglob("*.png"))
    labels = np.array(Image.open(masks[0]))
    Image.fromarray(np.full_like(labels, 9)).save(masks[0])
    masks[1].unlink()
    assert {("error", "unexpected labels"), ("error", "missing file")} <= problems(own)


def test_a_slice_in_the_wrong_place_is_refused(own):
    shutil.copy(next((own / "NCP").rglob("*.png")), own / "NCP" / "lost.png")
    with pytest.raises(InputError, match="<class>/<patient>/<scan>"):
        opened(own).cases()


def test_without_the_list_there_are_no_labels(own):
    (own / "lesions_slices.csv").unlink()
    with pytest.raises(InputError, match="lesions_slices.csv"):
        opened(own).cases()
