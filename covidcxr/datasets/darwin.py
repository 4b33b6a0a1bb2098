"""Annotations exported from V7's Darwin: one json file per image, with its tags and polygons (https://docs.v7labs.com/reference).

Two versions are read. 1.0 has `image` with filename and original_filename, and polygons with `path`, those of several paths as
`complex_polygon`; 2.0 has `item` with slots and their source files, and polygons with `paths`. What is made of them:
- Points are pixels, (0, 0) the first one. The pixels that an outline runs through belong to it, as in Darwin's own masks.
- Several paths of one polygon are filled by the even-odd rule: a path inside another is a hole.
- What leaves the image is cut off at its border; a point further out than the image is large is an error.
- A name that is of no known kind is counted in `unknown`; its shapes are in no mask.
- Points are looked at when a mask is asked for, and the file is read again: those of thousands of files would fill the memory.
"""

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from covidcxr.datasets.images import stem
from covidcxr.datasets.outlines import check_reach, stated_size
from covidcxr.errors import InputError
from covidcxr.paths import read_json

FORM = "annotation file"
_POLYGONS = ("polygon", "complex_polygon")
_HUGE = 1e9  # pixels; NaN and infinity are not below it


class DarwinFile:
    """What a file of Darwin says of one image.

    Args:
        path: the json file.
        kind_of: maps the name of a polygon to a kind of mask, or None for a name that is not known.
        content: of the file, where it has been read already.

    Attributes:
        names: file names of the image, without folders: as Darwin stores it, as it was uploaded.
        identifier: Darwin's number of the image, from its address; None where there is none.
        size: (H, W) of the image, None where the file does not say.
        tags: as written, in order.
        kinds: kind of mask -> number of its polygons.
        unknown: how often each name occurs that is of no known kind.

    Raises:
        InputError: not a Darwin file, or one with lungs that are no polygons.
    """

    def __init__(self, path: Path, kind_of: Callable[[str], str | None], content=None):
        self.path, self._kind_of = path, kind_of
        content = read_json(path, FORM) if content is None else content
        if not is_darwin(content):
            raise InputError(f"{path}: not a file of Darwin: an object with `annotations` and `image` or `item` is expected")
        self.names, self.size, self.identifier = _image(content, path)
        self.tags: list[str] = []
        self.unknown: Counter[str] = Counter()
        self.kinds: Counter[str] = Counter()
        for number, annotation in enumerate(content["annotations"], start=1):
            where = f"{path}: annotation {number}"
            if not isinstance(annotation, dict) or not isinstance(annotation.get("name"), str):
                raise InputError(f"{where}: an object with a name is expected")
            if "tag" in annotation:
                self.tags.append(annotation["name"])
            elif (kind := kind_of(annotation["name"])) is None:
                self.unknown[annotation["name"]] += 1
            else:
                _paths(annotation, where)
                self.kinds[kind] += 1

    def mask(self, kind: str, size: tuple[int, int]) -> np.ndarray:
        """Union of the polygons of one kind, bool (H, W) of `size`; empty where there is none.

        Raises:
            InputError: the file is for an image of another size, a polygon's points cannot be read, or lie far outside.
        """
        if self.size is not None and self.size != tuple(size):
            raise InputError(
                f"{self.path}: drawn on an image of {self.size[1]} x {self.size[0]} pixels (width x height), the image has "
                f"{size[1]} x {size[0]}"
            )
        union = np.zeros(size, bool)
        for number, annotation in enumerate(self._annotations(), start=1):
            if "tag" not in annotation and self._kind_of(annotation["name"]) == kind:
                where = f"{self.path}: annotation {number}"
                paths = [_points(path, f"{where} ({annotation['name']})") for path in _paths(annotation, where)]
                union |= _filled(paths, size, where)
        return union

    def _annotations(self) -> list[dict]:
        """Read anew; a file that has changed since may be anything."""
        content = read_json(self.path, FORM)
        annotations: list = content["annotations"] if is_darwin(content) else [None]
        if not all(isinstance(annotation, dict) and isinstance(annotation.get("name"), str) for annotation in annotations):
            raise InputError(f"{self.path}: the file was changed while it was in use")
        return annotations


def is_darwin(content) -> bool:
    """Whether the content of a json file is in Darwin's format, in either version."""
    return (
        isinstance(content, dict)
        and isinstance(content.get("annotations"), list)
        and any(isinstance(content.get(key), dict) for key in ("image", "item"))
    )


def _image(content: dict, path: Path) -> tuple[tuple[str, ...], tuple[int, int] | None, int | None]:
    """File names, size and Darwin's number of the image."""
    if isinstance(content.get("image"), dict):  # 1.0
        about = content["image"]
        names, addresses = [about.get("filename"), about.get("original_filename")], [about.get("url")]
    else:
        slots = content["item"].get("slots")
        if not isinstance(slots, list) or len(slots) != 1 or not isinstance(slots[0], dict):
            raise InputError(f"{path}: `item` has no list `slots` with one image in it")
        about = slots[0]
        listed = about.get("source_files")
        sources = [source for source in (listed if isinstance(listed, list) else ()) if isinstance(source, dict)]
        names = [content["item"].get("name"), *(source.get("file_name") for source in sources)]
        addresses = [source.get("url") for source in sources]
    known = tuple(dict.fromkeys(re.split(r"[\\/]", name)[-1] for name in names if isinstance(name, str) and name))
    if not known:
        raise InputError(f"{path}: the file does not name its image")
    numbers = re.findall(r"/images/(\d{1,18})/", " ".join(map(str, addresses)))
    return known, stated_size(about, "height", "width", path), int(numbers[0]) if numbers else None


def _paths(annotation: dict, where: str) -> list:
    """The paths of a polygon, as they are in the file."""
    form = next((form for form in _POLYGONS if form in annotation), None)
    shape = annotation.get(form) if form else None
    if not isinstance(shape, dict):
        kinds = ", ".join(sorted(set(annotation) - {"name"})) or "nothing"
        raise InputError(f"{where} ({annotation['name']}): a polygon is expected, found {kinds}")
    paths = shape.get("paths") or shape.get("path")
    if isinstance(paths, list) and paths and isinstance(paths[0], dict):
        paths = [paths]
    if not isinstance(paths, list) or not paths:
        raise InputError(f"{where} ({annotation['name']}): a polygon without a path")
    return paths


def _points(path, where: str) -> np.ndarray:
    """float64 (n, 2) of (x, y)."""
    try:
        points = np.array([(point["x"], point["y"]) for point in path], np.float64)
    except (TypeError, KeyError, ValueError, OverflowError):
        raise InputError(f"{where}: a path is a list of points with x and y, found {str(path)[:60]}") from None
    if len(points) < 3 or not (np.abs(points) < _HUGE).all():
        raise InputError(f"{where}: a path has at least three points of finite x and y, found {str(path)[:60]}")
    return points


def _filled(paths: list[np.ndarray], size: tuple[int, int], where: str) -> np.ndarray:
    import cv2

    for path in paths:
        check_reach(path, size, where)
    canvas = np.zeros(size, np.uint8)
    cv2.fillPoly(canvas, [np.round(path).astype(np.int32) for path in paths], 1)
    return canvas.astype(bool)


def stems(file: DarwinFile) -> list[str]:
    """Names without suffix under which the image of a file, or a mask of it, may be stored."""
    identifier = [] if file.identifier is None else [str(file.identifier)]
    return list(dict.fromkeys([*(stem(name) for name in file.names), stem(file.path), *identifier]))
