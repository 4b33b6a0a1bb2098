"""Checks of one case: is the image readable and sane, do its masks fit it."""

from pathlib import Path

import numpy as np

from covidcxr.datasets.dicom import is_dicom
from covidcxr.datasets.images import read_labels, read_pixels, to_luminance, united
from covidcxr.datasets.near_duplicates import fingerprint
from covidcxr.datasets.tables_of_cases import paths_in
from covidcxr.errors import InputError

_COLOURED_CHROMA = 24  # of 255: difference of the channels from which a pixel counts as coloured
_COLOURED_SHARE = 1e-5  # coloured letters and arrows may be tiny
_HU_RANGE = (-4000, 32000)  # scanners store -1024 … 3071; padding and metal reach further


def check_image_file(path: Path, report) -> tuple[dict, np.ndarray | None]:
    """Read a picture; report what is wrong with it; keep its fingerprint in the report.

    Returns:
        what was measured (height, width, mode, min, max, mean in [0, 1]), and the image, or None when it cannot be read.
    """
    try:
        pixels = read_pixels(path)
    except InputError as error:
        report.error("unreadable image", str(error), file=path.name)
        return {}, None
    image = to_luminance(pixels)
    measured = {
        "height": image.shape[0],
        "width": image.shape[1],
        "pixels": f"{pixels.dtype} x {1 if pixels.ndim == 2 else pixels.shape[2]}",
        "min": float(image.min()),
        "max": float(image.max()),
        "mean": float(image.mean()),
    }
    if measured["min"] == measured["max"]:
        report.error("constant image", f"{path.name}: every pixel is {measured['min']:.3f}", file=path.name)
        return measured, image
    if pixels.ndim == 3 and pixels.shape[2] >= 3:
        red, green, blue = (pixels[:, :, channel] for channel in range(3))
        chroma = np.maximum(np.maximum(red, green), blue) - np.minimum(np.minimum(red, green), blue)
        coloured = np.count_nonzero(chroma > _COLOURED_CHROMA) / chroma.size
        measured["coloured_share"] = coloured
        if coloured > _COLOURED_SHARE:
            report.warning(
                "coloured marks", f"{100 * coloured:.2g} % of the pixels are coloured (arrows, letters or a tint)", file=path.name
            )
    if _rotation(path) not in (None, 1):
        report.warning(
            "rotation", f"{path.name} asks to be rotated (EXIF); it is read as stored, and so must its masks be", file=path.name
        )
    report.fingerprint = fingerprint(image)
    return measured, image


def _rotation(path: Path) -> int | None:
    from PIL import Image

    if is_dicom(path):  # turned as its own header asks
        return None
    try:
        with Image.open(path) as picture:
            return picture.getexif().get(0x0112)
    except Exception:  # whatever a damaged tag leads to inside Pillow; the picture itself has been read
        return None


def check_lesion_in_lung(lesion: np.ndarray, lung: np.ndarray, measured: dict, report) -> None:
    """Warn when less than half of the lesion lies inside the lungs; an opacity can hide a lung's border, so it is no error."""
    if lesion.any() and lung.any():
        measured["lesion_in_lung"] = float((lesion & lung).sum() / lesion.sum())
        if measured["lesion_in_lung"] < 0.5:
            report.warning(
                "lesion outside lungs", f"only {100 * measured['lesion_in_lung']:.0f} % of the lesion lies inside the lungs"
            )


def check_picture_case(dataset, row: dict, report) -> dict:
    """A picture with its masks as label pictures of the same size."""
    measured, image = check_image_file(dataset.folder / row["image"], report)
    if image is None:
        return measured
    by_file: dict[str, np.ndarray | None] = {}
    masks: dict[str, np.ndarray] = {}
    for kind, (column, _) in dataset.LABELS.items():
        for file in paths_in(row.get(column)):
            if file not in by_file:
                by_file[file] = _read_picture_mask(dataset, column, file, image.shape, report)
            labels = by_file[file]
            if labels is not None:
                part = dataset.select(row, kind, labels)
                masks[kind] = masks[kind] | part if kind in masks else part
    _check_masks(masks, measured, report)
    return measured


def _read_picture_mask(dataset, column: str, file: str, shape: tuple[int, int], report) -> np.ndarray | None:
    try:
        labels = read_labels(dataset.folder / file)
    except InputError as error:
        report.error("unreadable mask", str(error), file=file)
        return None
    if labels.shape != shape:
        report.error(
            "mask size", f"{file} has {labels.shape[0]} x {labels.shape[1]} pixels, its image {shape[0]} x {shape[1]}", file=file
        )
        return None
    _check_labels(dataset, column, labels, file, report)
    return labels


