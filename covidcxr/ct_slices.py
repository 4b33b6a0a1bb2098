"""Axial slices of CT with their lungs and infections, and the way back: from slices to a volume of labels.

    train = [*ct_slices.of_volumes(ct, ["coronacases_001", "coronacases_002"], longer_side=512)]
    model.fit(maskrcnn.feeding.Feed(train, settings, (512, 512), 2))
    labels = ct_slices.assemble((k, found.label_picture) …, volume)
    ct_slices.write_labels(labels, volume.path, folder / "labels.nii.gz")

A slice is seen as radiology shows it, from the feet: the patient's right on the image's left, the front on top.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from covidcxr.errors import InputError, ParameterError
from covidcxr.instances import fit
from covidcxr.labels import polygons, regions, run_lengths
from covidcxr.paths import write_atomically

if TYPE_CHECKING:
    import pandas

    from covidcxr.datasets.base import Dataset
    from covidcxr.maskrcnn.inference import Found
    from covidcxr.volumes import Volume

CLASSES = ("left lung", "right lung", "infection")
"""Names of the labels 1, 2, 3: those of gaikwad2020, and of COVID-19-CT-Seg's files of lungs and infection."""
KINDS = ("left_lung", "right_lung", "lesion")
"""Kinds of masks of the data sets, in the order of `CLASSES`."""
WINDOW = (-1250.0, 250.0)
"""HU that become black and white: those that the Radiopaedia volumes of COVID-19-CT-Seg were cut off at, so that volumes in HU
look like them. gaikwad2020 names none."""
SMALLEST_SHARE = 1e-4
"""Smallest infection that counts as an object, as a share of the slice: 26 of 512 x 512 pixels, about 4 mm across. Less is rarely
a finding, and a border that is resampled leaves such specks."""


@dataclass(frozen=True, eq=False)
class Slice:
    """A slice with its objects, packed: 512 x 512 pixels and four objects take 400 kB, as floats they would take 2 MB.

    Attributes:
        name: "<case>/<index>", the index counting from the feet.
        patient: whom it shows.
        case: the volume, or the block of slices, it belongs to.
        index: which slice of the volume.
        grey: uint8 (H, W), of the window.
        packed: uint8 (n, ceil(H W / 8)), the objects' masks, bit by bit.
        labels: int32 (n,), from 1, of `CLASSES`.
        original: height and width of the slice before it was fitted.
    """

    name: str
    patient: str
    case: str
    index: int
    grey: np.ndarray
    packed: np.ndarray
    labels: np.ndarray
    original: tuple[int, int]

    @property
    def image(self) -> np.ndarray:
        """float32 (H, W) in [0, 1]."""
        return self.grey / np.float32(255)

    @property
    def masks(self) -> np.ndarray:
        """bool (n, H, W), one per object."""
        bits = np.unpackbits(self.packed, axis=1, count=self.grey.size)
        return bits.reshape(-1, *self.grey.shape).astype(bool)

    def of_class(self, label: int) -> np.ndarray:
        """All objects of a class together, bool (H, W)."""
        return self.masks[self.labels == label].any(axis=0)


def axial(voxels: np.ndarray, index: int) -> np.ndarray:
    """Slice `index` of a volume (X, Y, Z) in RAS+ order, as radiology shows it: a view (Y, X)."""
    return voxels[::-1, ::-1, index].T


def windowed(hu: np.ndarray, window: tuple[float, float] = WINDOW) -> np.ndarray:
    """HU as grey values, float32 in [0, 1]; what lies outside of the window is black or white."""
    low, high = window
    if not low < high:
        raise ParameterError(f"A window is (low, high) in HU with low < high; this one is {window}.")
    return ((hu - np.float32(low)) / np.float32(high - low)).clip(0, 1)


