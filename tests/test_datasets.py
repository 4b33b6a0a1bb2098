"""The registry, the table of cases, the manifest, the adapters on the phantom cohort, and a user's own folder."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pandas
import pytest
from PIL import Image

from covidcxr import datasets
from covidcxr.datasets.images import read_image, stem
from covidcxr.datasets.tables_of_cases import COLUMNS, normalise_finding, yes_no
from covidcxr.errors import DataMissing, InputError, ParameterError

PHANTOM = "phantom:smoke"
CT_SETS = ("covid19_ct_seg", "mosmeddata", "covid_19_20", "medseg_nr2_volumes")


def save_image(path, values) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(values, np.uint8)).save(path)


# ---- registry --------------------------------------------------------------------------------------------------------


def test_importing_the_registry_loads_no_heavy_library():
    heavy = ("numpy", "pandas", "PIL", "nibabel", "pooch", "yaml", "scipy")
    code = f"import sys; from covidcxr import datasets; print([name for name in {heavy} if name in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


def test_unknown_names_get_the_nearest_one(tmp_path):
    with pytest.raises(ParameterError, match="Did you mean 'mosmeddata'"):
        datasets.open("mosmedata", tmp_path)
    with pytest.raises(ParameterError, match="Did you mean 'phantom:smoke'"):
        datasets.data_root("phantom:smok")
    with pytest.raises(ParameterError, match="neither 'real'"):
        datasets.data_root(str(tmp_path / "nowhere"))


@pytest.mark.parametrize("name", datasets.NAMES)
def test_every_set_has_facts_a_class_and_a_message_when_missing(name, tmp_path):
    about = datasets.facts(name)
    keys = {"title", "source", "licence", "citation", "needed_by", "access", "how", "steps", "layout", "files", "expected"}
    assert keys == set(about)
    assert about["access"] in ("open", "manual", "registration", "own")
    assert all(len(file["sha256"]) == 64 and file["url"].startswith("https://") for file in about["files"])
    assert bool(about["files"]) == (about["access"] == "open")
    with pytest.raises(DataMissing) as caught:
        datasets.open(name, tmp_path)
    assert caught.value.dataset == name and about["how"] in str(caught.value) and caught.value.how == about["how"]


def test_pointing_at_the_set_instead_of_its_parent_is_explained(tmp_path):
    (tmp_path / "mosmeddata" / "masks").mkdir(parents=True)
    with pytest.raises(DataMissing, match="data should be the folder that holds mosmeddata"):
        datasets.open("mosmeddata", tmp_path / "mosmeddata")


def test_the_real_data_folder_comes_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("COVIDCXR_DATA", str(tmp_path))
    save_image(tmp_path / "folder" / "images" / "one.png", [[0, 255]])
    assert datasets.present("real") == ("folder",)
    assert datasets.open("folder").cases().case.tolist() == ["one"]


def test_a_folder_without_any_case_says_what_was_expected(tmp_path):
    (tmp_path / "medseg_nr2_volumes").mkdir()
    (tmp_path / "medseg_nr2_volumes" / "notes.txt").write_text("nothing")
    with pytest.raises(InputError, match="no case found"):
        datasets.open("medseg_nr2_volumes", tmp_path).cases()


def test_status_lists_all_sets_and_survives_a_broken_one(tmp_path):
    save_image(tmp_path / "folder" / "images" / "one.png", [[0, 255]])
    (tmp_path / "general_blockchain_cxr").mkdir()
    (tmp_path / "general_blockchain_cxr" / "structure.csv").write_text("a,b\n1,2\n")
    rows = {row["name"]: row for row in datasets.status(tmp_path)}
    assert set(rows) == set(datasets.NAMES)
    assert rows["folder"]["cases"] == 1 and rows["folder"]["present"]
    assert rows["general_blockchain_cxr"]["cases"] is None and "Filename" in rows["general_blockchain_cxr"]["note"]
    assert not rows["mosmeddata"]["present"] and "mosmed.ai" in rows["mosmeddata"]["how"]


# ---- tables ----------------------------------------------------------------------------------------------------------


def test_findings_have_one_spelling():
    assert normalise_finding("Pneumonia/Viral/COVID-19") == "COVID-19" == normalise_finding(" covid-19 ")
    assert normalise_finding("COVID-19, ARDS") == "COVID-19 with ARDS"
    assert normalise_finding("Tuberculosis") == "Tuberculosis"
    assert [normalise_finding(text) for text in (None, "", float("nan"), "todo", "Unknown")] == [None] * 5


def test_yes_and_no_in_all_spellings():
    assert [yes_no(word) for word in ("Y", "yes", 1, True, "1.0")] == [True] * 5
    assert [yes_no(word) for word in ("N", "no", 0, False, "0")] == [False] * 5
    assert [yes_no(word) for word in ("", None, "maybe")] == [None] * 3


@pytest.mark.parametrize("name", ("general_blockchain_cxr", *CT_SETS))
def test_phantom_tables_have_the_documented_columns_and_existing_files(name, phantom_smoke):
    dataset = datasets.open(name, PHANTOM)
    table = dataset.cases()
    assert table.columns[: len(COLUMNS)].tolist() == list(COLUMNS)
    assert table.case.is_unique and table.patient.notna().all() and (table.licence == "synthetic").all()
    assert [str(table[column].dtype) for column in ("covid", "icu", "death", "age")] == ["boolean"] * 3 + ["float64"]
    for path in table.image:
        assert (phantom_smoke / name / path).is_file()
    table.loc[0, "patient"] = "spoilt"  # the caller's copy
    assert dataset.cases().patient[0] != "spoilt"


def test_phantom_radiographs_carry_the_cohorts_truth(phantom_smoke):
    truth = pandas.read_csv(phantom_smoke / "cohort.csv").set_index("patient")
    dataset = datasets.open("general_blockchain_cxr", PHANTOM)
    table = dataset.cases()
    for row in table.itertuples():
        patient = truth.loc[int(row.patient)]
        assert f"general_blockchain_cxr/{row.image}" in patient.files.split(";")
        assert row.covid == (patient.group == "covid") and row.sex == patient.sex and row.age == patient.age
        for mine, theirs in ((row.icu, patient.icu), (row.death, patient.death)):
            assert mine is pandas.NA or bool(mine) == bool(theirs)
    assert table.death.notna().any()


def test_phantom_masks_fit_their_images(phantom_smoke):
    dataset = datasets.open("general_blockchain_cxr", PHANTOM)
    for row in dataset.cases().itertuples():
        image, lung, lesion = dataset.image(row.case), dataset.mask(row.case, "lung"), dataset.mask(row.case, "lesion")
        assert image.dtype == np.float32 and lung.dtype == bool and image.shape == lung.shape == lesion.shape
        assert 0 <= image.min() < image.max() <= 1
        sides = dataset.mask(row.case, "left_lung") | dataset.mask(row.case, "right_lung")
        assert np.array_equal(sides, lung)
        parts = dataset.mask(row.case, "ground_glass") | dataset.mask(row.case, "consolidation")
        assert np.array_equal(parts, lesion) and lesion.any() == (row.lesion is not None)
        assert (lesion & lung).sum() >= 0.5 * lesion.sum()


def test_errors_name_the_case_the_kind_and_the_way(phantom_smoke):
    dataset = datasets.open("general_blockchain_cxr", PHANTOM)
    case = dataset.cases().case[0]
    with pytest.raises(InputError, match="Did you mean 'lesion'"):
        dataset.mask(case, "lesions")
    with pytest.raises(InputError, match=f"Did you mean '{case}'"):
        dataset.image(case + "x")
    with pytest.raises(InputError, match="use image"):
        dataset.volume(case)
    volumes = datasets.open("mosmeddata", PHANTOM)
    with pytest.raises(InputError, match="use volume"):
        volumes.image(volumes.cases().case[0])
    with pytest.raises(InputError, match="Its kinds: lesion"):
        volumes.volume_mask(volumes.cases().case[0], "lung")


@pytest.mark.parametrize("name", CT_SETS)
def test_phantom_volumes_and_masks_share_a_grid(name, phantom_smoke):
    dataset = datasets.open(name, PHANTOM)
    truth = pandas.read_csv(phantom_smoke / "cohort.csv")
    for row in dataset.cases().itertuples():
        volume = dataset.volume(row.case)
        assert volume.units == row.expected_units
        masks = {kind: dataset.volume_mask(row.case, kind) for kind in dataset.kinds}
        assert all(mask.dtype == bool and mask.shape == volume.voxels.shape for mask in masks.values())
        if "lung" not in masks:
            continue
        assert np.array_equal(masks["lung"], masks["left_lung"] | masks["right_lung"])
        # RAS+: the first axis grows towards the patient's right
        assert np.nonzero(masks["left_lung"])[0].mean() < np.nonzero(masks["right_lung"])[0].mean()
        patient = truth[truth.files.str.contains(row.image, regex=False)].iloc[0]
        assert masks["lesion"].sum() / masks["lung"].sum() == pytest.approx(patient.opacity_share, abs=0.02)


def test_the_volume_is_read_once_for_its_masks(phantom_smoke, monkeypatch):
    from covidcxr import volumes

    reads = []
    monkeypatch.setattr(volumes, "read_volume", lambda *args, read=volumes.read_volume: reads.append(args) or read(*args))
    dataset = datasets.open("medseg_nr2_volumes", PHANTOM)
    for kind in dataset.kinds:
        dataset.volume_mask("case1", kind)
    dataset.volume("case1")
    assert len(reads) == 1


def test_a_window_gives_hu_and_the_masks_still_fit(phantom_smoke):
    from covidcxr.datasets.covid19_ct_seg import WINDOW

    dataset = datasets.open("covid19_ct_seg", PHANTOM)
    case = dataset.cases().query("expected_units == 'windowed'").case.iloc[0]
    volume = dataset.volume(case, WINDOW)
    assert volume.units == "HU" and volume.window == WINDOW
    lung = dataset.volume_mask(case, "lung")
    assert -1000 < np.median(volume.voxels[lung]) < -300
    assert dataset.volume(case).units == "windowed"


# ---- manifest --------------------------------------------------------------------------------------------------------


@pytest.fixture
def own_data(tmp_path, monkeypatch):
    """A data root with a user's folder of two images, and a cache of its own."""
    monkeypatch.setenv("COVIDCXR_CACHE", str(tmp_path / "cache"))
    for number in (1, 2):
        save_image(tmp_path / "data" / "folder" / "images" / f"case{number}.png", np.full((4, 5), 40 * number))
    return tmp_path / "data"


