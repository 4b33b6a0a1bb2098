"""Outlines drawn with labelme, and the two sets that have them: what is read, what is refused, what the verifier tells."""

import json

import numpy as np
import pytest
from PIL import Image

from covidcxr import datasets
from covidcxr.datasets.labelme import LabelmeFile, LabelmeMasks
from covidcxr.datasets.opacity_outlines import opacity_kind
from covidcxr.datasets.rural_covid_cxr import place
from covidcxr.errors import InputError

HEIGHT, WIDTH = 40, 60
RIGHT = [[5, 5], [25, 5], [25, 35], [5, 35]]  # the patient's right lung lies on the image's left
LEFT = [[35, 5], [55, 5], [55, 35], [35, 35]]
OPACITY = [[8, 20], [20, 20], [20, 30], [8, 30]]
LUNGS = [("right_lung", RIGHT), ("left_lung", LEFT)]


def shape(label: str, points, form: str = "polygon") -> dict:
    return {"label": label, "points": points, "group_id": None, "shape_type": form, "flags": {}}


def annotation(shapes: list[dict], image: str = "one.jpg", **other) -> dict:
    return {"version": "4.5.6", "flags": {}, "shapes": shapes, "imagePath": image, "imageData": None,
            "imageHeight": HEIGHT, "imageWidth": WIDTH, **other}


def read(tmp_path, *shapes: dict, **other) -> LabelmeFile:
    path = tmp_path / "one.json"
    path.write_text(json.dumps(annotation(list(shapes), **other)))
    return LabelmeFile(path, opacity_kind)


def area(file: LabelmeFile, kind: str = "opacity") -> np.ndarray:
    return file.mask(kind, (HEIGHT, WIDTH))


# ---- one file --------------------------------------------------------------------------------------------------------


def test_points_are_pixel_corners_and_outlines_of_a_kind_are_united(tmp_path):
    file = read(tmp_path, shape("opacity", OPACITY), shape("haziness", [[30, 0], [60, 0], [60, 40], [30, 40]]))
    expected = np.zeros((HEIGHT, WIDTH), bool)
    expected[20:30, 8:20] = expected[:, 30:] = True
    np.testing.assert_array_equal(area(file), expected)
    assert file.kinds == {"opacity": 2} and not file.notes and not area(file, "left_lung").any()


def test_a_repeated_last_point_and_a_rectangle_make_the_same_mask(tmp_path):
    plain = area(read(tmp_path, shape("opacity", OPACITY)))
    np.testing.assert_array_equal(area(read(tmp_path, shape("opacity", [*OPACITY, OPACITY[0]]))), plain)
    np.testing.assert_array_equal(area(read(tmp_path, shape("opacity", [[20, 30], [8, 20]], "rectangle"))), plain)


def test_a_circle_has_its_area(tmp_path):
    disc = area(read(tmp_path, shape("opacity", [[30, 20], [30, 32]], "circle")))
    assert disc.sum() == pytest.approx(np.pi * 12**2, rel=0.02) and disc[20, 30] and not disc[6, 30]


@pytest.mark.parametrize(("points", "form"), [
    (OPACITY[:2], "polygon"), ([], "polygon"), ([[3, 3], [5, 5], [9, 9]], "polygon"), (OPACITY, "linestrip"),
    (OPACITY[:2], "line"), ([[3, 3]], "point"), ([[4, 4], [4, 4]], "rectangle"),
])
def test_what_encloses_no_area_adds_nothing_and_is_noted(tmp_path, points, form):
    file = read(tmp_path, shape("opacity", points, form), shape("consolidation", OPACITY))
    assert not area(file).any() and area(file, "consolidation").sum() == 120
    (note,) = file.notes
    assert "shape 1 (opacity)" in note and form in note


def test_what_leaves_the_image_is_cut_off_at_its_border(tmp_path):
    file = read(tmp_path, shape("opacity", [[40, -7], [75, -7], [75, 10], [40, 10]]))
    expected = np.zeros((HEIGHT, WIDTH), bool)
    expected[:10, 40:] = True
    np.testing.assert_array_equal(area(file), expected)
    assert file.overhang((HEIGHT, WIDTH)) == {"opacity": 15.0}
    assert read(tmp_path, shape("opacity", [[-0.5, 0], [9, 0], [9, 40.9]])).overhang((HEIGHT, WIDTH)) == {}


