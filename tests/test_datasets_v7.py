"""V7's radiographs: every public form of its annotations, tags, the paper's rule, and the faults the verifier must name."""

import json
import shutil

import numpy as np
import pandas
import pytest
from PIL import Image

from covidcxr import datasets
from covidcxr.datasets.darwin import DarwinFile
from covidcxr.datasets.v7_cxr import annotation_kind, kermany, table1
from covidcxr.datasets.v7_tags import read_tags
from covidcxr.errors import InputError

H, W = 40, 60


def rectangle(top: int, left: int, bottom: int, right: int) -> np.ndarray:
    mask = np.zeros((H, W), bool)
    mask[top:bottom, left:right] = True
    return mask


def corners(top: int, left: int, bottom: int, right: int) -> list[dict]:
    """The same rectangle as Darwin writes it: pixels on the border."""
    return [{"x": x, "y": y} for x, y in ((left, top), (right - 1, top), (right - 1, bottom - 1), (left, bottom - 1))]


RIGHT, LEFT, IGNORED = (5, 8, 35, 25), (5, 34, 35, 52), (10, 12, 14, 16)
LUNG = (rectangle(*RIGHT) | rectangle(*LEFT)) & ~rectangle(*IGNORED)


def shapes(*names_and_paths) -> list[dict]:
    return [{"name": name, "polygon": {"path": path}} for name, path in names_and_paths]


def lungs() -> list[dict]:
    return shapes(("Lung", corners(*RIGHT)), ("Lung", corners(*LEFT)), ("Ignore", corners(*IGNORED)))


class Builder:
    """Writes a small set in V7's public forms."""

    def __init__(self, folder):
        self.folder = folder
        (folder / "images").mkdir(parents=True)

    def image(self, name: str, seed: int = 0, size=(H, W)) -> None:
        coarse = Image.fromarray(np.random.default_rng(seed).integers(30, 220, (7, 9), dtype=np.uint8))
        path = self.folder / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse.resize((size[1], size[0]), Image.Resampling.BICUBIC).save(path)

    def darwin(self, name: str, annotations: list[dict], tags=(), number: int = 7, original: str = "", size=(H, W)) -> None:
        """A file of version 1.0, as the COVID-19 images have it."""
        image = {"filename": name, "original_filename": original or name, "width": size[1], "height": size[0],
                 "url": f"https://darwin.v7labs.com/api/images/{number}/original?token=x"}
        self.json(name, {"image": image, "annotations": annotations + [{"name": tag, "tag": {}} for tag in tags]})

    def darwin2(self, name: str, annotations: list[dict], tags=(), number: int = 7) -> None:
        source = {"file_name": name, "url": f"https://darwin.v7labs.com/api/v2/teams/x/items/images/{number}/original"}
        slot = {"type": "image", "slot_name": "0", "width": W, "height": H, "source_files": [source]}
        tagged = [{"id": "a", "name": tag, "tag": {}, "slot_names": []} for tag in tags]
        self.json(name, {"version": "2.0", "item": {"name": name, "slots": [slot]}, "annotations": annotations + tagged})

    def json(self, name: str, content) -> None:
        path = self.folder / "releases" / "latest" / "annotations" / f"{name.rpartition('.')[0]}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))

    def mask(self, name: str, labels: np.ndarray, folder: str = "annotations/all-images-semantic-masks") -> None:
        (self.folder / folder).mkdir(parents=True, exist_ok=True)
        Image.fromarray(labels).save(self.folder / folder / name)

    def open(self):
        return datasets.open("v7_cxr", self.folder.parent)


@pytest.fixture
def builder(tmp_path) -> Builder:
    return Builder(tmp_path / "v7_cxr")


def problems(dataset, check: str) -> list[str]:
    return [problem.text for problem in dataset.verify().problems if problem.check == check]


# ---- forms of annotation ---------------------------------------------------------------------------------------------