def test_manifest_is_about_contents_only(own_data):
    first = datasets.manifest("folder", own_data)
    image = own_data / "folder" / "images" / "case1.png"
    assert first["files"] == 2 and first["bytes"] == sum(path.stat().st_size for path in image.parent.iterdir())
    os.utime(image, (1, 1))
    assert datasets.manifest("folder", own_data) == first
    moved = own_data.rename(own_data.with_name("moved"))
    assert datasets.manifest("folder", moved)["sha256"] == first["sha256"]


def test_manifest_changes_with_content_name_and_number_of_files(own_data):
    folder, seen = own_data / "folder" / "images", [datasets.manifest("folder", own_data)["sha256"]]
    content = (folder / "case1.png").read_bytes()
    changed = content[:-1] + bytes([content[-1] ^ 1])
    (folder / "case1.png").write_bytes(changed)  # the same size, written within the clock's step
    seen.append(datasets.manifest("folder", own_data)["sha256"])
    (folder / "case1.png").rename(folder / "case3.png")
    seen.append(datasets.manifest("folder", own_data)["sha256"])
    (folder / "case2.png").unlink()
    seen.append(datasets.manifest("folder", own_data)["sha256"])
    assert len(set(seen)) == 4


def test_manifest_reads_no_unchanged_file_twice_and_survives_a_broken_cache(own_data, tmp_path, monkeypatch):
    from covidcxr.datasets import manifests

    for path in (own_data / "folder" / "images").iterdir():
        os.utime(path, (1000, 1000))
    first = datasets.manifest("folder", own_data)
    hashed = []
    monkeypatch.setattr(manifests, "_hash_file", lambda item, work=manifests._hash_file: hashed.append(item) or work(item))
    assert datasets.manifest("folder", own_data) == first and not hashed
    for path in (tmp_path / "cache" / "manifests").iterdir():
        path.write_text("{broken")
    assert datasets.manifest("folder", own_data) == first and len(hashed) == 2