def of_volumes(
    dataset: Dataset,
    cases: Iterable[str],
    longer_side: int,
    window: tuple[float, float] = WINDOW,
    stored_window: tuple[float, float] = WINDOW,
    find_lungs: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]] | None = None,
    step: int = 1,
    smallest_share: float = SMALLEST_SHARE,
) -> Iterator[Slice]:
    """The slices of volumes that show a lung or an infection; one volume is in memory at a time.

    A lung is one object, though a slice may cut it twice; of the infection each connected region is one.

    Args:
        dataset: of `datasets.open`.
        cases: names of its volumes.
        longer_side: pixels of the slices.
        window: HU that become black and white.
        stored_window: HU at grey values 0 and 255, for volumes that are stored as grey values.
        find_lungs: where a volume has no mask of the lungs: from a slice, float32 (Y, X) in [0, 1], to its left and its right
            lung, bool. None refuses such volumes.
        step: every how many slices one is taken.
        smallest_share: see `make`.

    Raises:
        InputError: a volume is neither in HU nor grey values, has no mask of the infection, or of the lungs without `find_lungs`;
            or a mask does not fit its volume.
    """
    for case in cases:
        row = dataset.row(case)
        stored = stored_window if row["expected_units"] == "windowed" else None
        volume = dataset.volume(case, stored)
        if volume.units != "HU":
            notes = "; ".join(volume.notes)
            raise InputError(f"{volume.path}: its values are {volume.units}, and slices are made from HU. {notes}")
        drawn = {kind: dataset.volume_mask(case, kind) for kind in KINDS if kind == "lesion" or row.get(kind) is not None}
        if len(drawn) < len(KINDS) and find_lungs is None:
            raise InputError(f"{dataset.name}: case {case} has no masks of the left and the right lung, and no model was given.")
        for index in range(0, volume.shape[2], step):
            image = windowed(axial(volume.voxels, index), window)
            masks = {kind: axial(mask, index) for kind, mask in drawn.items()}
            if len(masks) < len(KINDS) and find_lungs is not None:
                masks["left_lung"], masks["right_lung"] = find_lungs(image)
            if any(mask.any() for mask in masks.values()):
                yield make(case, row["patient"], index, image, masks, longer_side, smallest_share)


def of_pictures(
    dataset: Dataset, cases: Iterable[str], longer_side: int, smallest_share: float = SMALLEST_SHARE
) -> Iterator[Slice]:
    """The slices of a set of pictures with masks of both lungs together and of the infection.

    Args:
        dataset: of `datasets.open`, such as covid19ct20_slices256, whose patients are volumes told by content.
        cases: names of its pictures, which must lie as radiology shows them: the sides of the lungs are told by where they are.
        longer_side: pixels.
        smallest_share: see `make`.
    """
    from covidcxr.lungs import separate

    for number, case in enumerate(cases):
        row = dataset.row(case)
        right, left = separate(dataset.mask(case, "lung"))
        masks = {"left_lung": left, "right_lung": right, "lesion": dataset.mask(case, "lesion")}
        index = int(case) if case.isdigit() else number
        yield make(row["patient"], row["patient"], index, dataset.image(case), masks, longer_side, smallest_share)