def test_darwin_of_both_versions_gives_the_lungs_without_what_is_to_be_ignored(builder):
    builder.image("00000001.png")
    builder.darwin("00000001.png", lungs(), ["COVID-19"])
    builder.image("b/two.png", 1)
    paths = [
        {"name": each["name"], "polygon": {"paths": [each["polygon"]["path"]]}, "bounding_box": {"x": 0}} for each in lungs()
    ]
    builder.darwin2("two.png", paths, ["Viral Pneumonia"])
    dataset = builder.open()
    for case in ("00000001", "b/two"):
        np.testing.assert_array_equal(dataset.mask(case, "lung"), LUNG)
        np.testing.assert_array_equal(dataset.mask(case, "ignore"), rectangle(*IGNORED))
    assert dataset.cases().form.tolist() == ["darwin", "darwin"] and dataset.verify().ok


def test_a_path_within_another_is_a_hole_and_outlines_belong_to_the_mask(builder):
    outer, inner = (5, 8, 35, 52), (15, 20, 25, 40)
    for number, shape in enumerate(({"complex_polygon": {"path": [corners(*outer), corners(*inner)]}},
                                    {"polygon": {"paths": [corners(*outer), corners(*inner)]}})):
        builder.darwin(f"{number}.png", [{"name": "Lung", **shape}])
        file = DarwinFile(builder.folder / f"releases/latest/annotations/{number}.json", annotation_kind)
        mask = file.mask("lung", (H, W))
        within = rectangle(16, 21, 24, 39)  # the hole's own border is drawn, and so filled
        np.testing.assert_array_equal(mask, rectangle(*outer) & ~within)


def test_grey_masks_are_found_by_any_name_of_the_image(builder):
    labels = np.where(LUNG, 255, np.where(rectangle(*IGNORED), 127, 0)).astype(np.uint8)
    for number, (image, mask) in enumerate((("one.png", "one"), ("00000002.png", "1676002"), ("00000003.png", "uploaded"))):
        builder.image(image, number)
        builder.darwin(image, [], ["COVID-19"], number=1676000 + number + 1, original="uploaded.jpg" if number == 2 else "")
        builder.mask(f"{mask}.png", labels)
    dataset = builder.open()
    assert dataset.cases().form.tolist() == ["mask"] * 3
    for case in dataset.cases().case:
        np.testing.assert_array_equal(dataset.mask(case, "lung"), LUNG)
        np.testing.assert_array_equal(dataset.mask(case, "ignore"), rectangle(*IGNORED))


def test_a_table_of_classes_says_what_grey_values_mean(builder):
    builder.image("one.png")
    builder.mask("one.png", np.where(LUNG, 2, 0).astype(np.uint8), "masks")
    (builder.folder / "class_mapping.csv").write_text("class_idx,class_name\n0,__background__\n1,Ignore\n2,Lung\n")
    dataset = builder.open()
    np.testing.assert_array_equal(dataset.mask("one", "lung"), LUNG)
    assert dataset.verify().ok and dataset.cases().excluded.tolist() == [None]


def test_coco_as_darwin_exports_it_has_tags_and_run_lengths_with_width_first(builder):
    builder.image("one.png")
    (top, left, bottom, right), counted_from_edges = LEFT, []
    for x, y in ((left, top), (right, top), (right, bottom), (left, bottom)):
        counted_from_edges += [x, y]
    columns = rectangle(*RIGHT).ravel(order="F")
    edges = np.flatnonzero(np.diff(columns)) + 1
    counts = np.diff([0, *edges, columns.size]).tolist()
    content = {
        "images": [{"id": 1, "file_name": "one.png", "height": H, "width": W, "tag_ids": [5, 6]}],
        "categories": [{"id": 0, "name": "Lung"}],
        "tag_categories": [{"id": 5, "name": "Bacterial Pneumonia"}, {"id": 6, "name": "Age:3"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 0, "segmentation": [counted_from_edges], "iscrowd": 0},
                        {"id": 2, "image_id": 1, "category_id": 0, "segmentation": {"counts": counts, "size": [W, H]}}],
    }
    (builder.folder / "output.json").write_text(json.dumps(content))
    dataset = builder.open()
    row = dataset.row("one")
    assert (row["form"], row["finding"], row["covid"], row["age"]) == ("coco", "bacterial pneumonia", False, 3)
    np.testing.assert_array_equal(dataset.mask("one", "lung"), rectangle(*RIGHT) | rectangle(*LEFT))
    assert not dataset.mask("one", "ignore").any() and dataset.verify().ok
    assert table1(dataset.listed()).images.tolist() == [1, 0, 1, 1, 0, 1, 0]