def test_manifest_of_a_phantom_says_so(phantom_smoke):
    manifest = datasets.manifest("mosmeddata", PHANTOM)
    assert manifest["data"] == "phantom" and manifest["licence"] == "synthetic"


def test_manifest_leaves_out_hidden_and_unfinished_files_and_ends_on_links_in_a_circle(own_data):
    first = datasets.manifest("folder", own_data)
    folder = own_data / "folder"
    (folder / ".downloads").mkdir()
    (folder / ".downloads" / "receipt.json").write_text("{}")
    (folder / "archive.zip.part").write_text("half")
    (folder / "images" / "again").symlink_to(folder, target_is_directory=True)
    assert datasets.manifest("folder", own_data) == first


# ---- a user's folder -------------------------------------------------------------------------------------------------


def test_a_users_folder_with_masks_and_table(tmp_path):
    save_image(tmp_path / "images" / "a.b.png", np.full((6, 8), 51))
    save_image(tmp_path / "images" / "c.png", np.zeros((6, 8, 3)) + [255, 0, 0])
    save_image(tmp_path / "images" / "left_out.png", np.zeros((6, 8)))
    left = np.zeros((6, 8))
    left[1:3, 5:7] = 1
    save_image(tmp_path / "masks" / "left_lung" / "a.b.png", left)
    save_image(tmp_path / "masks" / "right_lung" / "a.b.png", left[:, ::-1] * 255)
    (tmp_path / "cases.csv").write_text("case,patient,icu,age,finding,scanner\na.b,P1,yes,61.5,covid,X\nc,P1,,,normal,\n")
    dataset = datasets.open("folder", tmp_path)  # the folder itself may be given
    table = dataset.cases().set_index("case")
    assert table.index.tolist() == ["a.b", "c"] and table.patient.tolist() == ["P1", "P1"]
    assert table.finding.tolist() == ["COVID-19", "no finding"] and table.covid.tolist() == [True, False]
    assert table.icu["a.b"] and table.icu["c"] is pandas.NA and table.age["a.b"] == 61.5 and table.scanner["a.b"] == "X"
    assert dataset.mask("a.b", "lung").sum() == 8 and dataset.mask("a.b", "left_lung").sum() == 4
    np.testing.assert_allclose(dataset.image("a.b"), 0.2)
    np.testing.assert_allclose(dataset.image("c"), 0.299, rtol=1e-6)  # luminance of pure red
    with pytest.raises(InputError, match="case c has no mask"):
        dataset.mask("c", "left_lung")


