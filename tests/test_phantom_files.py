"""The phantom's files: formats of the public sets, agreement of masks and tables, determinism, the cache."""

import csv
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from covidcxr import datasets, phantom
from covidcxr.errors import CovidcxrError, ParameterError
from covidcxr.phantom import write_ct
from covidcxr.phantom.grid import Grid
from covidcxr.phantom.spec import SIZES, CohortSpec, VolumeSpec

TINY = CohortSpec(
    name="tiny", seed=5, covid=(1, 2), pneumonia=(1, 1), normal=(0, 0), rows=(96, 110), beam_grid_mm=(5.0, 12.0), tips=10,
    rural=(1, 1), volumes={"medseg_nr2_volumes": VolumeSpec(2, (9.0, 12.0), second_scan_mm=(10.0, 9.0))},
)


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def rows(path: Path) -> list[dict]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def volume(path: Path):
    """Array in RAS+ order, its affine, and the file's own axes."""
    import nibabel

    image = nibabel.load(path)
    canonical = nibabel.as_closest_canonical(image)
    return np.asarray(canonical.dataobj), canonical.affine, nibabel.aff2axcodes(image.affine), image


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    return phantom.write_cohort(tmp_path_factory.mktemp("tiny") / "one", TINY, workers=1)


def test_same_bytes_whatever_the_number_of_workers(tiny, tmp_path):
    first = digests(tiny)
    assert len(first) > 25
    assert digests(phantom.write_cohort(tmp_path / "three", TINY, workers=3)) == first


def test_same_bytes_on_a_lesser_processor(tiny, tmp_path, monkeypatch):
    """NumPy's and glibc's vector code, which another machine may not have, is switched off in the workers."""
    from numpy._core._multiarray_umath import __cpu_dispatch__, __cpu_features__

    found = [feature for feature in __cpu_dispatch__ if __cpu_features__[feature]]
    if not found:
        pytest.skip("this processor has no vector code beyond NumPy's baseline")
    monkeypatch.setenv("NPY_DISABLE_CPU_FEATURES", " ".join(found))
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.cpu.hwcaps=-AVX2,-FMA,-AVX512F")
    assert digests(phantom.write_cohort(tmp_path / "lesser", TINY, workers=2)) == digests(tiny)


def test_some_patients_are_in_the_rural_cohort_alone(tiny):
    (alone,) = [row for row in rows(tiny / "cohort.csv") if row["files"].startswith("rural_covid_cxr/")]
    assert ";" not in alone["files"] and (tiny / alone["files"]).is_file()
    images = [row for row in rows(tiny / "images.csv") if row["patient"] == alone["patient"]]
    assert [(row["dataset"], row["file"], row["group"]) for row in images] == [("rural_covid_cxr", alone["files"], "covid")]
    (about,) = [row for row in rows(tiny / "rural_covid_cxr" / "covid_rural_annot" / "covid_rural_patient_info.csv")
                if int(row["PATIENT_ID"].rpartition("-")[2]) == int(alone["patient"])]
    assert (about["ICU Admit"], about["MORTALITY"], about["AGE"]) == (alone["icu"], alone["death"], alone["age"])
    first = {row["patientid"] for row in rows(tiny / "general_blockchain_cxr" / "metadata.csv")}
    assert len(first) == 2 and alone["patient"] not in first


def test_slices_of_cc_ccii_leave_the_other_sets_as_they_are(tiny, tmp_path):
    """Its people are of its own: nothing else of a cohort changes with it, whatever the number of workers."""
    spec = CohortSpec.from_dict({**TINY.as_dict(), "slices": {"patients": (1, 0, 1), "segmented": 1, "spacing_mm": (9.0, 30.0)}})
    assert CohortSpec.from_dict(json.loads(json.dumps(spec.as_dict()))) == spec
    made = digests(phantom.write_cohort(tmp_path / "with", spec, workers=2))
    assert {name: made[name] for name in digests(tiny)} == digests(tiny)
    added = {name for name in made if name.startswith("cc_ccii/")}
    assert set(made) == added | set(digests(tiny)) and {"cc_ccii/README.md", "cc_ccii/lesions_slices.csv"} < added
    assert datasets.open("cc_ccii", tmp_path / "with").verify().ok


def test_another_seed_makes_another_cohort(tiny, tmp_path):
    other = CohortSpec.from_dict({**TINY.as_dict(), "seed": 6})
    second = digests(phantom.write_cohort(tmp_path / "other", other, workers=2))
    first = digests(tiny)
    shared = [name for name in first if name in second and name.endswith((".nii.gz", ".png", ".jpeg"))]
    assert shared and all(first[name] != second[name] for name in shared)