def test_an_outline_of_another_image_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"reaches to \(900, 700\), far outside"):
        area(read(tmp_path, shape("opacity", [[800, 700], [900, 700], [850, 600]])))


def test_another_size_is_refused_and_an_unstated_one_taken(tmp_path):
    file = read(tmp_path, shape("opacity", OPACITY), imageWidth=61)
    with pytest.raises(InputError, match="61 x 40 pixels .*, the image has 60 x 40"):
        area(file)
    assert area(read(tmp_path, shape("opacity", OPACITY), imageHeight=None, imageWidth=None)).sum() == 120


def test_the_picture_inside_is_ignored_and_foreign_paths_are_names_only(tmp_path):
    file = read(tmp_path, shape("opacity", OPACITY), imageData="/9j/not base64 at all",
                imagePath="..\\..\\C:\\Users\\somebody\\../../etc/passwd")
    assert area(file).sum() == 120 and file.image_name == "passwd"


@pytest.mark.parametrize("label", ["groud_glass_opacity", "Ground Glass Opacity", " ground-glass-opacities "])
def test_labels_are_read_in_any_case_and_with_any_separator(tmp_path, label):
    assert read(tmp_path, shape(label, OPACITY)).kinds == {"ground_glass": 1}


def test_unknown_labels_are_counted_and_in_no_mask(tmp_path):
    file = read(tmp_path, shape("opasity", OPACITY), shape("opasity", OPACITY), shape("pacemaker", OPACITY))
    assert file.unknown == {"opasity": 2, "pacemaker": 1} and file.kinds == {}


@pytest.mark.parametrize(("content", "message"), [
    (b'{"shapes": [', "not a readable labelme file"),
    (b"\xff\xfe\x00", "not a readable labelme file"),
    (b"[" * 100_000, "not a readable labelme file"),
    (b"[1, 2]", "list `shapes`"),
    (b'{"version": "4.5.6"}', "list `shapes`"),
    (json.dumps(annotation([], imageHeight="40")).encode(), "whole numbers of pixels"),
    (json.dumps(annotation([shape("opacity", [[1, 2], [3, "4"], [5, 6]])])).encode(), "shape 1 .opacity.: points"),
    (json.dumps(annotation([shape("opacity", [[1, 2], [3, float("nan")], [5, 6]])])).encode(), "points must be a list"),
    (json.dumps(annotation([shape("opacity", OPACITY), shape("opacity", OPACITY, "mask")])).encode(), "shape 2 .*'mask' is not"),
    (json.dumps(annotation([shape("opacity", OPACITY, "rectangle")])).encode(), "a rectangle has two points, found 4"),
    (json.dumps(annotation([{"points": OPACITY}])).encode(), "a label and points"),
])
def test_a_damaged_file_is_named_and_spares_the_others(tmp_path, content, message):
    good, bad = tmp_path / "good.json", tmp_path / "bad.json"
    good.write_text(json.dumps(annotation([shape("opacity", OPACITY)])))
    bad.write_bytes(content)
    masks = LabelmeMasks([good, bad], opacity_kind)
    assert masks.mask("good", "opacity", (HEIGHT, WIDTH)).any() and not masks.has("bad", "opacity")
    with pytest.raises(InputError, match=message) as caught:
        masks.mask("bad", "opacity", (HEIGHT, WIDTH))
    assert str(bad) in str(caught.value)


# ---- the rural cohort ------------------------------------------------------------------------------------------------

PATIENTS = "PATIENT_ID,AGE,SEX,COVID TEST POSITIVE,ICU Admit,# ICU admits,MORTALITY\n"


def picture(path, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH)).astype(np.uint8)
    Image.fromarray(noise).save(path, quality=95)


class Rural:
    """Writes a small rural cohort."""

    def __init__(self, folder):
        self.folder = folder
        self.root = folder / "covid_rural_annot"
        self.number = 0

    def image(self, name: str, shapes=None, **other) -> None:
        self.number += 1
        picture(self.root / "jpgs" / f"{name}.jpg", self.number)
        if shapes is not None:
            self.json(name, shapes, **other)

    def json(self, name: str, shapes, **other) -> None:
        (self.root / "jpgs" / "jsons").mkdir(parents=True, exist_ok=True)
        content = annotation([shape(*entry) for entry in shapes], f"{name}.jpg", **other)
        (self.root / "jpgs" / "jsons" / f"{name}.json").write_text(json.dumps(content))

    def table(self, rows: str, name: str = "covid_rural_patient_info.csv", header: str = PATIENTS) -> None:
        (self.root / name).write_text(header + rows)

    def open(self):
        return datasets.open("rural_covid_cxr", self.folder.parent)


