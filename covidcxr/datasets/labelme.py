"""Outlines drawn with labelme: one json file per image, with the points of each shape (https://github.com/wkentaro/labelme).

What a file says, and what is made of it:
- Points are (x, y) in pixels of the image, (0, 0) its upper left corner: the first pixel's centre is at (0.5, 0.5).
- A polygon, whether or not its last point repeats the first, a rectangle (two corners) and a circle (centre, point of the rim)
  enclose an area. A polygon whose points lie on one line, and a line, linestrip or point enclose none: they add nothing to a
  mask, and `notes` names them.
- What leaves the image is cut off at its border, and `overhang` says how far out it lies; a point further out than the image is
  large belongs to another image, and is an error.
- imageData, the image itself in base64, is ignored. imagePath is only compared with the file's own name, never opened.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from covidcxr.datasets.images import stem
from covidcxr.datasets.outlines import check_reach, rasterise, stated_size
from covidcxr.errors import InputError, did_you_mean
from covidcxr.paths import read_json

_AREAS = ("polygon", "rectangle", "circle")
_NO_AREA = ("line", "linestrip", "point", "points")
_RIM_POINTS = 64  # of the polygon that stands for a circle
_HUGE = 1e9  # pixels; NaN and infinity are not below it
_SLACK = 1.0  # pixels beyond the border that are not worth a word: labelme itself stops the pointer there


def label_key(label: str) -> str:
    """A label in lower case with single underscores: "Left Lung " and "left-lung" are "left_lung"."""
    return re.sub(r"[^a-z0-9]+", "_", label.lower()).strip("_")


class LabelmeFile:
    """The outlines of one image.

    Args:
        path: the json file.
        kind_of: maps a label to a kind of mask, or None for a label that is not known.

    Attributes:
        size: (H, W) of the image as the file has it, None where it does not say.
        image_name: file name of the image, without the folders of the annotator's machine; "" where it does not say.
        unknown: how often each label occurs that is of no known kind; these shapes are in no mask.
        notes: other shapes that need a word, one sentence each.

    Raises:
        InputError: not a labelme file, or a shape that cannot be read.
    """

    def __init__(self, path: Path, kind_of: Callable[[str], str | None]):
        self.path = path
        content = _read(path)
        self.size = stated_size(content, "imageHeight", "imageWidth", path)
        self.image_name = re.split(r"[\\/]", str(content.get("imagePath") or ""))[-1]
        self.unknown: Counter[str] = Counter()
        self.notes: list[str] = []
        self._outlines: dict[str, list[np.ndarray]] = {}
        for number, shape in enumerate(content["shapes"], start=1):
            self._add(shape, f"{path}: shape {number}", kind_of)

    def _add(self, shape, where: str, kind_of: Callable[[str], str | None]) -> None:
        if not isinstance(shape, dict) or not isinstance(shape.get("label"), str):
            raise InputError(f"{where}: an object with a label and points is expected")
        label, form = shape["label"], shape.get("shape_type") or "polygon"
        points = _points(shape.get("points"), f"{where} ({label})")
        kind = kind_of(label)
        if kind is None:
            self.unknown[label] += 1
            return
        if form not in _AREAS + _NO_AREA:
            raise InputError(f"{where} ({label}): shape_type {form!r} is not read; {', '.join(_AREAS)} are")
        outline = _outline(form, points, f"{where} ({label})") if form in _AREAS else np.zeros((0, 2))
        if len(outline) < 3 or np.linalg.matrix_rank(outline - outline[0]) < 2:
            self.notes.append(f"{where.rpartition(': ')[2]} ({label}): a {form} of {len(points)} points encloses no area")
            return
        self._outlines.setdefault(kind, []).append(outline)

    @property
    def kinds(self) -> dict[str, int]:
        """Kind of mask -> number of its outlines."""
        return {kind: len(outlines) for kind, outlines in self._outlines.items()}

    def mask(self, kind: str, size: tuple[int, int]) -> np.ndarray:
        """Union of the outlines of one kind, bool (H, W) of `size`; empty where there is none.

        Raises:
            InputError: the file is for an image of another size, or an outline lies far outside.
        """
        self.check_size(size)
        outlines = self._outlines.get(kind, [])
        for outline in outlines:
            check_reach(outline, size, f"{self.path}: an outline of {kind}")
        return rasterise(outlines, size)

    def check_size(self, size: tuple[int, int]) -> None:
        """That the outlines were drawn on an image of that size (H, W), as far as the file says.

        Raises:
            InputError: they were drawn on one of another size.
        """
        if self.size is not None and self.size != tuple(size):
            raise InputError(
                f"{self.path}: drawn on an image of {self.size[1]} x {self.size[0]} pixels (width x height), the image has "
                f"{size[1]} x {size[0]}"
            )

    def overhang(self, size: tuple[int, int]) -> dict[str, float]:
        """Kind -> pixels by which its outlines leave an image of `size`, where that is more than one; they are cut off there."""
        beyond = {}
        for kind, outlines in self._outlines.items():
            points = np.concatenate(outlines)
            furthest = float(max((-points).max(), (points - np.array(size[::-1])).max()))
            if furthest > _SLACK:
                beyond[kind] = furthest
        return beyond


class LabelmeMasks:
    """Outlines of many labelme files by image and kind. An image goes by the name of its json file, without ".json".

    Args:
        paths: the json files.
        kind_of: maps a label to a kind of mask, or None for a label that is not known.

    Attributes:
        files: case -> its `LabelmeFile`.
        unreadable: case -> what is wrong with its file; asking for its masks raises that.
    """

    def __init__(self, paths: Iterable[Path], kind_of: Callable[[str], str | None]):
        self.files: dict[str, LabelmeFile] = {}
        self.unreadable: dict[str, str] = {}
        for path in paths:
            case = stem(path)
            try:
                self.files[case] = LabelmeFile(path, kind_of)
            except InputError as error:
                self.unreadable[case] = str(error)

    def __contains__(self, case: str) -> bool:
        return case in self.files or case in self.unreadable

    def has(self, case: str, kind: str) -> bool:
        """Whether an image has an outline of that kind."""
        return case in self.files and kind in self.files[case].kinds

    def mask(self, case: str, kind: str, size: tuple[int, int]) -> np.ndarray:
        """Union of the outlines of one kind, bool (H, W) of `size`; empty where there is none.

        Raises:
            InputError: no file for this image, a file that cannot be read, or one for an image of another size.
        """
        if case in self.unreadable:
            raise InputError(self.unreadable[case])
        if case not in self.files:
            raise InputError(f"image {case} has no labelme file ({case}.json)")
        return self.files[case].mask(kind, size)


def check_case(masks: LabelmeMasks, case: str, image: str, size: tuple[int, int], known: Iterable[str], report) -> None:
    """Tell what is to be told about an image's labelme file: unreadable, of another image or size, unknown labels, shapes without
    area, outlines that leave the image.

    Args:
        image: file name of the picture.
        known: labels that are read, as `label_key` writes them; the nearest is named beside one that is not.
    """
    if case in masks.unreadable:
        report.error("unreadable annotation", masks.unreadable[case])
        return
    file = masks.files[case]
    name = file.path.name
    try:
        file.check_size(size)
    except InputError as error:
        report.error("annotation size", str(error), file=name)
    if file.image_name and stem(file.image_name) != stem(image):
        text = f"{name} names the image {file.image_name!r}, its own is {image!r}"
        report.warning("annotation of another image", text, file=name)
    for label, number in file.unknown.items():
        hint = did_you_mean(label_key(label), known)
        report.warning("unknown label", f"{number} of {name} with the label {label!r}, which is in no mask.{hint}", file=name)
    for note in file.notes:
        report.warning("shape without area", f"{name}, {note}", file=name)
    for kind, pixels in file.overhang(size).items():
        report.warning("outline leaves the image", f"{name}: {kind} by {pixels:.0f} pixels; it is cut off there", file=name)


def _read(path: Path) -> dict:
    content = read_json(path, "labelme file")
    if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
        raise InputError(f"{path}: not a labelme file: an object with a list `shapes` is expected")
    return content


def _points(points, where: str) -> np.ndarray:
    """float64 (n, 2)."""
    if not isinstance(points, list) or not all(map(_is_point, points)):
        raise InputError(f"{where}: points must be a list of [x, y], found {str(points)[:60]}")
    return np.array(points, np.float64).reshape(-1, 2)


def _is_point(point) -> bool:
    if not isinstance(point, list) or len(point) != 2:
        return False
    return all(isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < _HUGE for value in point)


def _outline(form: str, points: np.ndarray, where: str) -> np.ndarray:
    if form == "polygon":
        return points
    if len(points) != 2:
        raise InputError(f"{where}: a {form} has two points, found {len(points)}")
    (x, y), (x2, y2) = points
    if form == "rectangle":
        return np.array([[x, y], [x2, y], [x2, y2], [x, y2]])
    angles = 2 * np.pi * np.arange(_RIM_POINTS) / _RIM_POINTS
    return points[0] + np.hypot(x2 - x, y2 - y) * np.stack([np.cos(angles), np.sin(angles)], axis=1)
