"""The radiographs once more in the layouts of the sets of tang2020: the rural cohort and the Cohen collection, disjoint patients.

Lungs and opacities are outlined in labelme as an annotator would click them: polygons of a few dozen points around what
`annotate` drew, under the labels of the public files.
"""

import json
import shutil
from datetime import date, timedelta
from pathlib import Path

import numpy as np

from covidcxr.paths import write_atomically
from covidcxr.phantom.cohort import COHEN_SET, RURAL_SET, Patient, Study, outlined_set
from covidcxr.phantom.lesions import COVID
from covidcxr.phantom.pictures import save_image
from covidcxr.phantom.tables import METADATA, write_csv

RURAL_TABLE = (
    "PATIENT_ID", "AGE", "SEX", "RACE", "ZIP", "LATEST_BMI", "LATEST WEIGHT", "LATEST_HEIGHT_inches", "TUBERCULOSIS",
    "SYSTEMIC LUPUS ERYTHMATOSUS", "RHEUMATOID ARTHRITIS", "EXTENSIVE BURNS", "ASPLENIA", "HYPOSPLENIA", "MEASLES",
    "CYTOMEGALOVIRUS", "CHICKEN POX", "HERPES ZOSTER", "MALNUTRITION", "CURRENT PREGNANT", "CHRONIC KIDNEY DISEASE",
    "DIABETES TYPE I", "DIABETES TYPE II", "TRANSPLANT", "HEMODIALYSIS Pre Diagnosis", "HEMODIALYSIS Post diagnosis", "CANCER",
    "COVID TEST POSITIVE", "TEST NAME", "ICU Admit", "# ICU admits", "MORTALITY",
)
NOTES = (
    "patient_id", "Diag to img study (days)", "Diagnosis to Imaging time (hrs)", "Image Study Description",
    "Radiologist KEY FINDINGS",
)
EXAMINATIONS = {"PA": "XR CHEST PA AND LATERAL", "AP": "XR CHEST AP ONLY", "AP Supine": "XR CHEST AP PORTABLE"}
SCORES = ("filename", "geographic_mean", "opacity_mean")
LUNGS = {"right_lung": "Right Lung", "left_lung": "Left Lung"}
# The rural files tell the two apart and spell the first so; those of the Cohen collection have one word for both.
RURAL_OPACITIES = {"groud_glass_opacity": "Ground Glass Opacities", "consolidation": "Consolidation"}
_FINER = 4  # a contour runs through centres: on a grid so many times finer it lies an eighth of a pixel inside the edge