def test_polygons_give_the_grey_masks_of_the_phantom_back(phantom_smoke, tmp_path):
    shutil.copytree(phantom_smoke / "v7_cxr", tmp_path / "v7_cxr", ignore=shutil.ignore_patterns("all-images-semantic-masks"))
    grey, drawn = datasets.open("v7_cxr", phantom_smoke), datasets.open("v7_cxr", tmp_path)
    assert set(grey.cases().form) == {"mask"} and set(drawn.cases().form) == {"darwin"}
    for case in grey.cases().case:
        for kind in ("lung", "ignore"):
            np.testing.assert_array_equal(grey.mask(case, kind), drawn.mask(case, kind))
    assert grey.cases().excluded.tolist() == drawn.cases().excluded.tolist()


# ---- tags, patients, the paper's rule --------------------------------------------------------------------------------


def test_tags_become_columns_and_unknown_ones_are_kept():
    tags = ["COVID-19", "Viral Pneumonia", "X-ray", "View/AP_Supine", "Sex/F", "Age:54", "PatientID:313a", "In_ICU_scan/Y",
            "Survival/N", "Lymphocyte_count_on_admission:0.7", "location:Rome, Italy", "Pacemaker", "Age:old"]
    columns, unknown = read_tags(tags)
    assert unknown == ["Pacemaker", "Age:old"]
    assert columns.pop("lymphocyte_count") == 0.7 and not columns.pop("ards")
    assert columns == {
        "covid": True, "finding": "COVID-19", "modality": "CXR", "view": "AP Supine", "sex": "F", "patient_id": "313a",
        "icu": True, "death": True, "location": "Rome, Italy",
    }
    assert read_tags(["No Pneumonia (healthy)"])[0] == {"covid": False, "ards": False, "finding": "no finding"}
    assert read_tags(["ARDS", "COVID-19"])[0]["finding"] == "COVID-19 with ARDS"
    assert read_tags([]) == ({}, [])


def test_patients_are_known_by_tag_or_by_the_collections_file_names(builder):
    uploaded = {"person12_bacteria_47.jpeg": [], "a.png": ["COVID-19", "PatientID:12"], "b.png": ["SARS"]}
    for number, (original, tags) in enumerate(uploaded.items()):
        builder.image(f"{number}.png", number)
        builder.darwin(f"{number}.png", lungs(), tags, number=number, original=original)
    table = builder.open().cases()
    assert table.patient.tolist() == ["kermany-person12", "cohen-12", "file-b"]
    assert table.collection.tolist() == ["Kermany", "Cohen", "Cohen"]
    assert table.finding.tolist() == ["bacterial pneumonia", "COVID-19", "SARS"] and table.covid.tolist() == [False, True, False]
    assert kermany("NORMAL2-IM-0123-0001.jpeg") == ("kermany-NORMAL2-IM-0123", "no finding") and kermany("x.png") == (None, None)


