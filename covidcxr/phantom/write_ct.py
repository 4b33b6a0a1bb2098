"""CT volumes in the layouts of four public sets, each with its own orientation, masks and grey values."""

from pathlib import Path

import numpy as np

from covidcxr.phantom.acquire import reconstruct
from covidcxr.phantom.anatomy import draw_person
from covidcxr.phantom.cohort import Patient, Study
from covidcxr.phantom.grid import Grid
from covidcxr.phantom.scan import Scan, make_scan
from covidcxr.phantom.spec import CohortSpec

# Array axes of each set, by the letter each axis grows towards (nibabel's aff2axcodes); the generator's own are L, P, S.
AXES = {"covid19_ct_seg": "LAS", "mosmeddata": "RAS", "covid_19_20": "LPI", "medseg_nr2_volumes": "LPS"}
WINDOWED_AXES = "RPS"
WINDOW = (-1250.0, 250.0)


def write_patient(folder: Path, spec: CohortSpec, patient: Patient) -> list[dict]:
    """Make and write every CT of one patient under `folder` (the cohort's root); one record per volume."""
    return [_write_study(folder, spec, patient, study, place) for place, study in enumerate(patient.studies)]


def _write_study(folder: Path, spec: CohortSpec, patient: Patient, study: Study, place: int) -> dict:
    volumes = spec.volumes[study.dataset]
    plane, slice_mm = (study.second and volumes.second_scan_mm) or volumes.spacing_mm
    person = draw_person(patient.seed, patient.sex, patient.age, "up", True)
    sz = person.scale[2]
    half = volumes.field_mm / 2
    depth = min(half, 170.0)
    grid = Grid.box((-half, -depth, -196 * sz), (half, depth + 4, 126 * sz), (plane, plane, slice_mm))
    scan = make_scan(person, study.disease, grid, tips=spec.tips)
    rng = np.random.default_rng([*patient.seed, 100 + place])
    hu = reconstruct(scan, rng, noise=float(rng.uniform(9, 24)), kernel_mm=float(rng.uniform(0.4, 0.9)),
                     round_field=study.dataset == "mosmeddata")
    files = _WRITERS[study.dataset](folder / study.dataset, study, scan, hu)
    lungs = np.count_nonzero(scan.lung)
    return {
        "dataset": study.dataset,
        "file": f"{study.dataset}/{files[0]}",
        "view": "CT",
        "day": study.day,
        "opacity_share": round(scan.opacity_share, 6),
        "ground_glass_share": round(np.count_nonzero(scan.ground_glass) / lungs, 6),
        "consolidation_share": round(np.count_nonzero(scan.consolidation) / lungs, 6),
        "letters": "",
        "side_marker": "",
    }


def affine_for(grid: Grid, axes: str) -> tuple[np.ndarray, tuple[int, ...]]:
    """4 x 4 affine (RAS+ mm) of an array whose axes grow towards the letters of `axes`, and which of (x, y, z) to flip.

    The generator's axes are L, P, S; `axes` holds one of L/R, P/A, S/I in this order.
    """
    affine = np.eye(4)
    flips = []
    for k, (letter, own, world, axis) in enumerate(zip(axes, "LPS", (-1, -1, 1), grid.axes, strict=True)):
        flip = letter != own
        flips.append(-1 if flip else 1)
        step = float(axis[1] - axis[0])
        first = float(axis[-1] if flip else axis[0])
        affine[k, k] = world * step * (-1 if flip else 1)
        affine[k, 3] = world * first
    return np.round(affine, 6), tuple(flips)


def save(path: Path, values: np.ndarray, grid: Grid, axes: str) -> None:
    """Write (X, Y, Z) `values` as NIfTI with the given axes; sform and qform set; the gzip header carries no time."""
    import gzip

    import nibabel

    affine, flips = affine_for(grid, axes)
    data = np.ascontiguousarray(values[tuple(slice(None, None, f) for f in flips)])
    image = nibabel.Nifti1Image(data, affine)
    image.set_sform(affine, code="scanner")
    image.set_qform(affine, code="scanner")
    image.header.set_xyzt_units("mm")
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file, gzip.GzipFile("", "wb", 3, file, mtime=0) as packed:
        packed.write(image.to_bytes())


def _covid19_ct_seg(root: Path, study: Study, scan: Scan, hu: np.ndarray) -> list[str]:
    axes = WINDOWED_AXES if study.windowed else AXES["covid19_ct_seg"]
    if study.windowed:
        low, high = WINDOW
        shown = (np.clip(hu.astype(np.float32), low, high) - np.float32(low)) * np.float32(255 / (high - low))
        hu = np.round(shown).astype(np.int16)
    name = f"{study.name}.nii.gz"
    lesion = scan.lesion
    both = scan.lung.copy()
    both[lesion] = 3
    for folder, values in (("COVID-19-CT-Seg_20cases", hu), ("Lung_Mask", scan.lung), ("Infection_Mask", lesion.astype(np.uint8)),
                           ("Lung_and_Infection_Mask", both)):
        save(root / folder / name, values, scan.grid, axes)
    return [f"COVID-19-CT-Seg_20cases/{name}"]


def _mosmeddata(root: Path, study: Study, scan: Scan, hu: np.ndarray) -> list[str]:
    save(root / "studies" / "CT-1" / f"{study.name}.nii.gz", hu, scan.grid, AXES["mosmeddata"])
    save(root / "masks" / f"{study.name}_mask.nii.gz", scan.lesion.astype(np.uint8), scan.grid, AXES["mosmeddata"])
    return [f"studies/CT-1/{study.name}.nii.gz"]


def _covid_19_20(root: Path, study: Study, scan: Scan, hu: np.ndarray) -> list[str]:
    save(root / "Train" / f"{study.name}_ct.nii.gz", hu, scan.grid, AXES["covid_19_20"])
    save(root / "Train" / f"{study.name}_seg.nii.gz", scan.lesion.astype(np.uint8), scan.grid, AXES["covid_19_20"])
    return [f"Train/{study.name}_ct.nii.gz"]


def _medseg(root: Path, study: Study, scan: Scan, hu: np.ndarray) -> list[str]:
    axes = AXES["medseg_nr2_volumes"]
    save(root / f"{study.name}_image.nii.gz", np.clip(hu, -1400, 370), scan.grid, axes)
    save(root / f"{study.name}_lesion.nii.gz", scan.lesion.astype(np.uint8), scan.grid, axes)
    save(root / f"{study.name}_lung_lr.nii.gz", scan.lung, scan.grid, axes)
    return [f"{study.name}_image.nii.gz"]


_WRITERS = {
    "covid19_ct_seg": _covid19_ct_seg, "mosmeddata": _mosmeddata, "covid_19_20": _covid_19_20, "medseg_nr2_volumes": _medseg,
}