def make(
    case: str, patient: str, index: int, image: np.ndarray, masks: Mapping[str, np.ndarray], longer_side: int,
    smallest_share: float = SMALLEST_SHARE,
) -> Slice:  # fmt: skip
    """A slice with its objects.

    Args:
        case, patient, index: see `Slice`.
        image: float32 (H, W) in [0, 1].
        masks: bool (H, W), by kind: `KINDS`, each of them.
        longer_side: pixels.
        smallest_share: of the slice; smaller regions of infection are no objects. Of small slices only larger ones can be told.
    """
    picture = fit(image, longer_side)
    found, labels = [], []
    for label, kind in enumerate(KINDS, 1):
        if masks[kind].shape != image.shape:
            raise InputError(f"{case}/{index}: the mask {kind} is {masks[kind].shape}, the slice {image.shape}.")
        mask = fit(masks[kind], longer_side)
        for part in _infections(mask, smallest_share) if kind == "lesion" else [mask][: int(mask.any())]:
            found.append(np.packbits(part.reshape(-1)))
            labels.append(label)
    packed = np.stack(found) if found else np.zeros((0, -(-picture.size // 8)), np.uint8)
    grey = np.rint(picture * 255).astype(np.uint8)
    return Slice(f"{case}/{index:04}", patient, case, index, grey, packed, np.array(labels, np.int32), image.shape)


def _infections(mask: np.ndarray, smallest_share: float) -> Iterator[np.ndarray]:
    for region in regions(mask, max(1, int(np.ceil(smallest_share * mask.size)))):
        x0, y0, x1, y1 = region.box.astype(int)
        whole = np.zeros(mask.shape, bool)
        whole[y0:y1, x0:x1] = region.mask
        yield whole


def table(slices: Iterable[Slice]) -> pandas.DataFrame:
    """One row per slice, as `splits` takes them: case (its name), patient, volume, index, objects of each class."""
    import pandas as pd

    rows = [
        {"case": one.name, "patient": one.patient, "volume": one.case, "index": one.index,
         **{name: int(np.count_nonzero(one.labels == label)) for label, name in enumerate(CLASSES, 1)}}
        for one in slices
    ]  # fmt: skip
    return pd.DataFrame(rows)


# ---- the record of an image ---------------------------------------------------------------------------------------------

BOX_MODES = {"XYXY_ABS": 0, "XYWH_ABS": 1}  # detectron2's numbers


def records(
    slices: Sequence[Slice], folder: Path, box_mode: Literal["XYXY_ABS", "XYWH_ABS"] = "XYXY_ABS",
    outlines: Literal["polygons", "run_lengths"] = "polygons",
) -> list[dict[str, Any]]:  # fmt: skip
    """Slices as detectron2 reads its own: a record per image with the fields of gaikwad2020's Table 1, and the images.

    The images are written as `<case>/<index>.png` in grey, the records as `records.json`; `json.load` of it is what a function
    registered in detectron2's DatasetCatalog returns (its documentation, "Use Custom Datasets"). There classes count from 0.

    Args:
        slices: with their objects.
        folder: is made; file names in the records are relative to it.
        box_mode: of `bbox`: corners, or the first corner with width and height.
        outlines: "polygons", exact ones, whose holes hang on bridges (`labels.polygons`), or COCO's "run_lengths".
    """
    import json

    import cv2

    from covidcxr.maskrcnn.batches import boxes_of_masks

    if box_mode not in BOX_MODES or outlines not in ("polygons", "run_lengths"):
        raise ParameterError(f"Boxes are {' or '.join(BOX_MODES)}, outlines polygons or run_lengths; not {box_mode}, {outlines}.")
    made: list[dict[str, Any]] = []
    for image_id, one in enumerate(slices, 1):
        height, width = one.grey.shape
        annotations: list[dict[str, Any]] = []
        for mask, label in zip(one.masks, one.labels, strict=True):
            x1, y1, x2, y2 = (float(x) for x in boxes_of_masks(mask[None])[0])
            drawn: Any = run_lengths(mask)
            if outlines == "polygons":
                drawn = [polygon.reshape(-1).tolist() for polygon in polygons(mask)]
            annotations.append({
                "bbox": [x1, y1, x2, y2] if box_mode == "XYXY_ABS" else [x1, y1, x2 - x1, y2 - y1],
                "bbox_mode": BOX_MODES[box_mode], "category_id": int(label) - 1, "segmentation": drawn, "iscrowd": 0,
            })  # fmt: skip
        name = f"{one.name}.png"
        write_atomically(folder / name, cv2.imencode(".png", one.grey)[1].tobytes())
        made.append({"file_name": name, "height": height, "width": width, "image_id": image_id, "annotations": annotations})
    write_atomically(folder / "records.json", json.dumps(made))
    return made


# ---- one object per class ----------------------------------------------------------------------------------------------


def united(one: Slice) -> Slice:
    """The slice with its infections as one object: the count of gaikwad2020, whose 607 infections lie in more than 820 slices."""
    classes = [label for label in range(1, len(CLASSES) + 1) if (one.labels == label).any()]
    packed = np.stack([np.packbits(one.of_class(label).reshape(-1)) for label in classes]) if classes else one.packed[:0]
    return replace(one, packed=packed, labels=np.array(classes, np.int32))


def united_results(found: Sequence[Found], score: float) -> list[dict[str, Any]]:
    """What was found as COCO's list of results, with one object per class and slice: all that reach `score` together.

    Args:
        found: of `maskrcnn.inference.find`, in pixels of the slices that the truth is of; image ids count from 1.
        score: objects below are left out; the united one has the best score of its parts.
    """
    from covidcxr.maskrcnn.batches import boxes_of_masks

    made = []
    for image_id, one in enumerate((one.above(score) for one in found), 1):
        masks = one.whole_masks()
        for label in np.unique(one.labels):
            union = masks[one.labels == label].any(axis=0)
            if union.any():
                x1, y1, x2, y2 = (float(x) for x in boxes_of_masks(union[None])[0])
                made.append({
                    "image_id": image_id, "category_id": int(label), "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "score": float(one.scores[one.labels == label].max()), "segmentation": run_lengths(union),
                })  # fmt: skip
    return made


# ---- quantities --------------------------------------------------------------------------------------------------------


def label_picture(masks: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Labels pixel by pixel, uint8 (H, W), 0 for none: infections lie over lungs, earlier objects over later ones of their class.

    Args:
        masks: bool (n, H, W).
        labels: int (n,), of `CLASSES`, from 1.
    """
    picture = np.zeros(masks.shape[1:], np.uint8)
    for number in sorted(range(len(labels)), key=lambda i: (labels[i], -i)):
        picture[masks[number]] = labels[number]
    return picture


def infected_share(left: np.ndarray, right: np.ndarray, infection: np.ndarray, pixel_mm2: float = 1.0) -> dict[str, float]:
    """Areas of one slice, and the infected share of each lung; NaN where a lung is not cut.

    Args:
        left, right, infection: bool (H, W); what of the infection lies in a lung is part of that lung, drawn so or not.
        pixel_mm2: area of a pixel, for areas in mm².

    Returns:
        left, right, left_infected, right_infected, outside: areas; left_share, right_share, share (of both): 0 to 1.
    """
    # Where consolidation touches the chest wall many lung masks stop short of it; the infection then belongs to the nearer lung.
    sides = _sides(left, right, infection)
    area = {
        "left": float((left | sides[0]).sum() * pixel_mm2),
        "right": float((right | sides[1]).sum() * pixel_mm2),
        "left_infected": float(sides[0].sum() * pixel_mm2),
        "right_infected": float(sides[1].sum() * pixel_mm2),
        "outside": float((infection & ~left & ~right).sum() * pixel_mm2),
    }
    whole = area["left"] + area["right"]
    return area | {
        "left_share": area["left_infected"] / area["left"] if area["left"] else np.nan,
        "right_share": area["right_infected"] / area["right"] if area["right"] else np.nan,
        "share": (area["left_infected"] + area["right_infected"]) / whole if whole else np.nan,
    }


def _sides(left: np.ndarray, right: np.ndarray, infection: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The infection of the left and of the right lung: what lies in neither belongs to the nearer one."""
    from scipy import ndimage

    in_left, in_right = infection & left, infection & right & ~left
    outside = infection & ~left & ~right
    if outside.any() and (left.any() or right.any()):
        rows, columns = ndimage.distance_transform_edt(~(left | right), return_distances=False, return_indices=True)
        nearest = left[rows[outside], columns[outside]]
        in_left[outside], in_right[outside] = nearest, ~nearest
    return in_left, in_right


# ---- volumes of labels -------------------------------------------------------------------------------------------------


def assemble(pictures: Iterable[tuple[int, np.ndarray]], shape: tuple[int, int, int]) -> np.ndarray:
    """Slices put back into a volume: uint8 (X, Y, Z) in RAS+ order, 0 where no slice was given.

    Args:
        pictures: index and labels, uint8 (Y, X), of each slice, as `axial` shows it.
        shape: (X, Y, Z) of the volume.
    """
    labels = np.zeros(shape, np.uint8)
    for index, picture in pictures:
        if not 0 <= index < shape[2] or picture.shape != (shape[1], shape[0]):
            raise InputError(
                f"Slice {index} of {picture.shape} pixels does not fit into a volume of {shape} (right, front, up): slices are "
                f"{(shape[1], shape[0])}, from 0 to {shape[2] - 1}."
            )
        axial(labels, index)[:] = picture
    return labels


def write_labels(labels: np.ndarray, volume: Volume, path: Path) -> None:
    """Save a volume of labels as NIfTI, on the grid of the file that the volume came from.

    Axes, shape and affine are that file's, so that ITK-SNAP and 3D Slicer lay one over the other. 0 background, then `CLASSES`:
    1 left lung, 2 right lung, 3 infection, as in COVID-19-CT-Seg's own files.

    Args:
        labels: uint8 (X, Y, Z), in the order of `volume.voxels`.
        volume: read from a file, `volumes.read_volume`.
        path: ends in .nii.gz.
    """
    import nibabel as nib

    if labels.shape != volume.shape or labels.dtype != np.uint8:
        raise InputError(f"Labels must be uint8 {volume.shape}, as the volume; these are {labels.dtype} {labels.shape}.")
    if not path.name.endswith(".nii.gz"):
        raise InputError(f"{path}: labels are saved as .nii.gz.")
    source: Any = nib.load(volume.path)
    back = nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("RAS"), nib.io_orientation(source.affine))
    stored = np.asfortranarray(nib.apply_orientation(labels, back))
    image = nib.Nifti1Image(stored, source.affine)
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = b"1 left lung, 2 right lung, 3 infection"
    image.set_sform(source.affine, code=int(source.header["sform_code"]) or 1)
    write_atomically(path, gzip.compress(image.to_bytes(), 6, mtime=0))