@pytest.fixture
def rural(tmp_path) -> Rural:
    made = Rural(tmp_path / "rural_covid_cxr")
    opacities = [("groud_glass_opacity", OPACITY), ("consolidation", [[40, 8], [50, 8], [45, 20]])]
    made.image("COVID-19-AR-1_01-08-2012-XR", [*LUNGS, *opacities])
    made.image("COVID-19-AR-1_01-15-2012-XR", LUNGS)
    made.image("COVID-19-AR-2_01-02-2012-XR", [*LUNGS, ("opacity", OPACITY)])
    made.table("COVID-19-AR-1,67,M,1,1,2,0\nCOVID-19-AR-2,40,f,1,0,0,0\n")
    return made


def found(dataset, severity: str = "warning") -> list[tuple[str, str]]:
    problems = dataset.verify(near_duplicates=False).problems
    return [(p.check, p.text) for p in problems if p.severity == severity and p.check != "counts"]


def test_a_sound_rural_cohort(rural):
    dataset = rural.open()
    table = dataset.cases().set_index("case")
    assert table.patient.tolist() == ["COVID-19-AR-1"] * 2 + ["COVID-19-AR-2"] and table.sex.tolist() == ["M", "M", "F"]
    assert table.icu.tolist() == [True, True, False] and table.death.tolist() == [False] * 3 and table.covid.all()
    assert table.lesion.notna().tolist() == [True, False, True] and (table.lung_outlines == 2).all() and table.annotated.all()
    first, second, _ = table.index
    image, lung, lesion = dataset.image(first), dataset.mask(first, "lung"), dataset.mask(first, "lesion")
    assert image.shape == lung.shape == lesion.shape and lung.sum() == 2 * 20 * 30
    assert dataset.mask(first, "right_lung")[:, :30].sum() == 600 and dataset.mask(first, "ground_glass").sum() == 120
    np.testing.assert_array_equal(lesion, dataset.mask(first, "ground_glass") | dataset.mask(first, "consolidation"))
    assert not dataset.mask(second, "lesion").any()
    assert found(dataset, "error") == found(dataset) == []
    counts = dataset.verify().counts
    assert (counts["annotated images"], counts["images with an opacity"], counts["patients with an outcome"]) == (3, 2, 2)


def test_radiographs_without_outlines_and_outlines_without_radiograph_are_told(rural):
    rural.image("COVID-19-AR-2_01-03-2012-XR")
    rural.json("COVID-19-AR-9_01-03-2012-XR", LUNGS)
    dataset = rural.open()
    assert dataset.verify().counts["annotated images"] == 3
    ((check, text),) = found(dataset)
    assert check == "without outlines" and "1 of 4 radiographs" in text and "COVID-19-AR-2_01-03-2012-XR" in text
    ((check, text),) = found(dataset, "error")
    assert check == "annotation without image" and "COVID-19-AR-9" in text
    with pytest.raises(InputError, match="no labelme file"):
        dataset.mask("COVID-19-AR-2_01-03-2012-XR", "lesion")


def test_outcomes_of_unknown_patients_and_missing_ones_are_told(rural):
    rural.table("COVID-19-AR-1,,M,1,NULL,2,0\nCOVID-19-AR-7,40,F,1,0,0,0\n")
    dataset = rural.open()
    table = dataset.cases()
    assert table.icu.isna().all() and table.age.isna().all()
    assert table.death.tolist()[:2] == [False, False] and table.death.isna().tolist() == [False, False, True]
    name = "covid_rural_patient_info.csv"
    assert found(dataset) == [("outcomes", text) for text in (
        f"no row in {name} for COVID-19-AR-2", f"1 patients of {name} have no radiograph here: COVID-19-AR-7",
        f"COVID-19-AR-1: icu, age missing or unclear in {name}",
    )]


