"""CC-CCII's layout: CT slices as pictures, of patients with COVID-19, with other pneumonia, and without.

    write_set(folder / "cc_ccii", seed=20, patients=(4, 2, 4), segmented=2)

Patients are people of their own, in no other set of a cohort. As in the public set some scans of normal people are cut to the
lungs already, and windows differ from scan to scan.
"""

from pathlib import Path

import numpy as np

from covidcxr.phantom.acquire import reconstruct
from covidcxr.phantom.anatomy import draw_person
from covidcxr.phantom.cohort import draw_disease
from covidcxr.phantom.grid import Grid
from covidcxr.phantom.lesions import COVID, NORMAL, PNEUMONIA
from covidcxr.phantom.pictures import save_image
from covidcxr.phantom.scan import Scan, make_scan
from covidcxr.phantom.tables import write_csv

GROUPS = {"NCP": COVID, "CP": PNEUMONIA, "Normal": NORMAL}
WINDOWS = ((-1150.0, 350.0), (-1350.0, 150.0))  # level -400 and -600, width 1500
_SMALLEST = 6  # pixels of a lesion that a reader lists


def write_set(
    folder: Path, seed: int, patients: tuple[int, int, int], segmented: int, spacing_mm: tuple[float, float] = (3.0, 10.0),
    tips: int = 60,
) -> Path:
    """Write the set into `folder`.

    Args:
        seed: of everybody and everything.
        patients: with COVID-19, with other pneumonia, without either; one scan each.
        segmented: further patients with COVID-19 whose slices have masks (ct_lesion_seg).
        spacing_mm: in the slice, from slice to slice.
        tips: ends of each vessel tree.
    """
    counts, listed = [], []
    number = 0
    for label, count in zip(GROUPS, patients, strict=True):
        for _ in range(count):
            number += 1
            scan, greys = _person(seed, number, GROUPS[label], spacing_mm, tips)
            if label == "Normal" and number % 3 == 0:
                kept = scan.lung.any(axis=(0, 1))
                greys = np.where(scan.lung > 0, greys, 0).astype(np.uint8)[:, :, kept]
            place = f"{label}/{number}/{1000 + number}"
            for k in range(greys.shape[2]):
                # From the head down, as scanners number them; (X, Y) grows to the patient's left and back, as it is shown.
                z = greys.shape[2] - 1 - k
                path = f"{place}/{k:04d}.png"
                save_image(folder / path, greys[:, :, z].T, "L", "png")
                if scan.lesion[:, :, z].sum() >= _SMALLEST:
                    listed.append({"imgpath": path})
            counts.append({"zip_file": f"{label}-1.zip", "label": label, "patient_id": number, "scan_id": 1000 + number,
                           "n_slice": greys.shape[2]})
    for patient in range(segmented):
        scan, greys = _person(seed, number + 1 + patient, COVID, spacing_mm, tips)
        labels = np.where(scan.lung > 0, np.uint8(1), np.uint8(0))
        labels[scan.ground_glass], labels[scan.consolidation] = 2, 3
        for z in np.flatnonzero(scan.lesion.sum(axis=(0, 1)) >= _SMALLEST):
            save_image(folder / f"ct_lesion_seg/image/{patient}/{z}.jpg", greys[:, :, z].T, "L", "jpeg")
            save_image(folder / f"ct_lesion_seg/mask/{patient}/{z}.png", labels[:, :, z].T, "L", "png")
    write_csv(folder / "lesions_slices.csv", ("imgpath",), listed)
    write_csv(folder / "unzip_filenames.csv", ("zip_file", "label", "patient_id", "scan_id", "n_slice"), counts)
    return folder


def _person(seed: int, number: int, group: str, spacing_mm: tuple[float, float], tips: int) -> tuple[Scan, np.ndarray]:
    """A patient's CT, and its grey values uint8 (X, Y, Z); patients of the same seed and number are the same."""
    rng = np.random.default_rng([seed, 7, number])
    disease = draw_disease(group, rng)
    person = draw_person((seed, 7000 + number), "M" if rng.random() < 0.5 else "F", int(rng.integers(25, 80)), "up", True)
    plane, slice_mm = spacing_mm
    sz = person.scale[2]
    grid = Grid.box((-190, -170, -190 * sz), (190, 174, 120 * sz), (plane, plane, slice_mm))
    scan = make_scan(person, disease, grid, tips=tips)
    hu = reconstruct(scan, rng, noise=float(rng.uniform(9, 24)), kernel_mm=float(rng.uniform(0.4, 0.9)), round_field=False)
    low, high = WINDOWS[int(rng.integers(len(WINDOWS)))]
    return scan, np.round((hu.clip(low, high) - low) * (255 / (high - low))).astype(np.uint8)
