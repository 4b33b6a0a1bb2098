"""No file, however damaged or hostile, ends otherwise than in a valid result or in an error that names it.

Each test damages a small sound file in many ways (`mutations`) and reads it as a user would. Seeds are fixed. To look longer
and elsewhere, multiply the number of examples; seeds are then drawn anew, and hypothesis prints what repeats a failure:

    COVIDCXR_FUZZ=50 python -m pytest -p no:xdist tests/test_fuzzed_readers.py

While a file is read, the memory of the process may grow by `MEMORY`, and no file of the folder `outside`, beside the one that is
read, may be opened.
"""

import gzip
import io
import json
import os
import pickle
import re
import resource
import shutil
import struct
import sys
import tracemalloc
import zipfile
import zlib
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest
import synthetic_profile
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from keras_files import write_keras_h5
from mutations import OUTSIDE, TEXTS, damaged, json_files, tables
from peer_fixtures.peer_weights import FOLDER as PEER_WEIGHTS
from PIL import Image
from test_datasets_cc_ccii import write_set
from test_datasets_dicom import made as dicom
from test_datasets_general_blockchain import SHAPES, Builder, coco_content
from test_datasets_labelme import LUNGS, OPACITY, Rural, annotation, picture, shape
from test_datasets_v7 import Builder as V7Builder
from test_datasets_v7 import lungs as darwin_lungs
from test_training import model

from covidcxr import datasets, instances, lungs, outcomes, parameters, paths, report, severity, splits, study, training, volumes
from covidcxr.datasets import archives, download
from covidcxr.datasets.archives import unpack_zip
from covidcxr.datasets.coco import CocoMasks
from covidcxr.datasets.darwin import DarwinFile
from covidcxr.datasets.images import read_image, read_labels, read_pixels, read_size
from covidcxr.datasets.labelme import LabelmeFile
from covidcxr.datasets.manifests import file_hashes
from covidcxr.datasets.opacity_outlines import opacity_kind
from covidcxr.datasets.tables_of_cases import read_csv
from covidcxr.datasets.v7_cxr import annotation_kind
from covidcxr.errors import CovidcxrError, InputError, ParameterError
from covidcxr.models import checkpoints

pytestmark = pytest.mark.filterwarnings("ignore")  # what readers warn of is the files' fault

MEMORY = 3 << 30  # bytes
SIZE = (40, 60)  # of the pictures, as in the tests whose files are borrowed
TIMES = int(os.environ.get("COVIDCXR_FUZZ", "1"))


def examples(number: int):
    """`settings` for so many examples; the same ones every time, unless more are asked for."""
    return settings(
        max_examples=number * TIMES,
        derandomize=TIMES == 1,
        database=None,
        deadline=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.explicit, Phase.generate, Phase.shrink),
    )


# ---- what is watched -------------------------------------------------------------------------------------------------

STATM = Path("/proc/self/statm")  # on Linux; elsewhere memory is not bounded
OPENED: list[str] = []
WATCHING = False


def watch(event: str, details: tuple) -> None:
    if WATCHING and event == "open" and isinstance(details[0], (str, bytes)):
        OPENED.append(os.fsdecode(details[0]))


