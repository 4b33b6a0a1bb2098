"""General Blockchain: every quirk of its tables and crops, the COCO layout, and the faults the verifier must name."""

import csv
import json

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from covidcxr import datasets
from covidcxr.datasets.general_blockchain_cxr import ANNOTATION_COLUMNS, class_kind
from covidcxr.errors import InputError

H, W = 40, 60


def ellipse(row: float, column: float, height: float, width: float) -> np.ndarray:
    y, x = np.mgrid[:H, :W]
    return ((y - row) / height) ** 2 + ((x - column) / width) ** 2 <= 1


SHAPES = {
    "Right Lung": ellipse(20, 15, 14, 9),
    "Left Lung": ellipse(20, 44, 14, 9),
    "Ground Glass Opacities": ellipse(24, 14, 5, 4),
    "Consolidation": ellipse(27, 16, 4, 4),
}


class Builder:
    """Writes a small set in the upstream layout."""

    def __init__(self, folder):
        self.folder = folder
        self.rows = []
        for part in ("images", "masks"):
            (folder / part).mkdir(parents=True)

    def image(self, filename: str, seed: int = 0, size=(H, W)) -> None:
        rng = np.random.default_rng(seed)
        coarse = Image.fromarray(rng.integers(30, 220, (7, 9), dtype=np.uint8))
        coarse.resize((size[1], size[0]), Image.Resampling.BICUBIC).save(self.folder / "images" / filename)

    def crop(self, filename: str, name: str, mask: np.ndarray, **changes) -> dict:
        """One row of structure.csv with its crop: RGBA, opaque black background, one colour."""
        rows, columns = np.nonzero(mask.any(axis=1))[0], np.nonzero(mask.any(axis=0))[0]
        top, left, bottom, right = rows[0], columns[0], rows[-1] + 1, columns[-1] + 1
        pixels = np.zeros((bottom - top, right - left, 4), np.uint8)
        pixels[..., 3] = 255
        pixels[mask[top:bottom, left:right], :3] = (0, 0, 3)  # the faintest of colours counts
        path = f"masks/{len(self.rows):03d}.png"
        Image.fromarray(pixels).save(self.folder / path)
        row = {"Filename": filename, "Template Name": name, "Mask": path, "Resolution": f"{mask.shape[1]}x{mask.shape[0]}",
               "Top": top, "Left": left, "Width": right - left, "Height": bottom - top} | changes
        self.rows.append(row)
        return row

    def whole(self, filename: str, seed: int = 0, names=tuple(SHAPES)) -> None:
        self.image(filename, seed)
        for name in names:
            self.crop(filename, name, SHAPES[name])

    def write(self, metadata: str | None = None):
        with open(self.folder / "structure.csv", "w", newline="") as file:
            writer = csv.DictWriter(file, ANNOTATION_COLUMNS)
            writer.writeheader()
            writer.writerows(self.rows)
        if metadata is not None:
            (self.folder / "metadata.csv").write_bytes(metadata.encode("latin-1"))
        return self.open()

    def open(self):
        return datasets.open("general_blockchain_cxr", self.folder.parent)


@pytest.fixture
def builder(tmp_path) -> Builder:
    return Builder(tmp_path / "general_blockchain_cxr")


def problems(dataset, check: str) -> list[str]:
    return [problem.text for problem in dataset.verify().problems if problem.check == check]


def test_crops_are_pasted_where_they_belong(builder):
    builder.whole("one.png")
    dataset = builder.write()
    for name, mask in SHAPES.items():
        np.testing.assert_array_equal(dataset.mask("one", class_kind(name)), mask)
    np.testing.assert_array_equal(dataset.mask("one", "lesion"), SHAPES["Ground Glass Opacities"] | SHAPES["Consolidation"])
    np.testing.assert_array_equal(dataset.mask("one", "lung"), SHAPES["Right Lung"] | SHAPES["Left Lung"])
    assert dataset.verify().ok


def test_rows_of_one_class_are_united_and_empty_masks_left_out(builder):
    builder.whole("one.png", names=("Right Lung", "Left Lung"))
    other = ellipse(12, 13, 8, 10)
    builder.crop("one.png", "Right Lung", other)
    builder.rows.append(dict.fromkeys(ANNOTATION_COLUMNS, "") | {"Filename": "one.png", "Template Name": "Monitoring Probes"})
    dataset = builder.write()
    np.testing.assert_array_equal(dataset.mask("one", "right_lung"), SHAPES["Right Lung"] | other)
    row = dataset.row("one")
    assert len(row["right_lung"]) == 2 and row["monitoring_probes"] is None and row["lesion"] is None
    assert not dataset.mask("one", "lesion").any() and not dataset.mask("one", "monitoring_probes").any()


def test_a_missing_lung_is_told_and_not_invented(builder):
    builder.whole("one.png", names=("Left Lung", "Consolidation"))
    dataset = builder.write()
    row = dataset.row("one")
    assert row["right_lung"] is None and not row["lungs_complete"]
    np.testing.assert_array_equal(dataset.mask("one", "lung"), SHAPES["Left Lung"])
    assert problems(dataset, "lung missing") == ["no right lung is outlined"]