def test_a_patient_listed_twice_is_refused(rural):
    rural.table("COVID-19-AR-1,67,M,1,1,2,0\nCOVID-19-AR-1,67,M,1,0,0,0\n")
    with pytest.raises(InputError, match="'COVID-19-AR-1' is listed twice, again in row 2"):
        rural.open().cases()


def test_the_verifier_tells_every_fault_of_the_outlines_by_file(rural):
    rural.json("COVID-19-AR-1_01-08-2012-XR", [*LUNGS, ("opasity", OPACITY), ("opacity", OPACITY[:2]),
                                              ("opacity", [[40, 20], [75, 20], [75, 30], [40, 30]])], imagePath="../another.jpg")
    rural.json("COVID-19-AR-1_01-15-2012-XR", LUNGS, imageHeight=41)
    rural.json("COVID-19-AR-2_01-02-2012-XR", [("right_lung", RIGHT), ("right_lung", LEFT)])
    dataset = rural.open()
    ((check, text),) = found(dataset, "error")
    assert check == "annotation size" and "COVID-19-AR-1_01-15-2012-XR.json" in text and "60 x 41" in text
    warned = dict(found(dataset))
    assert warned.pop("unknown label").endswith("the label 'opasity', which is in no mask. Did you mean 'opacity'?")
    assert "shape 4 (opacity)" in warned.pop("shape without area")
    assert "opacity by 15 pixels" in warned.pop("outline leaves the image")
    assert "'another.jpg'" in warned.pop("annotation of another image")
    assert warned == {"lung missing": "no left lung is outlined; right lung has 2 outlines"}
    assert dataset.mask("COVID-19-AR-2_01-02-2012-XR", "lung").sum() == 1200  # both lungs all the same
    with pytest.raises(InputError, match="60 x 41"):
        dataset.mask("COVID-19-AR-1_01-15-2012-XR", "lesion")


def test_swapped_lungs_and_lesions_outside_are_told(rural):
    between = [[26, 0], [34, 0], [34, 40]]
    rural.json("COVID-19-AR-1_01-15-2012-XR", [("left_lung", RIGHT), ("right_lung", LEFT), ("opacity", between)])
    assert {check for check, _ in found(rural.open())} == {"sides", "lesion outside lungs"}


def test_unreadable_outlines_do_not_stop_the_others(rural):
    (rural.root / "jpgs" / "jsons" / "COVID-19-AR-2_01-02-2012-XR.json").write_text("{")
    dataset = rural.open()
    ((check, text),) = found(dataset, "error")
    assert check == "unreadable annotation" and "COVID-19-AR-2_01-02-2012-XR.json" in text
    assert dataset.mask("COVID-19-AR-1_01-08-2012-XR", "lesion").any()


def test_the_notes_give_views_and_days_where_they_fit_in_one_way(rural):
    rural.table(
        "COVID-19-AR-1,-7,-150,XR CHEST PA AND LATERAL,a\nCOVID-19-AR-1,0,21,XR CHEST AP ONLY,b\n"
        "COVID-19-AR-1,0,22,CT PE CHEST,c\nCOVID-19-AR-2,3,80,XR CHEST AP PORTABLE,d\n"
        "COVID-19-AR-2,4,99,XR CHEST AP PORTABLE,e\n",
        "covid_rural_radiologist_notes.csv",
        "patient_id,Diag to img study (days),Diagnosis to Imaging time (hrs),Image Study Description,Radiologist KEY FINDINGS\n",
    )
    table = rural.open().cases()
    assert table.view.tolist() == ["PA", "AP", "AP"]
    assert table.day.tolist()[:2] == [-7, 0] and table.day.isna().tolist() == [False, False, True]  # two days would do


def test_placing_dates_beside_examinations():
    from datetime import date

    days = [date(2012, 1, 30), date(2012, 2, 1)]
    assert place(days, [(0, "AP"), (2, "PA"), (7, "AP")]) == [(0, "AP"), (2, "PA")]
    assert place(days, [(0, "AP"), (2, "PA"), (2, "AP")]) == [(0, "AP"), (2, None)]  # two examinations on one day
    assert place(days, [(0, "AP"), (3, "PA")]) == place(days, []) == place([None, days[1]], [(0, "AP")]) == [(None, None)] * 2


# ---- Cohen's collection ----------------------------------------------------------------------------------------------

HEADER = "patientid,offset,sex,age,finding,survival,went_icu,in_icu,view,modality,folder,filename,url,license\n"