def test_pictures_that_the_paper_leaves_out_are_told_with_the_reason(builder):
    for number, (tags, shown) in enumerate(((["CT", "COVID-19"], []), (["View/L", "COVID-19"], []), (["COVID-19"], []),
                                            (["COVID-19"], lungs()), (["Bacterial Pneumonia"], lungs()))):
        builder.image(f"{number}.png", number)
        builder.darwin(f"{number}.png", shown, tags, number=number)
    builder.darwin("5.png", lungs(), ["COVID-19"], number=5)  # listed, not here
    builder.image("6.png", 6)  # without any annotation
    dataset = builder.open()
    table = dataset.cases()
    assert table.excluded.tolist() == ["CT slice", "lateral view", "no lung outline", None, None, "no lung outline"]
    assert table1(dataset.listed()).images.tolist() == [6, 5, 1, 3, 2, 1, 3]
    with pytest.raises(InputError, match="case 6 has no mask of kind 'lung'"):
        dataset.mask("6", "lung")
    assert not dataset.mask("2", "lung").any()
    assert problems(dataset, "images not here") == ["1 of 6 images that are listed are not here: 5.png, …"]


def test_table_1_counts_what_is_not_known_apart():
    listed = pandas.DataFrame({"covid": [True, True, False, None], "lung": [True, False, None, True]})
    counted = table1(listed).set_index("status")
    assert counted.images.tolist() == [4, 2, 1, 2, 1, 0, 1]
    assert counted.unknown.tolist() == [0, 1, 1, 1, 1, 2, 1]


def test_the_phantom_has_what_the_rule_leaves_out_and_its_other_sets_patients(phantom_smoke):
    dataset = datasets.open("v7_cxr", "phantom:smoke")
    verification = dataset.verify()
    assert verification.ok and not verification.unused and {each.check for each in verification.warnings} <= {"empty mask"}
    table, truth = dataset.cases(), pandas.read_csv(phantom_smoke / "cohort.csv").set_index("patient")
    assert set(table.excluded.dropna()) == {"CT slice", "lateral view"}
    groups = truth.group[table.patient.astype(int)].to_numpy()
    np.testing.assert_array_equal(table.covid.to_numpy(bool), groups == "covid")
    np.testing.assert_array_equal(table.finding == "no finding", groups == "normal")
    np.testing.assert_array_equal(table.collection == "Cohen", groups == "covid")
    shared = set(datasets.open("general_blockchain_cxr", "phantom:smoke").cases().patient)
    assert shared < set(table.patient) and not table[~table.patient.isin(shared)].covid.any()
    for row in table[table.excluded.isna()].itertuples():
        mask = dataset.mask(row.case, "lung")
        assert mask.shape == dataset.image(row.case).shape and 0.2 < mask.mean() < 0.7


# ---- faults ----------------------------------------------------------------------------------------------------------


def test_a_mask_of_another_size_is_refused_in_every_form(builder):
    builder.image("one.png", size=(H + 1, W))
    builder.darwin("one.png", lungs())
    builder.image("two.png", 1)
    builder.mask("two.png", np.full((H, W + 2), 255, np.uint8))
    dataset = builder.open()
    with pytest.raises(InputError, match="drawn on an image of 60 x 40 .* has 60 x 41"):
        dataset.mask("one", "lung")
    with pytest.raises(InputError, match="40 x 62 pixels"):
        dataset.mask("two", "lung")
    assert {problem.check for problem in dataset.verify().errors} == {"annotation", "mask size"}


def test_damaged_images_masks_and_annotations_are_named_and_the_rest_is_read(builder):
    for number, name in enumerate(("good.png", "torn.png", "mask.png")):
        builder.image(name, number)
        builder.mask(name, np.where(LUNG, 255, 0).astype(np.uint8))
    (builder.folder / "images" / "torn.png").write_bytes(b"\x89PNG\r\n")
    (builder.folder / "annotations/all-images-semantic-masks/mask.png").write_bytes(b"no picture")
    builder.json("broken.png", {"annotations": []})
    dataset = builder.open()
    with pytest.raises(InputError, match=r"torn\.png: not a readable image"):
        dataset.image("torn")
    with pytest.raises(InputError, match=r"mask\.png: not a readable image"):
        dataset.mask("mask", "lung")
    np.testing.assert_array_equal(dataset.mask("good", "lung"), LUNG)
    found = {problem.check for problem in dataset.verify().errors}
    assert found == {"unreadable image", "unreadable mask", "unreadable annotation"}