def test_metadata_gives_patients_outcomes_and_licences(builder):
    for number, name in enumerate(("a-day0.png", "a-day5.png", "b-PA.png", "loose-PA.png", "loose-day3.png")):
        builder.whole(name, number, names=("Left Lung", "Right Lung"))
    header = "patientid,offset,sex,age,finding,survival,went_icu,in_icu,view,filename,url,license,location"
    rows = [
        'p7,0,m,65,COVID-19,Y,,Y,PA,a-day0.png,https://a.example,CC BY,"H\xf4pital"',  # latin-1, as the real table
        "p7,5,M,65,COVID-19,Y,N,,AP,a-day5.png,,,",
        'p8,,F,,"COVID-19, ARDS",N,Y,Y,PA,b-PA.png,,,',
    ]
    table = builder.write("\n".join([header, *rows])).cases().set_index("case")
    assert table.patient.tolist() == ["cohen-p7", "cohen-p7", "cohen-p8", "file-loose", "file-loose"]
    assert table.icu.tolist()[:3] == [True, False, True] and table.icu.isna().tolist()[3:] == [True, True]
    assert table.death.tolist()[:3] == [False, False, True]
    assert table.finding.tolist()[:3] == ["COVID-19", "COVID-19", "COVID-19 with ARDS"] and table.covid.tolist()[:3] == [True] * 3
    assert table.licence["a-day0"] == "CC BY" and table.licence["b-PA"].startswith("not stated")
    assert table.sex["a-day0"] == "M" and table.day["a-day5"] == 5


def test_images_of_other_findings_are_counted_in_a_warning(builder):
    for number, name in enumerate(("a.png", "b.png", "c.png")):
        builder.whole(name, number, names=("Left Lung", "Right Lung"))
    dataset = builder.write("patientid,filename,finding\n1,a.png,COVID-19\n2,b.png,SARS\n3,c.png,\n")
    assert problems(dataset, "not COVID-19") == ["1 of 3 images show something else: SARS 1"]


def coco_content(filenames, shapes, as_rle: bool) -> dict:
    annotations = []
    for image_id, _ in enumerate(filenames):
        for category, (_, mask) in enumerate(shapes.items(), start=1):
            if as_rle:
                code = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
                segmentation = {"size": code["size"], "counts": code["counts"].decode()}
            else:
                rows, columns = np.nonzero(mask)
                segmentation = [[float(v) for x, y in _outline(rows, columns) for v in (x, y)]]
            annotations.append(
                {"id": len(annotations), "image_id": image_id, "category_id": category, "segmentation": segmentation}
            )
    return {
        "images": [{"id": i, "file_name": f"images/{name}", "height": H, "width": W} for i, name in enumerate(filenames)],
        "categories": [{"id": i, "name": f"COVID-19 {name}"} for i, name in enumerate(shapes, start=1)],
        "annotations": annotations,
    }


def _outline(rows, columns):
    """Border of a convex set of pixels, around their corners."""
    lines = [(row, columns[rows == row].min(), columns[rows == row].max() + 1) for row in np.unique(rows)]
    right = [(end, y) for row, _, end in lines for y in (row, row + 1)]
    left = [(start, y) for row, start, _ in reversed(lines) for y in (row + 1, row)]
    return right + left


@pytest.mark.parametrize("as_rle", (True, False))
def test_the_coco_file_gives_the_masks_of_the_crops(builder, as_rle):
    builder.whole("one.png")
    builder.write()
    (builder.folder / "annotation").mkdir()
    content = coco_content(["one.png"], SHAPES, as_rle)
    (builder.folder / "annotation" / "results.json").write_text(json.dumps(content))
    dataset = builder.open()
    for name, expected in SHAPES.items():
        kind = class_kind(name)
        mask, crops = dataset.mask("one", kind), dataset.mask_from_crops("one", kind, (H, W))
        np.testing.assert_array_equal(crops, expected)
        overlap = (mask & crops).sum() / (mask | crops).sum()
        assert overlap == 1 if as_rle else overlap > 0.93  # a polygon is rasterised with rounding at its border
    assert problems(dataset, "COCO against crops") == []


def test_the_coco_file_is_the_one_used_and_a_disagreement_is_told(builder):
    builder.whole("one.png")
    builder.write()
    (builder.folder / "annotation").mkdir()
    shifted = {name: np.roll(mask, 4, axis=1) for name, mask in SHAPES.items()}
    (builder.folder / "annotation" / "results.json").write_text(json.dumps(coco_content(["one.png"], shifted, True)))
    dataset = builder.open()
    np.testing.assert_array_equal(dataset.mask("one", "left_lung"), shifted["Left Lung"])
    assert len(problems(dataset, "COCO against crops")) == len(SHAPES)


