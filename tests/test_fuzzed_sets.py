"""Damaged and hostile annotations, data sets and tables (see `fuzzing`)."""

import io
import json
import re
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fuzzing import SIZE, ends_well, is_mask, read_damaged, root_folder, watched, write  # noqa: F401 - fixtures
from mutations import damaged, json_files, tables
from test_datasets_cc_ccii import write_set
from test_datasets_general_blockchain import SHAPES, Builder, coco_content
from test_datasets_labelme import LUNGS, OPACITY, Rural, annotation, picture, shape
from test_datasets_v7 import Builder as V7Builder
from test_datasets_v7 import lungs as darwin_lungs

from covidcxr import datasets, instances, paths, severity, splits, squares
from covidcxr.datasets.coco import CocoMasks
from covidcxr.datasets.darwin import DarwinFile
from covidcxr.datasets.labelme import LabelmeFile
from covidcxr.datasets.opacity_outlines import opacity_kind
from covidcxr.datasets.tables_of_cases import read_csv
from covidcxr.datasets.v7_cxr import annotation_kind
from covidcxr.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore")  # what readers warn of is the files' fault

# ---- annotations ------------------------------------------------------------------------------------------------------

POLYGONS = coco_content(["one.png"], {name: SHAPES[name] for name in ("Left Lung", "Consolidation")}, False)
RUNS = coco_content(["one.png", "two.png"], {"Left Lung": SHAPES["Left Lung"]}, True)
LISTED = {
    **RUNS,
    "tag_categories": [{"id": 1, "name": "COVID-19"}],
    "annotations": [{"id": 1, "image_id": 0, "category_id": 1, "segmentation": {"size": [60, 40], "counts": [100, 300, 2000]}}],
}
LISTED["images"][0]["tag_ids"] = [1]


@pytest.mark.parametrize("content", [POLYGONS, RUNS, LISTED], ids=["polygons", "runs", "listed"])
def test_coco(content, root):
    path = root / "coco.json"

    def read():
        masks = CocoMasks(path, lambda name: name.strip().lower())
        assert all(isinstance(name, str) for name in masks.filenames)
        for name in masks.tags:
            for kind in ("covid-19 left lung", "covid-19 consolidation"):
                if masks.has(name, kind):
                    assert is_mask(masks.mask(name, kind, SIZE))

    read_damaged(150, json_files(content), path, read, path.name)


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ([[0, 0, float("nan"), 0, 5, 5]], "reaches to"),  # these two end the process inside pycocotools
        ([[0, 0, 1e9, 0, 1e9, 1e9]], "far outside an image of 60 x 40"),
        ([[0, 0, 10**400, 0, 5, 5]], "a list of numbers"),
        ({"size": [40, 60], "counts": [5, 5]}, "do not fill the image"),  # pycocotools shows what was in memory before
        ({"size": [40, 60], "counts": ""}, "do not fill the image"),
        ({"size": [40, 60], "counts": [-5, 2405]}, "do not fill the image"),
        ({"size": [40, 60], "counts": [5.5, 2394.5]}, "do not fill the image"),
    ],
)
def test_outlines_that_pycocotools_does_not_survive(segmentation, message, root):
    content = {**POLYGONS, "annotations": [{"id": 4, "image_id": 0, "category_id": 1, "segmentation": segmentation}]}
    path = write(root / "coco.json", json.dumps(content).encode())
    with pytest.raises(InputError, match=f"coco.json: annotation 4.*{message}"):
        CocoMasks(path, str).mask("one", "COVID-19 Left Lung", SIZE)


def darwin_1():
    image = {
        "filename": "one.png",
        "original_filename": "two.png",
        "width": 60,
        "height": 40,
        "url": "https://x/images/7/original",
    }
    return {"image": image, "annotations": [*darwin_lungs(), {"name": "Age:54", "tag": {}}]}


def darwin_2():
    source = {"file_name": "one.png", "url": "https://x/items/images/7/original"}
    slot = {"type": "image", "slot_name": "0", "width": 60, "height": 40, "source_files": [source]}
    return {"version": "2.0", "item": {"name": "one.png", "slots": [slot]}, "annotations": darwin_1()["annotations"]}


@pytest.mark.parametrize("content", [darwin_1(), darwin_2()], ids=["1.0", "2.0"])
def test_darwin(content, root):
    path = root / "darwin.json"

    def read():
        file = DarwinFile(path, annotation_kind)
        assert file.names and all("/" not in name for name in file.names)
        assert all(is_mask(file.mask(kind, SIZE)) for kind in ("lung", "ignore"))

    read_damaged(150, json_files(content), path, read, path.name)


def test_labelme(root):
    path = root / "labelme.json"
    content = annotation(
        [shape(*entry) for entry in LUNGS]
        + [shape("opacity", OPACITY[:2], "rectangle"), shape("opacity", OPACITY[:2], "circle"), shape("x", [], "point")]
    )

    def read():
        file = LabelmeFile(path, opacity_kind)
        assert all(is_mask(file.mask(kind, SIZE)) for kind in file.kinds)
        file.overhang(SIZE)

    read_damaged(200, json_files(content), path, read, path.name)