def test_a_union_takes_the_parts_that_a_case_has(tmp_path):
    for case in ("a", "b"):
        save_image(tmp_path / "images" / f"{case}.png", np.zeros((4, 4)))
    top, left = np.zeros((4, 4)), np.zeros((4, 4))
    top[0], left[:, 0] = 1, 1
    save_image(tmp_path / "masks" / "ground_glass" / "a.png", top)
    save_image(tmp_path / "masks" / "consolidation" / "a.png", left)
    save_image(tmp_path / "masks" / "consolidation" / "b.png", left)
    dataset = datasets.open("folder", tmp_path)
    assert dataset.mask("a", "lesion").sum() == 7 and dataset.mask("b", "lesion").sum() == 4
    assert dataset.mask("b", "consolidation").sum() == 4  # no mask is written into by the union of another


@pytest.mark.parametrize(
    "table, message",
    [
        ("case\nmissing\n", "line 2: case 'missing' has no file"),
        ("case,icu\none,perhaps\n", "line 2: column icu is 'perhaps'"),
        ("case,age\none,old\n", "line 2: column age is 'old'"),
        ("case\none\none\n", "line 3: case 'one' is listed twice"),
        ("name\none\n", "column 'case' missing; found name"),
        ("", "not a readable table"),
    ],
)
def test_faults_of_a_users_table_name_the_line(tmp_path, table, message):
    save_image(tmp_path / "images" / "one.png", np.zeros((3, 3)))
    (tmp_path / "cases.csv").write_text(table)
    with pytest.raises(InputError, match=message):
        datasets.open("folder", tmp_path).cases()


def test_two_files_of_one_name_are_refused(tmp_path):
    save_image(tmp_path / "images" / "one.png", np.zeros((3, 3)))
    shutil.copy(tmp_path / "images" / "one.png", tmp_path / "images" / "one.bmp")
    with pytest.raises(InputError, match="two files are called one"):
        datasets.open("folder", tmp_path).cases()


# ---- pictures --------------------------------------------------------------------------------------------------------


def test_stem_keeps_inner_dots_and_takes_nii_gz_as_one_suffix():
    assert stem("images/41591_HTML.webp-day10.png") == "41591_HTML.webp-day10"
    assert stem("x/study_0255.nii.gz") == "study_0255" and stem("volume.v2.nii") == "volume.v2"


@pytest.mark.parametrize("mode", ("L", "RGB", "RGBA", "P", "LA", "I;16", "1"))
def test_every_storage_of_a_grey_picture_reads_the_same(tmp_path, mode):
    grey = np.array([[0, 255, 0], [255, 0, 255]], np.uint8)
    if mode == "I;16":
        picture = Image.fromarray(grey.astype(np.uint16) * 257)
    else:
        picture = Image.fromarray(grey).convert(mode)
    picture.save(tmp_path / "grey.png")
    np.testing.assert_array_equal(read_image(tmp_path / "grey.png"), (grey / 255).astype(np.float32))


def test_damaged_pictures_are_named(tmp_path):
    save_image(tmp_path / "whole.png", np.random.default_rng(0).integers(0, 255, (64, 64)))
    (tmp_path / "half.png").write_bytes((tmp_path / "whole.png").read_bytes()[:1500])
    (tmp_path / "text.png").write_text("no picture")
    for name in ("half.png", "text.png"):
        with pytest.raises(InputError, match=f"{name}: not a readable image"):
            read_image(tmp_path / name)
    with pytest.raises(InputError, match="nothing.png: the image is missing"):
        read_image(tmp_path / "nothing.png")