def test_the_coco_file_alone_is_enough(builder):
    builder.image("one.png")
    (builder.folder / "annotation").mkdir()
    (builder.folder / "annotation" / "results.json").write_text(json.dumps(coco_content(["one.png"], SHAPES, True)))
    dataset = builder.open()
    np.testing.assert_array_equal(dataset.mask("one", "lesion"), SHAPES["Ground Glass Opacities"] | SHAPES["Consolidation"])
    assert dataset.row("one")["lesion"] == ["annotation/results.json"] * 2
    assert dataset.verify().ok, str(dataset.verify())


@pytest.mark.parametrize(
    "content, message",
    [
        ("{", "not a readable COCO file"),
        ('{"images": [], "categories": []}', "annotations"),
        ('{"images": [{"id": 1, "file_name": "one.png", "height": 40, "width": 60}], '
         '"categories": [{"id": 1, "name": "Left Lung"}], '
         '"annotations": [{"id": 9, "image_id": 2, "category_id": 1, "segmentation": []}]}', "annotation 9 belongs to image 2"),
    ],
)
def test_a_broken_coco_file_is_named(builder, content, message):
    builder.image("one.png")
    (builder.folder / "annotation").mkdir()
    (builder.folder / "annotation" / "results.json").write_text(content)
    with pytest.raises(InputError, match=f"results.json.*{message}"):
        builder.open().cases()


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"Left": 50}, "out of bounds"),
        ({"Top": -3}, "out of bounds"),
        ({"Width": 5}, "the table says 5"),
        ({"Resolution": "61x40"}, "the image has 60 x 40"),
    ],
)
def test_a_crop_that_does_not_fit_is_an_error_with_its_line(builder, changes, message):
    builder.whole("one.png", names=("Left Lung",))
    builder.crop("one.png", "Right Lung", SHAPES["Right Lung"], **changes)
    dataset = builder.write()
    with pytest.raises(InputError, match=f"line 3.*{message}"):
        dataset.mask("one", "right_lung")
    verification = dataset.verify()
    assert not verification.ok and [problem.case for problem in verification.errors] == ["one"]
    assert message in str(verification) and "NOT OK: 1 errors" in str(verification)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"Template Name": "Spleen"}, "line 2: unknown class 'Spleen'"),
        ({"Resolution": "wide"}, "line 2: Resolution"),
        ({"Mask": "../../secret.png"}, "line 2: '../../secret.png' is not a path inside"),
        ({"Filename": "/etc/one.png"}, "'/etc/one.png' is not a path inside"),
    ],
)
def test_a_row_that_makes_no_sense_is_an_error_with_its_line(builder, changes, message):
    builder.image("one.png")
    builder.crop("one.png", "Left Lung", SHAPES["Left Lung"], **changes)
    dataset = builder.write()
    with pytest.raises(InputError, match=message):
        dataset.cases()
    assert [problem.check for problem in dataset.verify().errors] == ["layout"]


def test_missing_and_unused_files_are_listed(builder):
    builder.whole("one.png", 1)
    builder.whole("two.png", 2)
    dataset = builder.write()
    (builder.folder / "images" / "two.png").unlink()
    (builder.folder / builder.rows[0]["Mask"]).unlink()
    (builder.folder / "masks" / "stray.png").write_bytes(b"x")
    verification = dataset.verify()
    assert verification.missing == ["images/two.png", builder.rows[0]["Mask"]]
    assert verification.unused == ["masks/stray.png"]
    assert {problem.check for problem in verification.errors} >= {"missing file"}
    assert len(verification.present) == len(verification.required) - 2


def test_an_empty_mask_and_a_mirrored_image_are_warned_of(builder):
    builder.image("one.png")
    builder.crop("one.png", "Left Lung", SHAPES["Right Lung"])
    builder.crop("one.png", "Right Lung", SHAPES["Left Lung"])
    row = builder.crop("one.png", "Consolidation", SHAPES["Consolidation"])
    Image.new("RGBA", (row["Width"], row["Height"]), (0, 0, 0, 255)).save(builder.folder / row["Mask"])
    dataset = builder.write()
    assert [text for text in problems(dataset, "empty mask")] == ["the mask of consolidation has no foreground"]
    assert "mirrored" in problems(dataset, "sides")[0]


def test_one_image_under_two_patients_is_found_exact_and_nearly(builder):
    builder.whole("first.png", 1)
    builder.whole("second.png", 2)
    builder.whole("third.png", 3)
    (builder.folder / "images" / "second.png").write_bytes((builder.folder / "images" / "first.png").read_bytes())
    copy = np.asarray(Image.open(builder.folder / "images" / "third.png"))
    builder.whole("fourth.jpg", 4)
    Image.fromarray((copy * 0.8 + 20).astype(np.uint8)).save(builder.folder / "images" / "fourth.jpg", quality=60)
    verification = builder.write().verify()
    assert verification.same_images == [("first", "second"), ("fourth", "third")]
    assert {problem.check for problem in verification.warnings} >= {"duplicate across patients", "near-duplicate across patients"}
    assert verification.ok