@pytest.fixture
def cohen(tmp_path):
    folder = tmp_path / "cohen_cxr"
    rows = [
        "2,0,M,65,Pneumonia/Viral/COVID-19,Y,N,N,PA,X-ray,images,a.pdf-001.jpeg,http://source,CC BY-SA",
        "2,3,M,65,Pneumonia/Viral/COVID-19,N,Y,N,L,X-ray,images,side.png,,",
        "7,,F,,Pneumonia/Viral/SARS,,,,Axial,CT,images,slice.png,,",
        "8,,F,,No Finding,,,,?,X-ray,images,some.png,,",
        "9,,F,,todo,,,,Axial,CT,volumes,scan.nii.gz,,",
    ]
    for number, name in enumerate(("a.pdf-001.jpeg", "side.png", "slice.png", "some.png")):
        picture(folder / "images" / name, number)
    (folder / "metadata.csv").write_text(HEADER + "\n".join(rows) + "\n")
    (folder / "annotations").mkdir()
    (folder / "annotations" / "covid-severity-scores.csv").write_text(
        "## License: CC BY-SA\nfilename,geographic_mean,opacity_mean\na.pdf-001.jpeg,3.7,3.0\n")
    (folder / "selected_images").mkdir()
    content = annotation([shape(*entry) for entry in [*LUNGS, ("opacity", OPACITY)]], "a.pdf-001.jpg")
    (folder / "selected_images" / "a.pdf-001.json").write_text(json.dumps(content))
    return folder


def opened(folder):
    return datasets.open(folder.name, folder.parent)


def test_a_sound_collection(cohen):
    dataset = opened(cohen)
    table = dataset.cases().set_index("case")
    assert table.index.tolist() == ["a.pdf-001", "side", "slice", "some"]  # the volume is not at hand
    assert table.patient.tolist() == ["cohen-2", "cohen-2", "cohen-7", "cohen-8"]
    assert table.modality.tolist() == ["CXR", "CXR", "CT", "CXR"]
    assert table.view.tolist() == ["PA", "lateral", "axial slice", None]
    assert table.frontal.tolist() == [True, False, False, False] and table.annotated.tolist() == [True, False, False, False]
    assert table.geographic_mean.dropna().tolist() == [3.7] and table.opacity_mean.dropna().tolist() == [3.0]
    assert table.icu.tolist()[:2] == [False, True] and table.death.tolist()[:2] == [False, True]
    assert dataset.mask("a.pdf-001", "lesion").sum() == 120 and dataset.mask("a.pdf-001", "lung").sum() == 1200
    with pytest.raises(InputError, match="side has no labelme file"):
        dataset.mask("side", "lesion")
    assert found(dataset, "error") == found(dataset) == []
    counts = dataset.verify().counts
    assert {key: counts[key] for key in ("radiographs", "lateral", "CT", "severity scores", "annotated images")} == {
        "radiographs": 3, "lateral": 1, "CT": 1, "severity scores": 1, "annotated images": 1}


def test_scores_and_outlines_that_do_not_fit_are_told(cohen):
    (cohen / "annotations" / "covid-severity-scores.csv").write_text(
        "filename,geographic_mean,opacity_mean\na.pdf-001.jpeg,9,\nside.png,1,1\nlost.png,1,1\n")
    (cohen / "selected_images" / "gone.json").write_text(json.dumps(annotation([])))
    assert found(opened(cohen), "error") == [
        ("annotation without image", "selected_images/gone.json belongs to no image of metadata.csv"),
        ("value range", "geographic_mean is 9.0, expected 0 to 8"), ("value range", "opacity_mean is None, expected 0 to 6"),
    ]
    assert [check for check, _ in found(opened(cohen))] == ["scores without image", "not frontal"]


def test_a_table_that_leads_out_of_the_folder_is_refused(cohen):
    text = (cohen / "metadata.csv").read_text()
    (cohen / "metadata.csv").write_text(text.replace("images,side.png", "../..,side.png"))
    with pytest.raises(InputError, match="not a path inside"):
        opened(cohen).cases()


def test_a_collection_without_its_table_says_what_to_do(cohen):
    (cohen / "metadata.csv").unlink()
    with pytest.raises(InputError, match="git clone"):
        opened(cohen).cases()