def _check_labels(dataset, column: str, labels: np.ndarray, file: str, report) -> None:
    expected = dataset.EXPECTED_LABELS.get(column)
    found = _values(labels)
    if expected is not None and not found <= set(expected):
        odd = sorted(found - set(expected))
        report.error("unexpected labels", f"{file} holds the values {odd[:8]}; expected {list(expected)}", file=file)
    elif not any(found):
        report.warning("empty mask", f"{file} has no foreground", file=file)


def _values(labels: np.ndarray) -> set[int]:
    """Values that occur; piece by piece, because counting needs eight bytes for each label."""
    flat = labels.ravel(order="K")
    found: set[int] = set()
    for start in range(0, flat.size, 1 << 20):
        piece = flat[start : start + (1 << 20)]
        found.update((np.flatnonzero(np.bincount(piece)) if piece.dtype == np.uint8 else np.unique(piece)).tolist())
    return found


def _check_masks(masks: dict[str, np.ndarray], measured: dict, report) -> None:
    for kind, mask in masks.items():
        measured[f"{kind}_size"] = int(np.count_nonzero(mask))
    if "lesion" in masks and "lung" in masks:
        check_lesion_in_lung(masks["lesion"], masks["lung"], measured, report)


def check_volume_case(dataset, row: dict, report) -> dict:
    """A CT volume with its masks: readable, on one grid, HU or not, plausible values, expected labels, sides."""
    from covidcxr import volumes

    path = dataset.folder / row["image"]
    try:
        volume = volumes.read_volume(path)
    except InputError as error:
        report.error("unreadable volume", str(error), file=row["image"])
        return {}
    flat = volumes.memory_order(volume.voxels)
    low, high = int(flat.min()), int(flat.max())
    measured = {
        "shape": tuple(volume.shape),
        "spacing": tuple(round(s, 4) for s in volume.spacing),
        "units": volume.units,
        "min": low,
        "max": high,
    }
    _check_units(row, volume, low, high, report)
    for note in volume.notes:
        if "HU" not in note:
            report.warning("orientation", note, file=row["image"])
    report.fingerprint = fingerprint(_frontal_mean(volume.voxels))
    _check_volume_masks(dataset, row, volume, measured, report)
    return measured


def _check_units(row: dict, volume, low: int, high: int, report) -> None:
    expected = row.get("expected_units", "HU")
    if volume.units != expected:
        report.warning(
            "not in HU" if expected == "HU" else "units",
            f"values {low} to {high}: units are {volume.units}, expected {expected}",
            file=row["image"],
        )
    if volume.units == "HU" and not (_HU_RANGE[0] <= low and high <= _HU_RANGE[1]):
        report.warning("value range", f"values {low} to {high} HU go beyond {_HU_RANGE[0]} to {_HU_RANGE[1]}", file=row["image"])


def _frontal_mean(voxels: np.ndarray) -> np.ndarray:
    """Mean along the front-back axis, float32 (Z, X) with the head up: a small picture to recognise a volume by."""
    return np.flipud(voxels.mean(axis=1, dtype=np.float32).T)


def _check_volume_masks(dataset, row: dict, volume, measured: dict, report) -> None:
    from covidcxr import volumes

    by_file: dict[str, np.ndarray | None] = {}
    for column in dict.fromkeys(column for column, _ in dataset.LABELS.values()):
        for file in paths_in(row.get(column)):
            if file in by_file:
                continue
            try:
                labels = volumes.read_mask(dataset.folder / file, volume)
            except InputError as error:
                by_file[file] = None
                text = str(error)
                check = "mask grid" if "differ in shape" in text or "different places" in text else "unreadable mask"
                report.error(check, text, file=file)
            else:
                by_file[file] = labels
                _check_labels(dataset, column, labels, file, report)
    masks = {}
    for kind in dataset.LABELS:
        files = paths_in(row.get(dataset.LABELS[kind][0]))
        if files and all(by_file[file] is not None for file in files):
            masks[kind] = united(dataset.select(row, kind, by_file[file]) for file in files)
    _check_masks(masks, measured, report)
    if masks.get("left_lung", np.zeros(1)).any() and masks.get("right_lung", np.zeros(1)).any():
        # RAS+: the first axis grows towards the patient's right
        left, right = (_mean_index(masks[side]) for side in ("left_lung", "right_lung"))
        if left > right:
            report.warning(
                "sides", "the left lung lies on the patient's right: swapped labels or a mirrored volume", file=row["image"]
            )


def _mean_index(mask: np.ndarray) -> float:
    profile = mask.sum(axis=(1, 2))
    return float((profile * np.arange(len(profile))).sum() / profile.sum())
