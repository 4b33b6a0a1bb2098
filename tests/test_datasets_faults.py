"""The verifier names what is wrong with volumes, masks and pictures, and is never stopped by it."""

import gzip

import nibabel
import numpy as np
import pytest
from PIL import Image

from covidcxr import datasets

SHAPE = (24, 20, 16)
AFFINE = np.diag([-4.0, -4.0, 6.0, 1.0])


def thorax(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """int16 HU and labels (1 left lung, 2 right lung) of a block with two holes; the first axis grows to the patient's left."""
    rng = np.random.default_rng(seed)
    hu = np.full(SHAPE, -1000, np.int16)
    hu[3:21, 3:17] = 40
    labels = np.zeros(SHAPE, np.uint8)
    labels[13:19, 5 + seed % 3 : 15, 2:14], labels[5:11, 5:15, 2 : 14 - seed % 4] = 1, 2
    hu[labels > 0] = -800
    return (hu + rng.integers(-20, 20, SHAPE)).astype(np.int16), labels


def save(path, values, affine=AFFINE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(values, affine), path)


@pytest.fixture
def medseg(tmp_path):
    """A sound set of two cases with lungs and lesions."""
    folder = tmp_path / "medseg_nr2_volumes"
    for number in (1, 2):
        hu, labels = thorax(number)
        lesion = np.zeros(SHAPE, np.uint8)
        lesion[14:17, 8:11, 5:9] = 1
        for kind, values in (("image", hu), ("lung_lr", labels), ("lesion", lesion)):
            save(folder / f"case{number}_{kind}.nii.gz", values)
    return folder


def verify(folder):
    return datasets.open(folder.name, folder.parent).verify()


def found(folder, severity="error") -> list[tuple[str, str, str]]:
    return [(p.check, p.case, p.text) for p in verify(folder).problems if p.severity == severity and p.check != "counts"]


def test_a_sound_set_is_ok_and_measured(medseg):
    verification = verify(medseg)
    assert verification.ok and found(medseg, "warning") == []
    frame = verification.to_frame().set_index("case")
    assert frame["shape"]["case1"] == SHAPE and frame.spacing["case1"] == (4.0, 4.0, 6.0) and frame.units["case1"] == "HU"
    assert frame.lesion_size["case1"] == 3 * 3 * 4 and frame.lesion_in_lung["case1"] == 1.0
    assert frame.errors.sum() == 0 and "OK: 0 errors" in str(verification)
    assert verification.counts["volumes HU"] == 2


def test_a_truncated_volume_is_named_and_the_others_are_checked(medseg):
    path = medseg / "case1_image.nii.gz"
    path.write_bytes(path.read_bytes()[:-400])
    ((check, case, text),) = found(medseg)
    assert (check, case) == ("unreadable volume", "case1") and "case1_image.nii.gz" in text
    assert verify(medseg).measured["case2"]["units"] == "HU"


def test_a_damaged_mask_is_named(medseg):
    content = bytearray(gzip.decompress((medseg / "case2_lesion.nii.gz").read_bytes()))
    (medseg / "case2_lesion.nii.gz").write_bytes(gzip.compress(bytes(content[:-100])))
    ((check, case, text),) = found(medseg)
    assert (check, case) == ("unreadable mask", "case2") and "case2_lesion.nii.gz" in text


def test_a_mask_of_another_shape_and_one_in_another_place_are_told_apart(medseg):
    _, labels = thorax(1)
    save(medseg / "case1_lung_lr.nii.gz", labels[:, :, :-1])
    shifted = AFFINE.copy()
    shifted[0, 3] += 8
    save(medseg / "case2_lung_lr.nii.gz", labels, shifted)
    problems = found(medseg)
    assert [(check, case) for check, case, _ in problems] == [("mask grid", "case1"), ("mask grid", "case2")]
    assert "shape" in problems[0][2] and "8.00 mm" in problems[1][2]


def test_nan_in_a_volume_is_an_error(medseg):
    hu, _ = thorax(1)
    values = hu.astype(np.float32)
    values[0, 0, 0] = np.nan
    save(medseg / "case1_image.nii.gz", values)
    ((check, case, text),) = found(medseg)
    assert (check, case) == ("unreadable volume", "case1") and "NaN" in text


def test_unexpected_labels_are_listed(medseg):
    _, labels = thorax(1)
    labels[0, 0, 0] = 7
    save(medseg / "case1_lung_lr.nii.gz", labels)
    ((check, case, text),) = found(medseg)
    assert (check, case) == ("unexpected labels", "case1") and "[7]" in text


def test_a_volume_that_is_not_in_hu_is_warned_of(medseg):
    hu, _ = thorax(1)
    save(medseg / "case1_image.nii.gz", np.clip((hu.astype(float) + 1250) * 255 / 1500, 0, 255).astype(np.int16))
    ((check, case, text),) = found(medseg, "warning")
    assert (check, case) == ("not in HU", "case1") and "windowed" in text
    assert verify(medseg).counts["volumes windowed"] == 1


def test_empty_masks_swapped_sides_and_lesions_outside_are_warned_of(medseg):
    _, labels = thorax(1)
    save(medseg / "case1_lung_lr.nii.gz", np.where(labels > 0, 3 - labels, 0).astype(np.uint8))
    save(medseg / "case1_lesion.nii.gz", np.zeros(SHAPE, np.uint8))
    outside = np.zeros(SHAPE, np.uint8)
    outside[:4, :4, :4] = 1
    save(medseg / "case2_lesion.nii.gz", outside)
    assert found(medseg) == []
    assert {(check, case) for check, case, _ in found(medseg, "warning")} == {
        ("sides", "case1"), ("empty mask", "case1"), ("lesion outside lungs", "case2"),
    }


def test_the_same_volume_under_two_patients_is_warned_of(medseg):
    for kind in ("image", "lung_lr", "lesion"):
        (medseg / f"case1_{kind}.nii.gz").rename(medseg / f"case5_{kind}.nii.gz")
        (medseg / f"case4_{kind}.nii.gz").write_bytes((medseg / f"case5_{kind}.nii.gz").read_bytes())
    ((check, _, text),) = found(medseg, "warning")
    assert check == "duplicate across patients" and "case4" in text and "case5" in text


def test_case_three_of_medseg_belongs_to_the_second_patient(medseg):
    for kind in ("image", "lung_lr", "lesion"):
        (medseg / f"case1_{kind}.nii.gz").rename(medseg / f"case3_{kind}.nii.gz")
    table = datasets.open(medseg.name, medseg.parent).cases()
    assert dict(zip(table.case, table.patient, strict=True)) == {"case2": "case2", "case3": "case2"}


def test_missing_masks_are_listed_once_and_nothing_else_fails(medseg):
    (medseg / "case1_lung_lr.nii.gz").unlink()
    verification = verify(medseg)
    assert verification.missing == ["case1_lung_lr.nii.gz"]
    assert [problem.check for problem in verification.errors] == ["missing file"]


def test_the_combined_mask_stands_in_and_its_disagreement_is_told(tmp_path):
    folder = tmp_path / "covid19_ct_seg"
    hu, labels = thorax(0)
    both = labels.copy()
    both[14:17, 8:11, 5:9] = 3
    for name in ("coronacases_001.nii.gz", "coronacases_002.nii.gz"):
        save(folder / "COVID-19-CT-Seg_20cases" / name, hu)
        save(folder / "Lung_and_Infection_Mask" / name, both)
    save(folder / "Lung_Mask" / "coronacases_002.nii.gz", labels)
    save(folder / "Infection_Mask" / "coronacases_002.nii.gz", (labels == 2).astype(np.uint8))
    dataset = datasets.open("covid19_ct_seg", tmp_path)
    assert dataset.volume_mask("coronacases_001", "lesion").sum() == (both == 3).sum()
    assert dataset.volume_mask("coronacases_001", "lung").sum() == (both > 0).sum()
    assert dataset.row("coronacases_001")["left_lung"] is None  # the infected part has lost its side
    checks = {(problem.check, problem.case) for problem in dataset.verify().warnings}
    assert ("combined mask", "coronacases_002") in checks and ("combined mask", "coronacases_001") not in checks


def test_two_scans_of_one_patient_in_the_challenge_set(tmp_path):
    hu, labels = thorax(0)
    for scan in ("0003", "0011_1", "0011_2"):
        for kind, values in (("ct", hu), ("seg", (labels == 1).astype(np.uint8))):
            save(tmp_path / "covid_19_20" / "Train" / f"volume-covid19-A-{scan}_{kind}.nii.gz", values)
    table = datasets.open("covid_19_20", tmp_path).cases()
    assert table.patient.tolist() == ["volume-covid19-A-0003", "volume-covid19-A-0011", "volume-covid19-A-0011"]
    assert table.lesion[1] == "Train/volume-covid19-A-0011_1_seg.nii.gz"


def test_unannotated_studies_of_mosmed_are_not_taken_for_healthy(tmp_path):
    folder = tmp_path / "mosmeddata"
    hu, labels = thorax(0)
    save(folder / "studies" / "CT-1" / "study_0255.nii.gz", hu)
    save(folder / "studies" / "CT-0" / "study_0001.nii.gz", hu[:, ::-1])
    save(folder / "masks" / "study_0255_mask.nii.gz", (labels == 1).astype(np.uint8))
    table = datasets.open("mosmeddata", tmp_path).cases().set_index("case")
    assert table.lesion["study_0001"] is None and table.finding["study_0001"] == "no finding"
    assert table.lesion["study_0255"] == "masks/study_0255_mask.nii.gz" and table.severity["study_0255"] == "CT-1"


# ---- pictures --------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    """A user's folder of three sound radiographs with lung masks."""
    for part in ("images", "masks/lung"):
        (tmp_path / "folder" / part).mkdir(parents=True)
    for number in range(3):
        coarse = Image.fromarray(np.random.default_rng(number).integers(20, 230, (6, 7), dtype=np.uint8))
        coarse.resize((50, 40), Image.Resampling.BICUBIC).save(tmp_path / "folder" / "images" / f"case{number}.png")
        mask = np.zeros((40, 50), np.uint8)
        mask[8:30, 6:20] = 255
        Image.fromarray(mask).save(tmp_path / "folder" / "masks" / "lung" / f"case{number}.png")
    return tmp_path / "folder"


def test_a_sound_folder_is_ok(folder):
    verification = verify(folder)
    assert verification.ok and not verification.warnings, str(verification)


def test_an_unreadable_and_a_constant_image_are_named(folder):
    path = folder / "images" / "case0.png"
    path.write_bytes(path.read_bytes()[:200])
    Image.new("L", (50, 40), 7).save(folder / "images" / "case1.png")
    assert [(check, case) for check, case, _ in found(folder)] == [("unreadable image", "case0"), ("constant image", "case1")]


def test_a_mask_of_another_size_a_coloured_and_an_empty_one_are_named(folder):
    masks = folder / "masks" / "lung"
    Image.new("L", (49, 40), 255).save(masks / "case0.png")
    Image.new("RGB", (50, 40), (255, 0, 0)).save(masks / "case1.png")
    Image.new("L", (50, 40)).save(masks / "case2.png")
    assert [(check, case) for check, case, _ in found(folder)] == [("mask size", "case0"), ("unreadable mask", "case1")]
    assert [(check, case) for check, case, _ in found(folder, "warning")] == [("empty mask", "case2")]


def test_coloured_marks_and_rotation_tags_are_warned_of(folder):
    picture = Image.open(folder / "images" / "case0.png").convert("RGB")
    picture.paste((255, 230, 0), (5, 5, 12, 10))
    picture.save(folder / "images" / "case0.png")
    picture = Image.open(folder / "images" / "case1.png")
    rotation = Image.Exif()
    rotation[0x0112] = 6
    picture.save(folder / "images" / "case1.png", exif=rotation)
    checks = [(check, case) for check, case, _ in found(folder, "warning")]
    assert checks == [("coloured marks", "case0"), ("rotation", "case1")]


def test_a_fault_nobody_thought_of_is_reported_and_the_rest_goes_on(folder):
    dataset = datasets.open("folder", folder.parent)
    sound = dataset._check_case

    def check(row, report):
        if row["case"] == "case1":
            raise ZeroDivisionError("surprise")
        return sound(row, report)

    dataset._check_case = check
    verification = dataset.verify()
    assert [(problem.check, problem.case) for problem in verification.errors] == [("reading", "case1")]
    assert "surprise" in str(verification) and verification.measured["case2"]["height"] == 40


def test_the_tables_of_problems_agree(folder):
    (folder / "masks" / "lung" / "case1.png").write_bytes(b"")
    verification = verify(folder)
    frame = verification.problems_frame()
    assert len(frame) == len(verification.problems) and frame.severity.eq("error").sum() == len(verification.errors)
    assert verification.to_frame().set_index("case").errors.to_dict() == {"case0": 0, "case1": 1, "case2": 0}