def outlines(mask: np.ndarray) -> list[list[list[float]]]:
    """Polygons around the parts of a mask (H, W): [x, y] in pixels of the image, corners at whole numbers; holes are filled.

    They keep within 0.4 % of the image's height, or one pixel if that is more, of the mask's edge.
    """
    import cv2

    fine = mask.astype(np.uint8).repeat(_FINER, axis=0).repeat(_FINER, axis=1)
    contours, _ = cv2.findContours(fine, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    tolerance = _FINER * max(1, mask.shape[0] / 250)
    polygons = [cv2.approxPolyDP(contour, tolerance, True)[:, 0] for contour in contours]
    return [((polygon + 0.5) / _FINER).tolist() for polygon in polygons if len(polygon) >= 3]


def severity(masks: dict[str, np.ndarray], rng: np.random.Generator) -> tuple[float, float]:
    """Mean scores of three raters: extent (0..8; per lung 0 none to 4 more than three quarters) and opacity (0..6; per lung
    1 ground glass, 2 with consolidation, 3 most of it consolidated)."""
    extent = degree = 0
    for name in LUNGS.values():
        lung = masks.get(name)
        if lung is None:
            continue
        glass, dense = (np.count_nonzero(lung & masks[part]) / np.count_nonzero(lung) if part in masks else 0.0
                        for part in RURAL_OPACITIES.values())
        share = max(glass, dense)  # they overlap
        if share > 0.01:
            extent += min(4, 1 + int(4 * share))
            degree += 3 if dense > 0.5 else 2 if dense > 0.05 else 1
    means = []
    for score, most in ((extent, 8), (degree, 6)):
        raters = rng.choice([-1, 0, 1], 3, p=[0.15, 0.7, 0.15]) if score else np.zeros(3, int)
        means.append(round(float(np.clip(score + raters, 0, most).mean()), 1))
    return means[0], means[1]


def write_study(folder: Path, patient: Patient, study: Study, place: int, made: Path, grey: np.ndarray, masks: dict) -> dict:
    """Write one radiograph into the set that its patient belongs to, besides the first.

    Args:
        folder: the cohort's root. place: number of the study among the patient's. made: the image file of the first set.
        grey: its pixels, uint8 (H, W). masks: template name -> bool (H, W).

    Returns:
        dataset, file, and the rows of that set's tables, plain values.
    """
    if outlined_set(patient) == RURAL_SET:
        return write_rural(folder, patient, study, place, grey, masks)
    image = folder / COHEN_SET / "images" / made.name
    image.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(made, image)
    record: dict = {"dataset": COHEN_SET, "file": f"{COHEN_SET}/images/{made.name}"}
    if patient.group == COVID:
        opacity = np.zeros(grey.shape, bool)
        for name in RURAL_OPACITIES.values():
            opacity |= masks.get(name, False)
        drawn = {label: masks[name] for label, name in LUNGS.items() if name in masks} | {"opacity": opacity}
        _write_json(folder / COHEN_SET / "selected_images" / f"{made.stem}.json", made.name, grey.shape, drawn)
        extent, degree = severity(masks, np.random.default_rng([*patient.seed, 400 + place]))
        record["scores"] = {"filename": made.name, "geographic_mean": extent, "opacity_mean": degree}
    return record


def write_rural(folder: Path, patient: Patient, study: Study, place: int, grey: np.ndarray, masks: dict) -> dict:
    """Write one radiograph into the rural cohort; arguments and result as of `write_study`."""
    identifier = f"COVID-19-AR-{patient.number:08d}"
    shift = int(np.random.default_rng([*patient.seed, 92]).integers(0, 60))
    taken = date(2011, 12, 20) + timedelta(days=shift + study.day)
    name = f"{identifier}_{taken:%m-%d-%Y}-XR"
    root = folder / RURAL_SET / "covid_rural_annot"
    save_image(root / "jpgs" / f"{name}.jpg", grey, "RGB", "jpeg")
    drawn = {label: masks[part] for label, part in (LUNGS | RURAL_OPACITIES).items() if part in masks}
    _write_json(root / "jpgs" / "jsons" / f"{name}.json", f"{name}.jpg", grey.shape, drawn)
    hours = 24 * study.day + int(np.random.default_rng([*patient.seed, 400 + place]).integers(0, 24))
    note = (identifier, study.day, hours, EXAMINATIONS[study.view], "Synthetic image of a phantom patient.")
    icu = int(patient.icu)
    about = dict.fromkeys(RURAL_TABLE[RURAL_TABLE.index("TUBERCULOSIS"):], 0) | {
        "PATIENT_ID": identifier, "AGE": patient.age, "SEX": patient.sex, "COVID TEST POSITIVE": 1, "TEST NAME": "SYNTHETIC",
        "ICU Admit": icu, "# ICU admits": icu, "MORTALITY": int(patient.death),
    }
    file = f"{RURAL_SET}/covid_rural_annot/jpgs/{name}.jpg"
    return {"dataset": RURAL_SET, "file": file, "note": dict(zip(NOTES, note, strict=True)), "about": about}


def _write_json(path: Path, image: str, size: tuple[int, ...], masks: dict[str, np.ndarray]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    shapes: list[dict] = [
        {"label": label, "points": points, "group_id": None, "shape_type": "polygon", "flags": {}}
        for label, mask in masks.items() for points in outlines(mask)
    ]
    content: dict = {"version": "4.5.6", "flags": {}, "shapes": shapes, "imagePath": image, "imageData": None,
               "imageHeight": size[0], "imageWidth": size[1]}
    write_atomically(path, json.dumps(content, indent=1))


def write_tables(folder: Path, records: list[dict]) -> None:
    """The tables of both sets from the records of all radiographs (`write_cxr`), in order."""
    rural = [record for record in (record.get("outlined", record) for record in records) if record["dataset"] == RURAL_SET]
    cohen = [record for record in records if record.get("outlined", record)["dataset"] == COHEN_SET]
    if rural:
        root = folder / RURAL_SET / "covid_rural_annot"
        people = {record["about"]["PATIENT_ID"]: record["about"] for record in rural}
        write_csv(root / "covid_rural_patient_info.csv", RURAL_TABLE, list(people.values()))
        write_csv(root / "covid_rural_radiologist_notes.csv", NOTES, [record["note"] for record in rural])
    if cohen:
        write_csv(folder / COHEN_SET / "metadata.csv", METADATA, [record["metadata"] for record in cohen])
        scores = [record["outlined"]["scores"] for record in cohen if "scores" in record["outlined"]]
        (folder / COHEN_SET / "annotations").mkdir(parents=True, exist_ok=True)
        write_csv(folder / COHEN_SET / "annotations" / "covid-severity-scores.csv", SCORES, scores)