# ---- whole sets -------------------------------------------------------------------------------------------------------


def blockchain(folder: Path) -> dict[str, str]:
    builder = Builder(folder)
    builder.whole("one.png")
    builder.whole("two.png", 1)
    builder.write(
        "patientid,filename,finding,view,age,sex,offset,survival,went_icu,in_icu,license,url\n"
        "2,one.png,Pneumonia/Viral/COVID-19,PA,65,M,3,Y,N,,CC BY,http://x\n3,two.png,SARS,AP,,F,,N,Y,,,\n"
    )
    return {"structure.csv": "csv", "metadata.csv": "csv", "masks/000.png": "bytes", "images/one.png": "bytes"}


def blockchain_coco(folder: Path) -> dict[str, str]:
    builder = Builder(folder)
    builder.image("one.png")
    write(folder / "annotation" / "results.json", json.dumps(POLYGONS).encode())
    return {"annotation/results.json": "json"}


def rural(folder: Path) -> dict[str, str]:
    made = Rural(folder)
    made.image("COVID-19-AR-1_01-08-2012-XR", [*LUNGS, ("opacity", OPACITY)])
    made.image("COVID-19-AR-1_01-15-2012-XR", LUNGS)
    made.table("COVID-19-AR-1,67,M,1,1,2,0\nCOVID-19-AR-2,40,f,1,0,0,0\n")
    made.table(
        "COVID-19-AR-1,0,XR CHEST AP\nCOVID-19-AR-1,7,XR CHEST PA\n",
        "covid_rural_radiologist_notes.csv",
        "patient_id,Diag to img study (days),Image Study Description\n",
    )
    return {
        "covid_rural_annot/covid_rural_patient_info.csv": "csv",
        "covid_rural_annot/covid_rural_radiologist_notes.csv": "csv",
        "covid_rural_annot/jpgs/jsons/COVID-19-AR-1_01-08-2012-XR.json": "json",
    }


def cohen(folder: Path) -> dict[str, str]:
    for number, name in enumerate(("a.jpeg", "side.png")):
        picture(folder / "images" / name, number)
    (folder / "metadata.csv").write_text(
        "patientid,offset,sex,age,finding,survival,went_icu,in_icu,view,modality,folder,filename,url,license\n"
        "2,0,M,65,Pneumonia/Viral/COVID-19,Y,N,N,PA,X-ray,images,a.jpeg,http://source,CC BY-SA\n"
        "2,3,M,65,todo,N,Y,N,L,X-ray,images,side.png,,\n9,,F,,todo,,,,Axial,CT,volumes,scan.nii.gz,,\n"
    )
    write(folder / "annotations" / "covid-severity-scores.csv", b"filename,geographic_mean,opacity_mean\na.jpeg,3.7,3.0\n")
    content = annotation([shape(*entry) for entry in [*LUNGS, ("opacity", OPACITY)]], "a.jpeg")
    write(folder / "selected_images" / "a.json", json.dumps(content).encode())
    return {"metadata.csv": "csv", "annotations/covid-severity-scores.csv": "csv", "selected_images/a.json": "json"}


def v7(folder: Path) -> dict[str, str]:
    builder = V7Builder(folder)
    for number, name in enumerate(("one.png", "two.png", "three.png")):
        builder.image(name, number)
    builder.darwin("one.png", darwin_lungs(), ("COVID-19", "Age:54", "Sex/F", "Survival:Y"), number=7)
    builder.darwin2("two.png", darwin_lungs(), ("Viral Pneumonia",), number=8)
    mask = np.zeros(SIZE, np.uint8)
    mask[5:30, 5:20], mask[0, 0] = 255, 127
    builder.mask("three.png", mask)
    write(folder / "annotations" / "class_mapping.csv", b"class_idx,class_name\n0,background\n255,Lung\n127,Ignore\n")
    write(
        folder / "v7_map.csv",
        b"v7_id,group,original_filename,width,height,ct,match,lung_polygons\n"
        b"7,covid,one.png,60,40,False,name,2\n8,noncovid,two.png,60,40,False,order,\n",
    )
    return {
        "v7_map.csv": "csv",
        "annotations/class_mapping.csv": "csv",
        "releases/latest/annotations/one.json": "json",
        "annotations/all-images-semantic-masks/three.png": "bytes",
    }


def cc_ccii(folder: Path) -> dict[str, str]:
    write_set(folder, seed=3, patients=(1, 0, 0), segmented=1, spacing_mm=(6.0, 24.0), tips=20)
    return {"lesions_slices.csv": "csv", "unzip_filenames.csv": "csv"}


def own_folder(folder: Path) -> dict[str, str]:
    for name in ("one.png", "two.png"):
        picture(folder / "images" / name)
    picture(folder / "masks" / "lesion" / "one.png")
    write(folder / "cases.csv", b"case,patient,icu,death,age,finding,note\none,1,Y,no,54,COVID-19,a\ntwo,2,,1,,,b\n")
    return {"cases.csv": "csv", "masks/lesion/one.png": "bytes"}


