"""Radiographs in the layout of the General Blockchain set: images, crops of masks, structure.csv, metadata.csv."""

import hashlib
from pathlib import Path

import numpy as np

from covidcxr.phantom import annotate, beam, overlays, write_outlined, write_v7
from covidcxr.phantom.anatomy import draw_person
from covidcxr.phantom.cohort import CXR_SET, RURAL_SET, V7_SET, Patient, Study
from covidcxr.phantom.grid import Grid
from covidcxr.phantom.lesions import COVID, NORMAL
from covidcxr.phantom.pictures import save_image
from covidcxr.phantom.scan import make_scan
from covidcxr.phantom.spec import CohortSpec
from covidcxr.phantom.tables import METADATA, write_csv

STRUCTURE = (
    "#", "Taxonomy", "Class", "Template Name", "File Folder", "Filename", "Image", "Tag", "Mask", "Resolution", "Top", "Left",
    "Width", "Height", "Points", "Text Annotation", "Minimal Top", "Minimal Left", "Minimal Width", "Minimal Height",
    "Attributes",
)
COLOURS = {
    "Left Lung": (255, 66, 66), "Right Lung": (66, 255, 66), "Cardiomediastinum": (66, 66, 255), "Airways": (255, 255, 66),
    "Ground Glass Opacities": (66, 255, 255), "Consolidation": (255, 66, 255), "Endotracheal Tube": (255, 160, 66),
    "Nosogastric Tube": (160, 255, 66), "Central Venous Line": (160, 66, 255), "Monitoring Probes": (255, 66, 160),
}
FORMATS = (("RGB", "jpeg"), ("L", "jpeg"), ("RGBA", "png"), ("RGB", "png"))


def write_patient(folder: Path, spec: CohortSpec, patient: Patient) -> list[dict]:
    """Make and write every radiograph of one patient under `folder` (the cohort's root).

    Returns one record per image, of plain values: data set, file, share of opacity, overlay. Patients of the first set have more:
    `structure` rows and the `metadata` row, what `write_outlined.write_study` returns as `outlined`, and what
    `write_v7.write_study` returns as `v7`; those of the rural cohort alone the rows of its tables (`write_outlined.write_rural`).
    """
    return [_write_study(folder, spec, patient, study, k) for k, study in enumerate(patient.studies)]


def _write_study(folder: Path, spec: CohortSpec, patient: Patient, study: Study, place: int) -> dict:
    # Separate streams: how long one of them is read changes nothing in the others.
    rng, noise, marks = (np.random.default_rng([*patient.seed, purpose + place]) for purpose in (100, 200, 300))
    person = draw_person(patient.seed, patient.sex, patient.age, "down", study.view == "AP Supine")
    step, along = spec.beam_grid_mm
    sx, sy, sz = person.scale
    half = 196 * sx
    grid = Grid.box((-half, -150 * sy, -212 * sz), (half, 150 * sy, 172 * sz), (step, along, step))
    scan = make_scan(person, study.disease, grid, tips=spec.tips)
    technique = beam.draw_technique(rng, study.view, (158 * sx + person.fat, 285 * sz), 186 * sx, spec.rows)
    soft, bone = beam.line_integrals(scan.hu, grid, technique)
    extra, tubes = overlays.devices(marks, technique, patient.icu)
    signal = beam.expose(soft, bone + extra, technique, noise)
    overlay = overlays.draw_overlay(marks, patient.group, study.view)
    grey = np.round(overlays.burn(beam.render(signal, soft, technique), overlay) * 255).astype(np.uint8)
    masks = annotate.regions(scan, technique) | tubes
    if study.dataset == RURAL_SET:
        files = write_outlined.write_rural(folder, patient, study, place, grey, masks)
    else:
        v7 = write_v7.write_study(folder, patient, study, place, grey, masks, scan, technique)
        first = v7.pop(0) if study.dataset == V7_SET else _write_first(folder, patient, study, place, grey, masks, rng)
        files = {**first, "v7": v7}
    lungs = np.count_nonzero(scan.lung)
    return {
        **files,
        "view": study.view,
        "day": study.day,
        "opacity_share": round(scan.opacity_share, 6),
        "ground_glass_share": round(np.count_nonzero(scan.ground_glass) / lungs, 6),
        "consolidation_share": round(np.count_nonzero(scan.consolidation) / lungs, 6),
        "letters": overlay.word or overlay.panel,
        "side_marker": overlay.side,
    }


