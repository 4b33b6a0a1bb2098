"""Lungs and opacities that the authors of tang2020 outlined with labelme, in the rural cohort and in the Cohen collection."""

from pathlib import Path

import numpy as np

from covidcxr.datasets.base import Dataset
from covidcxr.datasets.checks import check_image_file, check_lesion_in_lung
from covidcxr.datasets.images import is_volume, read_size, united
from covidcxr.datasets.labelme import LabelmeMasks, check_case, label_key
from covidcxr.errors import InputError

# Labels found in the authors' files, the regular spelling of the first, and the paper's own words for the same.
KINDS = {
    "left_lung": "left_lung",
    "right_lung": "right_lung",
    "lung": "both_lungs",
    "lungs": "both_lungs",
    "groud_glass_opacity": "ground_glass",
    "ground_glass_opacity": "ground_glass",
    "ground_glass_opacities": "ground_glass",
    "consolidation": "consolidation",
    "consolidations": "consolidation",
    "opacity": "opacity",
    "opacities": "opacity",
    "haziness": "opacity",
}
LUNGS = ("left_lung", "right_lung", "both_lungs")
OPACITIES = ("ground_glass", "consolidation", "opacity")


def opacity_kind(label: str) -> str | None:
    """Kind of mask for a label of the authors' files, in any case and with any separator between words; None for others."""
    return KINDS.get(label_key(label))


class OutlinedRadiographs(Dataset):
    """Pictures of which some have a labelme file. A set's `_rows` fills `_masks` and adds `_outlined` to each row."""

    LABELS = {kind: (kind, None) for kind in LUNGS + OPACITIES}
    UNIONS = {"lung": LUNGS, "lesion": OPACITIES}

    _masks: LabelmeMasks

    def _outlined(self, case: str, annotation: str) -> dict:
        """Columns of a row: annotated, lung_outlines (their number), annotation (the json file, given as `annotation`), and
        that file for every kind of mask that it outlines."""
        annotated = case in self._masks
        outlines = self._masks.files[case].kinds if case in self._masks.files else {}
        row: dict = {
            "annotated": annotated,
            "lung_outlines": sum(outlines.get(kind, 0) for kind in LUNGS),
            "annotation": annotation if annotated else None,
        }
        row |= {kind: annotation if kind in outlines else None for kind in self.LABELS}
        row |= {kind: annotation if any(part in outlines for part in parts) else None for kind, parts in self.UNIONS.items()}
        return row

    def mask(self, case: str, kind: str) -> np.ndarray:
        """Mask of an image, bool (H, W); empty where nothing of the kind is outlined in an annotated image.

        Raises:
            InputError: the image has no outlines (`annotated` is False), or they cannot be read or belong to another size.
        """
        self._check_kind(kind)
        if kind in self.UNIONS:
            return united(self.mask(case, part) for part in self.UNIONS[kind])
        size = read_size(self._image_path(self.row(case), volume=False))
        return self._masks.mask(case, kind, size)

    def _check_case(self, row: dict, report) -> dict:
        if is_volume(row["image"]):
            return super()._check_case(row, report)
        measured, image = check_image_file(self.folder / row["image"], report)
        if image is not None and row["annotated"]:
            self._check_outlines(row["case"], Path(row["image"]).name, image.shape, measured, report)
        return measured

    def _check_outlines(self, case: str, image: str, size: tuple[int, int], measured: dict, report) -> None:
        check_case(self._masks, case, image, size, KINDS, report)
        file = self._masks.files.get(case)
        if file is None or file.size not in (None, size):
            return  # has been told
        drawn = {}
        for kind in file.kinds:
            try:
                drawn[kind] = file.mask(kind, size)
            except InputError as error:
                report.error("mask", str(error), file=file.path.name)
                continue
            if not drawn[kind].any():
                report.warning("empty mask", f"the outlines of {kind} cover no pixel", file=file.path.name)
        _check_sides(drawn, file.kinds, report)
        nothing = np.zeros(size, bool)
        lung, lesion = (united([nothing.copy(), *(drawn[part] for part in self.UNIONS[kind] if part in drawn)])
                        for kind in ("lung", "lesion"))
        measured["lung_pixels"], measured["lesion_pixels"] = int(lung.sum()), int(lesion.sum())
        check_lesion_in_lung(lesion, lung, measured, report)


def _check_sides(drawn: dict[str, np.ndarray], outlines: dict[str, int], report) -> None:
    for side, other in (("left_lung", "right_lung"), ("right_lung", "left_lung")):
        if side not in outlines and "both_lungs" not in outlines:
            more = f"; {other.replace('_', ' ')} has {outlines[other]} outlines" if outlines.get(other, 0) > 1 else ""
            report.warning("lung missing", f"no {side.replace('_', ' ')} is outlined{more}")
    if all(side in drawn and drawn[side].any() for side in ("left_lung", "right_lung")):
        left, right = (np.nonzero(drawn[side].any(axis=0))[0].mean() for side in ("left_lung", "right_lung"))
        if left < right:
            report.warning("sides", "the left lung lies on the image's left: mirrored image or swapped names")