@pytest.fixture(scope="module", autouse=True)
def watched():
    """Bounds the memory, and has Python tell of every file that is opened. An audit hook can't be taken away, but can sleep."""
    global WATCHING
    before = resource.getrlimit(resource.RLIMIT_AS)
    if STATM.is_file():
        taken = int(STATM.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY, before[1]))
    sys.addaudithook(watch)
    WATCHING = True
    yield
    WATCHING = False
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A folder for the files of this module, and beside it what they must not lead to."""
    base = tmp_path_factory.mktemp("fuzz")
    (base / "data").mkdir()
    (base / OUTSIDE).mkdir()
    picture(base / OUTSIDE / "one.png")
    (base / OUTSIDE / "one.json").write_text("{}")
    return base / "data"


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COVIDCXR_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def ends_well(read, *names: str):
    """The result, or None where there is an error that a user can understand, which names the file or one of `names`."""
    OPENED.clear()
    try:
        result = read()
    except CovidcxrError as error:
        text = str(error)
        assert any(name in text for name in names), f"{text!r} names none of {names}"
        assert len(text) > 20 and text.encode(), text
        result = None
    assert not [name for name in OPENED if f"/{OUTSIDE}/" in os.path.abspath(name)]
    return result


def write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def read_damaged(number: int, contents: st.SearchStrategy[bytes], path: Path, read, *names: str) -> None:
    """Write so many contents into a file, one after the other, and read each."""

    @examples(number)
    @given(contents)
    def check(content):
        write(path, content)
        ends_well(read, *names)

    check()


def is_mask(mask, size=SIZE) -> bool:
    return mask.dtype == bool and mask.shape == size


# ---- annotations -----------------------------------------------------------------------------------------------------

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


# ---- whole sets ------------------------------------------------------------------------------------------------------


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


# ---- volumes ---------------------------------------------------------------------------------------------------------


def nifti(dtype=np.int16, **changes) -> bytes:
    """A sound NIfTI-1 file of 12 x 10 x 8 voxels; fields of its header may be others."""
    import nibabel

    values = np.full((12, 10, 8), -1000)
    values[3:9, 2:8] = 40
    values = values.clip(0, 255) if dtype is np.uint8 else values
    image = nibabel.Nifti1Image(values.astype(dtype), np.diag([-4.0, -4, 6, 1]))
    content = bytearray(image.to_bytes())
    for place, form, value in changes.values():
        struct.pack_into(form, content, place, *value)
    return bytes(content)


FIELDS = {  # of the header: place, form
    "dim": (40, "<8h"),
    "datatype": (70, "<h"),
    "bitpix": (72, "<h"),
    "pixdim": (76, "<8f"),
    "vox_offset": (108, "<f"),
    "scl_slope": (112, "<f"),
    "scl_inter": (116, "<f"),
    "qform_code": (252, "<h"),
    "sform_code": (254, "<h"),
    "quatern": (256, "<6f"),
    "srow": (280, "<12f"),
    "sizeof_hdr": (0, "<i"),
    "magic": (344, "<4B"),
    "extension": (348, "<4B"),
    "esize": (352, "<2i"),
}
WHOLE = (-32768, -1, 0, 1, 2, 3, 4, 7, 16, 64, 128, 512, 1536, 2304, 32767)
BROKEN = (float("nan"), float("inf"), -1.0, 0.0, 1.0, 352.0, 1e9, 1e18, 3e38, -3e38, 1e-30)


@st.composite
def niftis(draw) -> bytes:
    content = bytearray(nifti(draw(st.sampled_from((np.int16, np.uint8, np.float32, np.float64)))))
    for name in draw(st.lists(st.sampled_from(sorted(FIELDS)), min_size=1, max_size=3)):
        place, form = FIELDS[name]
        old = list(struct.unpack_from(form, content, place))
        values = {"f": BROKEN, "B": range(256), "i": (*WHOLE, -(2**31), 2**31 - 1)}.get(form[-1], WHOLE)
        for index in draw(st.lists(st.integers(0, len(old) - 1), min_size=1, max_size=3)):
            old[index] = draw(st.sampled_from(values))
        struct.pack_into(form, content, place, *old)
    if draw(st.booleans()):
        return draw(damaged(bytes(content)))
    return bytes(content)


def sound_volume(path: Path) -> None:
    volume = volumes.read_volume(path, nan_value=-1000)
    assert volume.voxels.dtype == np.int16 and volume.voxels.size <= volumes.MOST_VOXELS
    assert np.isfinite(volume.affine).all() and min(volume.spacing) > 0


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".hdr"])
def test_volumes(suffix, root):
    path = root / f"scan{suffix}"

    @examples(150)
    @given(niftis(), st.data())
    def check(content, data):
        if suffix == ".nii.gz":
            content = gzip.compress(content, 1)
            content = data.draw(damaged(content)) if data.draw(st.integers(0, 3)) == 0 else content
        if suffix == ".hdr":
            write(path.with_suffix(".img"), content[352:])
            content = content[:344] + (b"ni1\0" if data.draw(st.booleans()) else content[344:348]) + content[348:352]
        write(path, content)
        ends_well(lambda: sound_volume(path), path.name)

    check()


def test_masks_of_volumes(root):
    like = volumes.read_volume(write(root / "like.nii", nifti()))
    path = root / "labels.nii"

    @examples(100)
    @given(niftis())
    def check(content):
        write(path, content)
        mask = ends_well(lambda: volumes.read_mask(path, like), path.name)
        assert mask is None or (mask.dtype == np.uint8 and mask.shape == like.shape)

    check()


def test_a_volume_takes_no_memory_that_its_file_can_not_fill(root):
    terabytes = nifti(dim=(40, "<8h", (3, 32767, 32767, 32767, 1, 1, 1, 1)))
    some = nifti(dim=(40, "<8h", (3, 1000, 1000, 1000, 1, 1, 1, 1)))
    for name, content, message in (
        ("a.nii", terabytes, "not those of a CT"),
        ("a.nii.gz", gzip.compress(terabytes), "not those of a CT"),
        ("b.nii", some, "ends early"),
        ("b.nii.gz", gzip.compress(some), "ends early"),
        ("c.nii", nifti(vox_offset=(108, "<f", (1e12,))), "c.nii"),
    ):
        with pytest.raises(InputError, match=message):
            volumes.read_volume(write(root / name, content))


def test_what_is_hidden_in_little_compressed_data_is_not_unpacked(root):
    bomb = gzip.compress(bytes(64 << 20), 9)
    path = write(root / "bomb.nii.gz", gzip.compress(nifti()) + bomb)
    with pytest.raises(InputError, match="far more than its header promises"):
        volumes.read_volume(path)
    extended = nifti(extension=(348, "<4B", (1, 0, 0, 0)), esize=(352, "<2i", (0, 0)), vox_offset=(108, "<f", (3e8,)))
    write(path, gzip.compress(extended) + bomb)
    tracemalloc.start()
    with pytest.raises(InputError, match="bomb.nii.gz"):
        volumes.read_volume(path)
    assert tracemalloc.get_traced_memory()[1] < 24 << 20
    tracemalloc.stop()


def test_a_header_without_its_voxels_says_which_file_is_missing(root):
    content = nifti()
    write(root / "alone.hdr", content[:344] + b"ni1\0" + bytes(4))
    with pytest.raises(InputError, match=r"alone\.img.*can't be read"):
        volumes.read_volume(root / "alone.hdr")


# ---- pictures --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("suffix", "mode"),
    [
        ("png", "L"),
        ("png", "P"),
        ("png", "RGBA"),
        ("png", "I;16"),
        ("png", "1"),
        ("jpg", "L"),
        ("jpg", "RGB"),
        ("jpg", "CMYK"),
        ("bmp", "RGB"),
        ("tif", "L"),
        ("tif", "F"),
        ("tif", "LAB"),
        ("gif", "P"),
        ("webp", "RGB"),
    ],
)
def test_pictures(suffix, mode, root):
    path = root / f"picture-{suffix}-{mode[0]}.png"
    grey = Image.fromarray(np.random.default_rng(0).integers(0, 255, SIZE, dtype=np.uint8))
    written = io.BytesIO()
    picture = Image.frombytes("LAB", SIZE[::-1], bytes(3 * SIZE[0] * SIZE[1])) if mode == "LAB" else grey.convert(mode)
    picture.save(written, {"jpg": "jpeg", "tif": "tiff"}.get(suffix, suffix))

    def read():
        pixels = read_pixels(path)
        assert pixels.size and pixels.dtype in (np.uint8, np.uint16)
        assert read_size(path) == pixels.shape[:2]
        image = read_image(path)
        assert image.dtype == np.float32 and 0 <= image.min() and image.max() <= 1

    @examples(60)
    @given(damaged(written.getvalue()))
    def check(content):
        write(path, content)
        ends_well(read, path.name)
        ends_well(lambda: read_size(path), path.name)
        ends_well(lambda: read_labels(path), path.name)

    check()


def test_a_picture_of_gigapixels_is_refused_by_its_header(root):
    written = io.BytesIO()
    Image.new("L", (4, 4)).save(written, "png")
    content = bytearray(written.getvalue())
    content[16:24] = struct.pack(">II", 1 << 20, 1 << 20)
    content[29:33] = struct.pack(">I", zlib.crc32(bytes(content[12:29])))
    path = write(root / "giant.png", bytes(content))
    for read in (read_pixels, read_size, read_labels):
        with pytest.raises(InputError, match="giant.png: not a readable image"):
            read(path)


def test_no_program_is_started_for_a_picture(root):
    path = write(root / "page.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    with pytest.raises(InputError, match="page.png: not a readable image"):
        read_pixels(path)


@st.composite
def dicoms(draw) -> bytes:
    """A radiograph of which elements have other values, other types, or are gone."""
    names = (
        "Rows",
        "Columns",
        "BitsAllocated",
        "BitsStored",
        "HighBit",
        "PixelRepresentation",
        "SamplesPerPixel",
        "NumberOfFrames",
        "WindowCenter",
        "WindowWidth",
        "RescaleSlope",
        "RescaleIntercept",
        "PixelPaddingValue",
        "PatientOrientation",
        "ViewPosition",
        "PhotometricInterpretation",
        "VOILUTFunction",
    )
    values = (0, 1, 2, 3, 16, 65535, "", "0", "-1", "1e400", "nan", "x", "L\\F", "A\\B\\C")
    file = dicom()
    for name in draw(st.lists(st.sampled_from(names), max_size=3)):
        try:
            setattr(file, name, draw(st.sampled_from(values)))
        except (ValueError, TypeError, OverflowError):
            continue
    written = io.BytesIO()
    try:
        file.save_as(written, enforce_file_format=True)
    except Exception:  # pydicom does not write everything that others do
        dicom().save_as(written := io.BytesIO(), enforce_file_format=True)
    return draw(damaged(written.getvalue())) if draw(st.booleans()) else written.getvalue()


def test_dicom(root):
    path = root / "one.dcm"
    pydicom.config.settings.writing_validation_mode = pydicom.config.IGNORE

    def read():
        image = read_image(path)
        assert np.isfinite(image).all() and image.shape == read_size(path)

    @examples(200)
    @given(dicoms())
    def check(content):
        write(path, content)
        ends_well(read, path.name)
        ends_well(lambda: read_size(path), path.name)

    check()
    pydicom.config.settings.writing_validation_mode = pydicom.config.RAISE


def test_deflated_dicom_is_refused_before_it_is_unpacked(root):
    file = dicom()
    file.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
    file.save_as(root / "small.dcm", enforce_file_format=True)
    with pytest.raises(InputError, match="small.dcm: deflated"):
        read_size(root / "small.dcm")


# ---- weights and archives --------------------------------------------------------------------------------------------


def weight_files(root: Path) -> dict[str, bytes]:
    write_keras_h5(root / "w.h5", {"conv1": {"kernel": np.arange(6, dtype="float32").reshape(1, 1, 2, 3)}})
    zoo = pickle.dumps({"model": {"a.weight": np.arange(12, dtype="f4").reshape(3, 4)}, "step": 3}, 2)
    return {
        "h5": (root / "w.h5").read_bytes(),
        "zoo": zoo,
        **{name: Path(PEER_WEIGHTS, f"{name}.pth").read_bytes() for name in ("torch_zip", "torch_legacy")},
    }


@pytest.mark.parametrize("form", ["h5", "zoo", "torch_zip", "torch_legacy"])
def test_weights(form, root):
    path = root / f"weights-{form}.pth"

    @examples(150)
    @given(damaged(weight_files(root)[form]))
    def check(content):
        write(path, content)
        tensors = ends_well(lambda: checkpoints.read(path), path.name)
        assert tensors is None or all(array.dtype.kind in "fiub" for array in tensors.values())

    check()


def test_damaged_pickles_inside_an_archive_of_torch(root):
    path = root / "inner.pth"
    with zipfile.ZipFile(Path(PEER_WEIGHTS, "torch_zip.pth")) as old:
        members = {name: old.read(name) for name in old.namelist()}
    (inner,) = [name for name in members if name.endswith("/data.pkl")]

    @examples(200)
    @given(damaged(members[inner]))
    def check(content):
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in members.items():
                archive.writestr(name, content if name == inner else data)
        ends_well(lambda: checkpoints.read(path), path.name)

    check()


class Asks:
    """An array that a pickle asks numpy for without writing it."""

    def __reduce__(self):
        return np._core.multiarray._reconstruct, (np.ndarray, (1 << 40,), b"b")


def test_weights_take_no_memory_that_their_file_can_not_fill(root):
    path = write(root / "asks.pkl", pickle.dumps({"model": {"a": Asks()}}))
    with pytest.raises(InputError, match="asks.pkl is not read: it wants an array of shape"):
        checkpoints.read(path)
    import h5py

    with h5py.File(root / "sparse.h5", "w") as file:
        file.create_dataset("conv1/kernel", (1 << 20, 1 << 20), "f4", chunks=(1024, 1024))
    with pytest.raises(InputError, match="sparse.h5 is not read: conv1/kernel would take"):
        checkpoints.read(root / "sparse.h5")


def zipped(entries: dict[str, bytes]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return content.getvalue()


def files_below(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def test_archives(root):
    path, workspace = root / "set.zip", root / "unpacking"
    workspace.mkdir()
    texts = [name for name in TEXTS if name and not re.search("[\ud800-\udfff]", name)]
    names = st.one_of(
        st.sampled_from(["a", "a/b", "set/one.png", "./a", "/", *texts]),
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8).filter(lambda name: name[0] != "\0"),
    )
    hostile = st.dictionaries(names, st.binary(max_size=40), max_size=4)
    contents = st.one_of(hostile.map(zipped), damaged(zipped({"set/one.txt": b"one" * 50, "set/sub/two.txt": bytes(500)})))

    @examples(120)
    @given(contents)
    def check(content):
        shutil.rmtree(workspace / "set", ignore_errors=True)
        write(path, content)
        before = files_below(root.parent)
        unpacked = ends_well(lambda: unpack_zip(path, workspace / "set", workspace), path.name)
        new = {name for name in files_below(root.parent) - before if not name.startswith("data/unpacking/set")}
        assert not new
        for name, size in (unpacked or {}).items():
            assert (workspace / "set" / name).stat().st_size == size
        assert [part.name for part in workspace.iterdir()] in ([], ["set"])

    check()


def test_a_small_archive_of_very_much_is_refused(root, monkeypatch):
    monkeypatch.setattr(archives, "_LARGEST", 1 << 20)
    path = write(root / "bomb.zip", zipped({f"{number}.txt": bytes(4 << 20) for number in range(3)}))
    with pytest.raises(InputError, match="bomb.zip: unpacked it takes 12 MiB"):
        unpack_zip(path, root / "bomb", root)
    assert not (root / "bomb").exists()


def test_receipts_and_caches_of_hashes(root):
    path = root / "receipt" / "receipt.json"
    sound = {"a.zip": {"sha256": "ab" * 32, "unpacked": {"one.txt": 3}}}
    folder = root / "hashed"
    write(folder / "one.txt", b"one")
    os.utime(folder / "one.txt", (1e9, 1e9))  # hashes of files that have just been written are not kept
    known = file_hashes(folder)
    (cache,) = (paths.cache_dir() / "manifests").glob("hashed-*.json")
    entry = {"one.txt": [3, (folder / "one.txt").stat().st_mtime_ns - 1, "0" * 64]}

    @examples(80)
    @given(json_files(sound), json_files(entry))
    def check(receipt, hashes):
        write(path, receipt)
        for known_part in download._read_receipt(path).values():
            assert download._all_there(folder, known_part.get("unpacked")) in (True, False)
        write(cache, hashes)
        found = ends_well(lambda: file_hashes(folder), str(folder))
        assert set(found) == set(known)

    check()


# ---- parameters ------------------------------------------------------------------------------------------------------

SCHEMA = [
    parameters.Parameter(f"p{number}", annotation, None, "")
    for number, annotation in enumerate(
        ("int", "float", "str", "bool", "list[int]", "list[float]", "list[str]", 'Literal["a", "b"]')
    )
]
YAML = (
    "1", "1e3", "[1, 2]", "a", "!!bool x", "!!int ''", "!!float x", "!!timestamp x", "2020-13-45", "&a [*a]", "{a: 1, a: 2}",
    "? [a]", "!!python/object/apply:os.system [ls]", "'\\ud800'", '"\\ud800"', "[" * 9999, "{a: " * 9999, "- " * 9999, "%YAML 9",
    "a: b: c", "\t", "\0", "\udcff", "!!map [1]", "!!set {a}", "!!binary x", ".nan", ".inf", "0x", "0b2", "1:" * 999 + "1",
    *TEXTS,
)  # fmt: skip


def test_what_the_command_line_sets():
    @examples(400)
    @given(st.sampled_from(SCHEMA), st.one_of(st.sampled_from(YAML), st.text(max_size=12)))
    def check(parameter, text):
        value = ends_well(lambda: parameter.parse(text, "--set stage.p"), "--set stage.p")
        if value is not None:
            json.dumps(value, allow_nan=False, ensure_ascii=False).encode()

    check()


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A small study in a folder of its own."""
    base = tmp_path / "project"
    notebook = {
        "cells": [
            {
                "cell_type": "code",
                "metadata": {"tags": ["parameters"]},
                "source": [
                    "data: str = 'real'  # which\n",
                    "seed: int = 0\n",
                    "rate: float = 0.5\n",
                    "stage_dir: str = ''\n",
                    "mode: Literal['a', 'b'] = 'a'\n",
                    "sizes: list[int] = [1]",
                ],
            },
            {"cell_type": "code", "metadata": {}, "source": "x = 1"},
        ],
        "metadata": {},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    write(base / "notebooks" / "first.ipynb", json.dumps(notebook).encode())
    stages = {  # as study.yaml has them
        "first": {"notebook": "first", "params": {"seed": 3}, "threads": 1, "claims": []},
        "second": {"notebook": "first", "needs": ["first"], "datasets": ["folder"], "files": ["params/smoke.yaml"]},
    }
    write(base / "params" / "study.yaml", json.dumps({"stages": stages}).encode())
    profile = {
        "title": "T",
        "description": "d",
        "data": "real",
        "common": {"seed": 1},
        "stages": {"first": {"rate": 2}},
        "leave_out": [],
    }
    write(base / "params" / "smoke.yaml", json.dumps(profile).encode())
    write(base / "params" / "claims.yaml", b"{papers: {}, claims: []}")
    for name, folder in (("HOME", base), ("OUTPUTS", base / "outputs"), ("DATA", base / "data")):
        monkeypatch.setenv(f"COVIDCXR_{name}", str(folder))
    return base


@pytest.mark.parametrize("name", ["params/smoke.yaml", "params/study.yaml", "notebooks/first.ipynb"])
def test_files_of_parameters(project, name):
    path = project / name
    sound = path.read_bytes()

    def load():
        plan = study.Plan.load("smoke")
        json.dumps([stage.parameters for stage in plan.stages], allow_nan=False)

    load()
    read_damaged(200, json_files(json.loads(sound)), path, load, path.name, "params/", "stage", "notebooks/")


def test_cells_of_parameters(project):
    path = project / "notebooks" / "first.ipynb"
    notebook = json.loads(path.read_bytes())
    source = "".join(notebook["cells"][0]["source"]).encode()

    @examples(200)
    @given(damaged(source))
    def check(cell):
        notebook["cells"][0]["source"] = cell.decode("latin-1")
        write(path, json.dumps(notebook).encode())
        ends_well(lambda: parameters.read_parameters(path), path.name)

    check()


def test_aliases_of_yaml_that_stand_for_more_than_there_is_memory(root):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"] + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    path = write(root / "laughs.yaml", "\n".join(lines).encode())
    with pytest.raises(InputError, match="laughs.yaml can't be read as YAML: its aliases stand for too many values"):
        paths.read_yaml(path)
    with pytest.raises(ParameterError, match="leave_out"):
        study.read_mapping(write(root / "deep.yaml", b"leave_out: " + b"[" * 40 + b"]" * 40), {"other"})


# ---- results ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def profile(tmp_path_factory):
    return synthetic_profile.write(tmp_path_factory.mktemp("outputs") / "pilot")


@pytest.mark.parametrize("name", ["results.json", "run.json", "failure.json"])
def test_the_report(profile, name):
    path = profile / ("lung_segmentation" if name == "failure.json" else "start_here") / name
    sound = path.read_bytes()

    @examples(12)
    @given(json_files(json.loads(sound)))
    def check(content):
        write(path, content)
        report.build(profile)

    check()
    write(path, sound)


def test_what_the_status_reads(project):
    plan = study.Plan.load("smoke")
    stage = plan.stage("first")
    record = {
        "status": "done",
        "stage": "first",
        "seconds": 3.5,
        "started": "2026-01-02",
        "results": None,
        "upstream": {},
        "why": "",
        "how": "",
        "fingerprint": plan.fingerprint(stage),
        "parameters": {"data": "real"},
    }
    failure = {"heading": "h", "cell": "c", "error": "e"}

    @examples(150)
    @given(json_files(record), json_files(failure))
    def check(run, failed):
        write(plan.folder / "first" / "run.json", run)
        write(plan.folder / "first" / "failure.json", failed)
        state = ends_well(lambda: plan.again().state(stage), "first")
        assert isinstance(state.why, str) and state.why.encode() is not None
        outcome = outcomes.read_stage(plan.folder / "first")
        assert all(problem.encode() for problem in outcome.problems)

    check()


# ---- what a training left --------------------------------------------------------------------------------------------


def test_the_record_of_a_training(root):
    path = root / "net.json"

    @examples(100)
    @given(json_files({"key": "k", "made_from": {}, "history": [{"loss": 0.5, "seconds": 1.0}], "files": {}}))
    def check(content):
        write(path, content)
        history = training.read_record(path, "k")
        assert history is None or isinstance(history, list)

    check()


def test_the_state_of_an_interrupted_training(tmp_path):
    """A damaged state is as good as none: training begins anew."""
    net = model()
    path = tmp_path / "net.progress.npz"
    progress = training._Progress(net, path, "k", 5, 1, None, False)
    net.optimizer.build(net.trainable_variables)
    progress.history = [{"loss": 0.5, "seconds": 1.0, "learning_rate": 0.1}]
    progress.save()
    sound = path.read_bytes()
    assert progress.resume() == 1

    @examples(50)
    @given(damaged(sound))
    def check(content):
        write(path, content)
        assert progress.resume() in (0, 1)

    @examples(100)
    @given(json_files({"key": "k", "history": progress.history, "state": len(progress.state()), "best": 0}))
    def check_about(about):
        with np.load(io.BytesIO(sound)) as stored:
            arrays = {name: stored[name] for name in stored.files}
        np.savez(path, **arrays | {"about": np.frombuffer(about, np.uint8)})
        assert progress.resume() >= 0

    check()
    check_about()


def test_the_card_of_a_lung_network(root, monkeypatch):
    path = root / "lungs" / lungs.CARD

    class Network:
        def load_weights(self, file):
            assert file.resolve().is_relative_to(path.parent)
            raise OSError("there are none")

    monkeypatch.setattr("covidcxr.models.lung_unet.lung_unet", lambda **_: Network())

    @examples(100)
    @given(json_files({"weights": f"../../{OUTSIDE}/one.json", "network": {}, "size": 64, "threshold": 0.5}))
    def check(content):
        write(path, content)
        assert ends_well(lambda: lungs.LungModel.of_stage(path.parent), str(path.parent)) is None

    check()