def _write_first(folder: Path, patient: Patient, study: Study, place: int, grey: np.ndarray, masks: dict, rng) -> dict:
    """Write a radiograph into the General Blockchain set, and into the second that its patient belongs to."""
    root = folder / CXR_SET
    mode, suffix = FORMATS[int(rng.choice(4, p=[0.68, 0.15, 0.12, 0.05]))]
    filename = f"{study.name}.{suffix}"
    save_image(root / "images" / filename, grey, mode, suffix)
    return {
        "dataset": CXR_SET,
        "file": f"{CXR_SET}/images/{filename}",
        "structure": _write_masks(root, filename, grey.shape, masks, rng),
        "outlined": write_outlined.write_study(folder, patient, study, place, root / "images" / filename, grey, masks),
        "metadata": _metadata(patient, study, filename, rng),
    }


def _write_masks(root: Path, filename: str, size: tuple[int, ...], masks: dict[str, np.ndarray], rng) -> list[dict]:
    """Write each mask as a crop of its bounding box (RGBA, black outside, one colour inside); its structure.csv rows."""
    from PIL import Image

    (root / "masks").mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha1(filename.encode()).hexdigest()
    letters = np.array(list("ABCDEFGHJKLMNPQRSTWXYZabcdefghijkmnopqrstuvwxyz23456789"))
    rows = []
    for name, mask in masks.items():
        down, across = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        top, left = int(down[0]), int(across[0])
        height, width = int(down[-1]) + 1 - top, int(across[-1]) + 1 - left
        crop = np.zeros((height, width, 4), np.uint8)
        crop[..., 3] = 255
        crop[mask[top:top + height, left:left + width], :3] = COLOURS[name]
        tag = "".join(rng.choice(letters, 17))
        Image.fromarray(crop, "RGBA").save(root / "masks" / f"{digest}_{tag}.png", compress_level=6)
        box = {"Top": top, "Left": left, "Width": width, "Height": height}
        rows.append({
            "Class": f"COVID-19 {name}", "Template Name": name, "Filename": filename,
            # Image and Tag name files that the public set does not hold either.
            "Image": f"images/{digest}{Path(filename).suffix}", "Tag": f"tags/{digest}_{tag}.png",
            "Mask": f"masks/{digest}_{tag}.png", "Resolution": f"{size[1]}x{size[0]}", **box, "Text Annotation": "undefined",
            **{f"Minimal {key}": value for key, value in box.items()},
        })
    return rows


def _metadata(patient: Patient, study: Study, filename: str, rng: np.random.Generator) -> dict:
    """The row of metadata.csv; some fields are left out at random, as in life."""
    severe = patient.group == COVID and study.disease.share > 0.45
    finding = {COVID: "COVID-19, ARDS" if severe else "COVID-19", NORMAL: "No Finding"}.get(patient.group)
    if finding is None:
        germ = np.random.default_rng([*patient.seed, 90]).choice(3, p=[0.6, 0.25, 0.15])
        finding = ("Streptococcus", "Legionella", "Klebsiella")[int(germ)]
    known = np.random.default_rng([*patient.seed, 91]).random(2) < 0.85
    yes = {True: "Y", False: "N"}
    return {
        "patientid": patient.number, "offset": study.day, "sex": patient.sex, "age": patient.age, "finding": finding,
        "survival": yes[not patient.death] if known[0] else "", "went_icu": yes[patient.icu] if known[1] else "",
        "needed_supplemental_O2": yes[patient.icu or study.disease.share > 0.2] if known[1] else "",
        "temperature": round(float(36.6 + 2.4 * rng.random() * (patient.group != NORMAL)), 1),
        "view": study.view, "modality": "X-ray", "date": "2020", "location": "phantom", "folder": "images", "filename": filename,
        "license": "synthetic", "clinical_notes": "Synthetic image of a phantom patient.",
    }


def write_tables(folder: Path, records: list[dict]) -> None:
    """structure.csv, metadata.csv and the tables of the outlined sets from the records of all radiographs, in order."""
    first = [record for record in records if record["dataset"] == CXR_SET]
    structure = []
    for record in first:
        structure += [{"Taxonomy": "", **row} for row in record["structure"]]
    for number, row in enumerate(structure, start=1):
        row["#"] = number
    if first:
        write_csv(folder / CXR_SET / "structure.csv", STRUCTURE, structure)
        write_csv(folder / CXR_SET / "metadata.csv", METADATA, [record["metadata"] for record in first])
    write_outlined.write_tables(folder, records)
