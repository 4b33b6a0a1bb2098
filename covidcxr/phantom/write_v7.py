"""The radiographs once more in the public forms of the V7 set, with pictures that a user of it has to leave out.

Both forms in which its annotations are published: Darwin JSON (polygons and tags) beside the images, as `darwin dataset pull`
lays them down, and the grey masks of its repository. As in the public set, COVID-19 images come from one collection and the
others from another, which here differ in file format and contrast; some COVID-19 patients have a lateral view or a CT slice as
well, neither with an outline; and electrodes over the lungs are masked as "Ignore".
"""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from covidcxr.paths import write_atomically
from covidcxr.phantom import beam
from covidcxr.phantom.beam import Technique
from covidcxr.phantom.cohort import V7_SET, Patient, Study, unlabelled
from covidcxr.phantom.grid import Grid
from covidcxr.phantom.lesions import COVID, NORMAL
from covidcxr.phantom.pictures import save_image
from covidcxr.phantom.scan import Scan

RELEASE = "releases/all-images/annotations"
MASKS = "annotations/all-images-semantic-masks"
CLASSES = "class_idx,class_name\n0,__background__\n127,Ignore\n255,Lung\n"
_FIRST_ID = {True: 1_676_000, False: 959_000}  # COVID-19, others
_CT_WINDOW = (-1250.0, 250.0)
_SMALLEST_ELECTRODE = 5.0  # mm; leads are thinner


def write_study(
    folder: Path, patient: Patient, study: Study, place: int, grey: np.ndarray, masks: dict[str, np.ndarray], scan: Scan,
    technique: Technique,
) -> list[dict]:
    """Write one radiograph, and with a patient's first the picture without outline that this patient may have.

    Args:
        folder: the cohort's root. place: number of the study among the patient's.
        grey: the radiograph, uint8 (H, W). masks: template name -> bool (H, W).

    Returns:
        dataset, file, view and modality of each picture, and for those without outline that nothing is burnt in; plain values.
    """
    lungs = [masks[name] for name in ("Right Lung", "Left Lung") if name in masks]
    ignore = _electrodes(masks, technique) & np.any(lungs, axis=0)
    written = [_write(folder, patient, study, 2 * place, grey, study.view, lungs, ignore)]
    kind = unlabelled(patient) if place == 0 else ""
    if kind:
        picture = _lateral(scan, technique, patient) if kind == "lateral" else _slice(scan)
        view = {"lateral": "L", "CT": "Axial"}[kind]
        bare = _write(folder, patient, study, 2 * place + 1, picture, view, [], np.zeros(picture.shape, bool))
        written.append({**bare, "letters": "", "side_marker": ""})
    return written


def write_classes(folder: Path) -> None:
    """The table of what the grey values of the masks mean."""
    write_atomically(folder / V7_SET / MASKS / "class_mapping.csv", CLASSES)


def _write(
    folder: Path, patient: Patient, study: Study, place: int, grey: np.ndarray, view: str, lungs: list, ignore: np.ndarray
) -> dict:
    covid = patient.group == COVID
    sequence = 10 * patient.number + place
    v7_id = _FIRST_ID[covid] + sequence
    suffix = "png" if covid else "jpeg"
    image = f"images/{sequence:08d}.{suffix}"
    if covid:
        save_image(folder / V7_SET / image, grey, "RGB", suffix)
    else:  # another collection: grey JPEG, its contrast stretched
        low, high = np.percentile(grey, (1, 99))
        stretched = np.clip((grey - low) / max(high - low, 1.0), 0, 1)
        save_image(folder / V7_SET / image, np.round(stretched * 255).astype(np.uint8), "L", suffix)
    modality = "CT" if view == "Axial" else "CXR"
    content = {
        "image": {
            "seq": sequence, "width": grey.shape[1], "height": grey.shape[0], "filename": f"{sequence:08d}.{suffix}",
            "original_filename": _original_name(patient, place, suffix),
            "url": f"https://darwin.v7labs.com/api/images/{v7_id}/original",
        },
        "dataset": "COVID-19 Chest X-Ray Dataset",
        "annotated": True,
        "annotations": [
            *({"name": name, "polygon": {"path": [{"x": x, "y": y} for x, y in polygon]}}
              for name, parts in (("Lung", lungs), ("Ignore", [ignore])) for mask in parts for polygon in _outlines(mask)),
            *({"name": tag, "tag": {}} for tag in _tags(patient, study, view, modality)),
        ],
    }
    write_atomically(folder / V7_SET / RELEASE / f"{sequence:08d}.json", json.dumps(content, indent=1))
    _write_mask(folder / V7_SET / MASKS / f"{v7_id}.png", grey.shape, lungs, ignore)
    return {"dataset": V7_SET, "file": f"{V7_SET}/{image}", "view": view, "modality": modality}