def outcome_tables(folder: Path) -> dict[str, str]:
    write(folder / "covid-severity-scores.csv", b"# comment\nfilename,geographic_mean,opacity_mean\na.jpeg,3.7,3.0\nb.png,1,0\n")
    write(folder / "covid_rural_patient_info.csv", b"PATIENT_ID,AGE,SEX,COVID TEST POSITIVE,ICU Admit,MORTALITY\n1,67,M,1,1,0\n")
    return {"covid-severity-scores.csv": "csv", "covid_rural_patient_info.csv": "csv"}


SETS = {
    "general_blockchain_cxr": blockchain,
    "rural_covid_cxr": rural,
    "cohen_cxr": cohen,
    "v7_cxr": v7,
    "cc_ccii": cc_ccii,
    "folder": own_folder,
    "tables": outcome_tables,
}


def use(name: str, data: Path) -> None:
    """All that a user may ask of a set: its table, images, masks, and what the verifier says."""
    dataset = datasets.open(name, data)
    for row in dataset.cases().to_dict("records"):
        case = row["case"]
        if row["image"] is not None:
            image = ends_well(lambda case=case: dataset.image(case), str(data), name)
            assert image is None or (image.dtype == np.float32 and np.isfinite(image).all())
        for kind in dataset.kinds if row["image"] is not None else ():
            mask = ends_well(lambda case=case, kind=kind: dataset.mask(case, kind), str(data), name, case)
            assert mask is None or mask.dtype == bool
    told = dataset.verify(near_duplicates=False)
    assert str(told).encode()
    for problem in told.problems:  # the verifier takes every error; none may be one of Python's own
        assert not (problem.check == "reading" and re.match(r"[^:]*: \w*(Error|Exception): ", problem.text)), problem.text


@pytest.mark.parametrize(
    ("name", "make"), [*SETS.items(), ("general_blockchain_cxr", blockchain_coco)], ids=[*SETS, "blockchain_coco"]
)
def test_sets(name, make, root):
    data = root / make.__name__
    forms = make(data / name)
    sound = {file: (data / name / file).read_bytes() for file in forms}
    use(name, data)
    for file, form in forms.items():
        content = sound[file]
        strategy = (
            tables(content.decode()) if form == "csv" else json_files(json.loads(content)) if form == "json" else damaged(content)
        )

        read_damaged(6 if make is cc_ccii else 16, strategy, data / name / file, lambda: use(name, data), str(data), name)
        write(data / name / file, content)


def test_rows_with_more_cells_than_columns_are_refused_not_shifted(root):
    path = write(root / "wide.csv", b"case,patient\none,1,\ntwo,2,\n")
    with pytest.raises(InputError, match="wide.csv: its rows have more cells"):
        read_csv(path, ("case",))


def test_tables_of_the_study(root):
    cases = pd.DataFrame({"case": ["a", "b", "c"], "patient": ["1", "2", "3"]})
    readers = {
        "split.csv": (
            lambda path: splits.read(path, cases),
            "case,patient,role,ten\na,1,train,True\nb,2,test,False\nc,3,unused,False\n",
        ),
        "percentages.csv": (
            severity.read_percentages,
            ",".join(severity.COLUMNS) + "\na,x,1,test,manual,3.5,\nb,x,2,train,manual,,7\n",
        ),
        "masks/masks.csv": (lambda path: instances.load_masks(path.parent), "name,file\none,0000.png\ntwo,0001.png\n"),
    }
    for number in range(2):
        picture(root / "masks" / f"000{number}.png")
    for file, (read, text) in readers.items():
        path = write(root / file, text.encode())
        assert read(path) is not None
        read_damaged(100, tables(text), path, partial(read, path), path.name, str(path.parent))


def test_caches_of_squares(root):
    """A damaged cache is made anew, unless only its values are others."""
    own_folder(root / "folder")
    dataset = datasets.open("folder", root / "folder")

    def read():
        pictures = squares.read(dataset, ["one"], 16, kind="lesion", cache=True)
        assert pictures.images.bytes.shape == pictures.masks.shape == (1, 16, 16)
        assert pictures.images[0].dtype == np.float32 and pictures.masks.dtype == bool
        return pictures.digest()

    sound = read()
    (folder,) = (paths.cache_dir() / "squares").iterdir()
    other = io.BytesIO()
    np.save(other, np.zeros((2, 16, 16), bool))
    for file in ("images.npy", "masks.npy"):
        content = (folder / file).read_bytes()
        for wrong in (b"", content[:-1], other.getvalue()):
            write(folder / file, wrong)
            assert read() == sound and (folder / file).read_bytes() == content
        (folder / file).unlink()
        assert read() == sound
        read_damaged(60, damaged(content), folder / file, read, folder.name)
        write(folder / file, content)
    assert list(folder.parent.iterdir()) == [folder], "nothing that was under way is left"