def test_a_misspelt_covid_19_is_no_covid_19_but_told(builder):
    for number, tag in enumerate(("COVID-19", "Covid 19", "Covid 19", "Viral Pneumonia")):
        builder.image(f"{number}.png")
        builder.darwin(f"{number}.png", lungs(), [tag])
    dataset = builder.open()
    assert dataset.cases().covid.tolist() == [True, False, False, False]
    assert dataset.unknown_tags() == {"Covid 19": 2}


def test_unknown_tags_and_classes_and_masks_that_differ_are_told(builder):
    builder.image("one.png")
    builder.darwin("one.png", lungs() + shapes(("Clavicle", corners(*LEFT))), ["COVID-19", "Pacemaker"])
    builder.mask("one.png", np.where(rectangle(*RIGHT), 255, 0).astype(np.uint8))
    dataset = builder.open()
    assert dataset.row("one")["tags"] == ["COVID-19", "Pacemaker"] and dataset.row("one")["unknown_tags"] == ["Pacemaker"]
    assert problems(dataset, "unknown tag") == ["1 images have the tag 'Pacemaker', which no column understands"]
    assert dataset.unknown_tags() == {"Pacemaker": 1}
    assert problems(dataset, "unknown class") == ["1 files have shapes called 'Clavicle', which are in no mask"]
    assert len(problems(dataset, "mask and polygons differ")) == 1


@pytest.mark.parametrize("content, message", [
    ({"image": {"width": W}, "annotations": []}, "does not name its image"),
    ({"image": {"filename": "a.png", "width": 2.5, "height": 4}, "annotations": []}, "whole numbers of pixels"),
    ({"image": {"filename": "a.png"}, "annotations": [{"tag": {}}]}, "an object with a name"),
    ({"image": {"filename": "a.png"}, "annotations": [{"name": "Lung", "line": {}}]}, "a polygon is expected, found line"),
    ({"image": {"filename": "a.png"}, "annotations": [{"name": "Lung", "polygon": {"path": []}}]}, "without a path"),
    ({"image": {"filename": "a.png"}, "annotations": shapes(("Lung", corners(*LEFT)[:2]))}, "at least three points"),
    ({"image": {"filename": "a.png"}, "annotations": shapes(("Lung", [{"x": 1}] * 3))}, "points with x and y"),
    ({"item": {"name": "a.png", "slots": [{}, {}]}, "annotations": []}, "with one image in it"),
    ([1], "an object with `annotations`"),
])
def test_what_is_wrong_with_a_darwin_file_is_said(content, message, tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=message):
        DarwinFile(path, annotation_kind).mask("lung", (H, W))


def test_a_polygon_far_outside_is_an_error(builder):
    builder.darwin("one.png", shapes(("Lung", corners(5, 5, 30, 500))))
    file = DarwinFile(builder.folder / "releases/latest/annotations/one.json", annotation_kind)
    with pytest.raises(InputError, match="far outside an image of 60 x 40"):
        file.mask("lung", (H, W))


# ---- the real set ----------------------------------------------------------------------------------------------------


def test_the_real_sets_polygons_are_its_grey_masks(real_data):
    """V7 drew its masks from the same polygons."""
    if "v7_cxr" not in datasets.present(real_data):
        pytest.skip("v7_cxr is not at hand")
    dataset = datasets.open("v7_cxr", real_data)
    table = dataset.cases()
    tagged = table[table.tags.notna()]
    assert len(tagged) >= 60 and tagged.covid.all() and tagged.unknown_tags.isna().all()
    for row in tagged.head(12).to_dict("records"):
        mask = dataset.mask(row["case"], "lung")
        drawn = dataset._polygons({**row, "form": "darwin"}, "lung", mask.shape)
        assert np.count_nonzero(mask & drawn) > 0.995 * np.count_nonzero(mask | drawn)
    counts = table1(dataset.listed()).set_index("status")
    assert counts.images[["Total", "COVID", "Semantic Lung Mask Provided & COVID"]].tolist() == [6504, 517, 435]