def _outlines(mask: np.ndarray) -> list[list[list[int]]]:
    """Polygons around the parts of a mask (H, W), [x, y] of the pixels on its border: filled, they are the mask again."""
    import cv2

    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    return [contour[:, 0].tolist() for contour in contours if len(contour) >= 3]


def _write_mask(path: Path, shape: tuple[int, ...], lungs: list[np.ndarray], ignore: np.ndarray) -> None:
    from PIL import Image

    labels = np.zeros(shape, np.uint8)
    for mask in lungs:
        labels[mask] = 255
    labels[ignore] = 127
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(labels, "L").save(path, compress_level=6)


def _original_name(patient: Patient, place: int, suffix: str) -> str:
    """File name at the source: of the others, as in the collection that most of them come from."""
    if patient.group == COVID:
        return f"phantom-{patient.number:03d}-{place}.{suffix}"
    if patient.group == NORMAL:
        return f"IM-{patient.number:04d}-{place:04d}.{suffix}"
    return f"person{patient.number}_{_germ(patient)}_{place + 1}.{suffix}"


def _germ(patient: Patient) -> str:
    return "virus" if patient.number % 3 == 0 else "bacteria"


def _tags(patient: Patient, study: Study, view: str, modality: str) -> list[str]:
    if patient.group == NORMAL:
        return ["No Pneumonia (healthy)", "X-ray"]
    if patient.group != COVID:
        return [{"virus": "Viral Pneumonia", "bacteria": "Bacterial Pneumonia"}[_germ(patient)], "X-ray"]
    known = np.random.default_rng([*patient.seed, 93]).random(4) < 0.8  # some are left out at random, as in life
    icu, alive = ("Y" if true else "N" for true in (patient.icu, not patient.death))
    about = [f"Sex/{patient.sex}", f"Age:{patient.age}", f"ICU_admission/{icu}", f"Survival/{alive}"]
    return [
        "COVID-19", "Viral Pneumonia", "CT" if modality == "CT" else "X-ray", f"PatientID:{patient.number}",
        f"View/{view.replace(' ', '_')}", "location:phantom", *(tag for tag, told in zip(about, known, strict=True) if told),
        *(["ARDS"] if study.disease.share > 0.45 else []),
    ]


def _electrodes(masks: dict[str, np.ndarray], technique: Technique) -> np.ndarray:
    """The broad parts of leads, with a rim as an annotator would draw it; bool (rows, columns)."""
    from scipy import ndimage

    probes = masks.get("Monitoring Probes")
    if probes is None:
        return np.zeros(technique.size, bool)
    radius = max(1, round(_SMALLEST_ELECTRODE / 2 / technique.pixel_mm))
    down, across = np.mgrid[-radius:radius + 1, -radius:radius + 1]
    return ndimage.binary_dilation(ndimage.binary_opening(probes, down**2 + across**2 <= radius**2), iterations=radius)


def _lateral(scan: Scan, technique: Technique, patient: Patient) -> np.ndarray:
    """The same person from the side, uint8 (H, W): the beam runs along x."""
    grid = Grid(scan.grid.y, scan.grid.x, scan.grid.z)
    rows = technique.size[0]
    width, height = float(grid.x[-1] - grid.x[0]), technique.field_mm[1]
    columns = round(rows * width / height)
    centre = (round(float(grid.x[0] + grid.x[-1]) / 2, 3), technique.centre[1])
    aside = replace(technique, view="PA", size=(rows, columns), centre=centre, roll=0.0,
                    field_mm=(round(columns * height / rows, 3), height))
    soft, bone = beam.line_integrals(np.ascontiguousarray(scan.hu.transpose(1, 0, 2)), grid, aside)
    signal = beam.expose(soft, bone, aside, np.random.default_rng([*patient.seed, 94]))
    return np.round(beam.render(signal, soft, aside) * 255).astype(np.uint8)


def _slice(scan: Scan) -> np.ndarray:
    """The axial CT slice at the carina, uint8 (H, W): front up, the patient's right on the image's left."""
    from PIL import Image

    low, high = _CT_WINDOW
    level = int(np.abs(scan.grid.z).argmin())
    grey = np.clip((scan.hu[:, :, level].T - np.float32(low)) / np.float32(high - low), 0, 1)
    picture = Image.fromarray(np.round(grey * 255).astype(np.uint8), "L")
    rows = round(picture.height * scan.grid.spacing[1] / scan.grid.spacing[0])  # the beam's grid is coarse from front to back
    return np.asarray(picture.resize((picture.width, rows), Image.Resampling.BILINEAR))