def test_a_cohort_is_not_written_over_other_files(tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(ParameterError, match="not empty"):
        phantom.write_cohort(tmp_path, TINY)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_unknown_size_names_the_known_ones():
    with pytest.raises(ParameterError, match="smoke, demo"):
        phantom.ensure_cohort("demmo")


def test_workers_must_be_positive(tmp_path):
    with pytest.raises(ParameterError, match="workers"):
        phantom.write_cohort(tmp_path, TINY, workers=0)


def test_a_worker_that_fails_is_reported(tmp_path):
    """A spec that cannot be made ends in an error that says so, not in a partial cohort taken for whole."""
    spec = CohortSpec.from_dict({**TINY.as_dict(), "volumes": {}, "rows": (0, 0)})
    with pytest.raises(CovidcxrError, match="worker exit codes"):
        phantom.write_cohort(tmp_path / "bad", spec, workers=1)
    assert not (tmp_path / "bad" / "cohort.csv").exists()


def test_the_fingerprint_follows_the_spec():
    assert phantom.fingerprint(SIZES["smoke"]) != phantom.fingerprint(SIZES["demo"])
    assert phantom.fingerprint(CohortSpec.from_dict(SIZES["demo"].as_dict())) == phantom.fingerprint(SIZES["demo"])


def test_two_processes_at_once_make_one_cohort(tmp_path):
    """The second waits for the first: one folder, and its work was announced once."""
    small = {**TINY.as_dict(), "covid": (1, 1), "pneumonia": (0, 0), "volumes": {}}
    code = (
        f"from covidcxr import phantom; phantom.SIZES['tiny'] = phantom.CohortSpec.from_dict({small!r}); "
        "print(phantom.ensure_cohort('tiny'))"
    )
    environment = {**os.environ, "COVIDCXR_CACHE": str(tmp_path)}
    children = [
        subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    outputs = [child.communicate() for child in children]
    assert [child.returncode for child in children] == [0, 0], outputs
    assert len({out.strip() for out, _ in outputs}) == 1
    assert sum(err.count("generating") for _, err in outputs) == 1
    made = [path for path in (tmp_path / "phantom").iterdir() if path.is_dir()]
    assert len(made) == 1 and (made[0] / "cohort.csv").is_file()


def test_a_cohort_left_half_made_is_made_anew(tmp_path, monkeypatch):
    monkeypatch.setenv("COVIDCXR_CACHE", str(tmp_path))
    spec = CohortSpec.from_dict({**TINY.as_dict(), "covid": (0, 0), "volumes": {}})
    monkeypatch.setitem(SIZES, "tiny", spec)
    left = tmp_path / "phantom" / f".tiny-{phantom.fingerprint(spec)}.123.making"
    left.mkdir(parents=True)
    (left / "half.png").write_text("torn")
    folder = phantom.ensure_cohort("tiny")
    assert (folder / "cohort.csv").is_file() and not (folder / "half.png").exists() and not left.exists()


def test_truth_table_agrees_with_the_volumes(phantom_smoke):
    table = rows(phantom_smoke / "cohort.csv")
    assert {row["group"] for row in table} == {"covid", "pneumonia", "normal"}
    checked = 0
    for row in table:
        files = row["files"].split(";")
        assert all((phantom_smoke / name).is_file() for name in files)
        if files[0].startswith("medseg_nr2_volumes"):
            base = phantom_smoke / files[0].replace("_image.nii.gz", "")
            lesion, lung = volume(Path(f"{base}_lesion.nii.gz"))[0], volume(Path(f"{base}_lung_lr.nii.gz"))[0]
            assert np.count_nonzero(lesion) / np.count_nonzero(lung) == pytest.approx(float(row["opacity_share"]), abs=1e-5)
            checked += 1
    assert checked == 2
    assert all(float(row["opacity_share"]) == 0 for row in table if row["group"] == "normal")
    assert "SYNTHETIC" in (phantom_smoke / "README.txt").read_text()


def test_crops_are_as_the_table_says_and_lie_in_the_image(phantom_smoke):
    from PIL import Image

    root = phantom_smoke / "general_blockchain_cxr"
    table = rows(root / "structure.csv")
    masks = {name.name for name in (root / "masks").iterdir()}
    assert masks == {Path(row["Mask"]).name for row in table}
    assert [row["#"] for row in table] == [str(k + 1) for k in range(len(table))]
    for row in table:
        with Image.open(root / "images" / row["Filename"]) as image:
            assert row["Resolution"] == f"{image.width}x{image.height}"
            width, height = image.size
        crop = np.asarray(Image.open(root / row["Mask"]))
        assert crop.shape == (int(row["Height"]), int(row["Width"]), 4)
        assert int(row["Left"]) + int(row["Width"]) <= width and int(row["Top"]) + int(row["Height"]) <= height
        assert (crop[..., 3] == 255).all()
        inside = crop[..., :3].any(axis=2)
        assert inside.any() and len(np.unique(crop[inside], axis=0)) == 1
        assert inside.any(axis=0)[[0, -1]].all() and inside.any(axis=1)[[0, -1]].all(), "a tight box"
        assert Path(row["Mask"]).name.startswith(hashlib.sha1(row["Filename"].encode()).hexdigest())


def canvas(root: Path, filename: str) -> dict[str, np.ndarray]:
    from PIL import Image

    masks = {}
    for row in rows(root / "structure.csv"):
        if row["Filename"] == filename:
            width, height = map(int, row["Resolution"].split("x"))
            mask = masks.setdefault(row["Template Name"], np.zeros((height, width), bool))
            crop = np.asarray(Image.open(root / row["Mask"]).convert("RGB")).any(axis=2)
            mask[int(row["Top"]):, int(row["Left"]):][: crop.shape[0], : crop.shape[1]] |= crop
    return masks


def test_radiograph_masks_agree_with_anatomy(phantom_smoke):
    from PIL import Image

    root = phantom_smoke / "general_blockchain_cxr"
    darker = []
    for name in sorted((root / "images").iterdir()):
        masks = canvas(root, name.name)
        left, right = masks["Left Lung"], masks["Right Lung"]
        assert np.argwhere(left)[:, 1].mean() > np.argwhere(right)[:, 1].mean(), "left lung on the image's right"
        assert 0.2 < (left | right).mean() < 0.7
        assert np.argwhere(masks["Airways"])[:, 0].mean() < np.argwhere(masks["Cardiomediastinum"])[:, 0].mean()
        for opacity in ("Ground Glass Opacities", "Consolidation"):
            if opacity in masks:
                assert not (masks[opacity] & ~(left | right)).any()
        image = np.asarray(Image.open(name).convert("L")) / 255
        heart = masks["Cardiomediastinum"] & ~(left | right)
        seen = (left | right) & ~masks["Cardiomediastinum"]
        darker.append(image[heart].mean() - image[seen].mean())
    assert min(darker) > 0.08


def test_only_the_ill_have_opacities_and_metadata_say_what_they_have(phantom_smoke):
    root = phantom_smoke / "general_blockchain_cxr"
    findings = {row["filename"]: row for row in rows(root / "metadata.csv")}
    groups = {Path(row["file"]).name: row for row in rows(phantom_smoke / "images.csv") if row["dataset"] == root.name}
    assert findings.keys() == groups.keys() == {path.name for path in (root / "images").iterdir()}
    opaque = {row["Filename"] for row in rows(root / "structure.csv") if row["Template Name"] == "Ground Glass Opacities"}
    for name, row in groups.items():
        covid = findings[name]["finding"].startswith("COVID-19")
        assert covid == (row["group"] == "covid")
        assert (findings[name]["finding"] == "No Finding") == (row["group"] == "normal")
        assert findings[name]["view"] == row["view"] and findings[name]["view"] in ("PA", "AP", "AP Supine")
        if row["group"] == "normal":
            assert name not in opaque
    assert opaque


def test_each_ct_set_has_its_layout_axes_and_units(phantom_smoke):
    expected = {
        "covid19_ct_seg": ("COVID-19-CT-Seg_20cases/coronacases_001.nii.gz", "LAS"),
        "mosmeddata": ("studies/CT-1/study_0255.nii.gz", "RAS"),
        "covid_19_20": ("Train/volume-covid19-A-0003_ct.nii.gz", "LPI"),
        "medseg_nr2_volumes": ("case1_image.nii.gz", "LPS"),
    }
    for dataset, (name, axes) in expected.items():
        values, affine, own, image = volume(phantom_smoke / dataset / name)
        assert "".join(own) == axes
        assert image.get_data_dtype() == np.int16
        assert int(image.header["sform_code"]) == int(image.header["qform_code"]) == 1
        assert np.allclose(image.get_qform(), image.get_sform(), atol=1e-3)
        assert values.min() >= -1100 and -1030 < np.percentile(values, 2) < -950, "air"
        middle = values[values.shape[0] // 2]
        assert (np.percentile(middle, 99.5) > 200) and values.max() <= 3071


def test_windowed_volumes_are_not_in_hu(phantom_smoke):
    folder = phantom_smoke / "covid19_ct_seg" / "COVID-19-CT-Seg_20cases"
    windowed = list(folder.glob("radiopaedia*"))
    assert len(windowed) == 1
    values = volume(windowed[0])[0]
    assert values.min() >= 0 and values.max() == 255
    lung = volume(phantom_smoke / "covid19_ct_seg" / "Lung_Mask" / windowed[0].name)[0] > 0
    assert np.percentile(values[lung], 25) == pytest.approx((-860 + 1250) / 1500 * 255, abs=8)


def test_masks_share_affine_sides_and_density_with_their_volume(phantom_smoke):
    root = phantom_smoke / "covid19_ct_seg"
    cases = [(root / "COVID-19-CT-Seg_20cases" / p.name, p, root / "Infection_Mask" / p.name)
             for p in sorted((root / "Lung_Mask").glob("coronacases*"))]
    other = phantom_smoke / "medseg_nr2_volumes"
    cases += [(p, Path(str(p).replace("_image", "_lung_lr")), Path(str(p).replace("_image", "_lesion")))
              for p in sorted(other.glob("*_image*"))]
    assert len(cases) == 4
    for ct_path, lung_path, lesion_path in cases:
        ct, affine, axes, _ = volume(ct_path)
        lung, lung_affine, lung_axes, _ = volume(lung_path)
        lesion, lesion_affine, _, _ = volume(lesion_path)
        assert ct.shape == lung.shape == lesion.shape and axes == lung_axes
        assert np.array_equal(affine, lung_affine) and np.array_equal(affine, lesion_affine)
        # World x grows to the patient's right, so the left lung (1) lies at negative x.
        world = [(affine[0, 0] * np.argwhere(lung == label)[:, 0] + affine[0, 3]).mean() for label in (1, 2)]
        assert world[0] < -30 and world[1] > 30
        assert set(np.unique(lesion)) <= {0, 1} and set(np.unique(lung)) == {0, 1, 2}
        assert not ((lesion > 0) & (lung == 0)).any()
        assert np.median(ct[(lung > 0) & (lesion == 0)]) == pytest.approx(-855, abs=45)
        if lesion.any():
            assert np.median(ct[lesion > 0]) > np.median(ct[(lung > 0) & (lesion == 0)]) + 150


def test_lung_and_infection_mask_combines_the_two(phantom_smoke):
    root = phantom_smoke / "covid19_ct_seg"
    for path in (root / "Lung_and_Infection_Mask").iterdir():
        both, lung, lesion = (volume(root / kind / path.name)[0] for kind in
                              ("Lung_and_Infection_Mask", "Lung_Mask", "Infection_Mask"))
        assert np.array_equal(both == 3, lesion > 0)
        assert np.array_equal(both[lesion == 0], lung[lesion == 0])


@pytest.mark.parametrize("axes", ["LPS", "RAS", "LAS", "LPI", "RPI"])
def test_axes_place_every_voxel_where_it_was(axes, tmp_path):
    """A marked voxel keeps its place in the patient whatever the array's axes."""
    grid = Grid.box((-40, -30, -20), (44, 50, 40), (4, 5, 6))
    values = np.zeros(grid.shape, np.int16)
    values[3, 12, 2] = 7
    write_ct.save(tmp_path / "a.nii.gz", values, grid, axes)
    _, _, own, image = volume(tmp_path / "a.nii.gz")
    assert "".join(own) == axes
    at = image.affine @ [*np.argwhere(np.asarray(image.dataobj) == 7)[0], 1]
    assert np.allclose(at[:3], [-grid.x[3], -grid.y[12], grid.z[2]], atol=1e-4)


def test_the_pair_of_scans_of_one_patient_differs_in_spacing(tiny):
    table = rows(tiny / "cohort.csv")
    pairs = [row["files"].split(";") for row in table if row["files"].count("medseg") == 2]
    assert pairs == [["medseg_nr2_volumes/case2_image.nii.gz", "medseg_nr2_volumes/case3_image.nii.gz"]]
    zooms = [volume(tiny / name)[3].header.get_zooms() for name in pairs[0]]
    assert np.allclose(zooms, [(9, 9, 12), (10, 10, 9)])


def test_tables_have_the_public_columns(phantom_smoke, real_data):
    for name in ("structure.csv", "metadata.csv"):
        heads = []
        for root in (phantom_smoke, real_data):
            with open(root / "general_blockchain_cxr" / name, newline="", encoding="utf-8", errors="replace") as file:
                heads.append(next(csv.reader(file)))
        assert heads[0] == heads[1]
