"""Masks from a COCO annotation file: polygons and RLE, decoded by pycocotools."""

from pathlib import Path

import numpy as np

from covidcxr.datasets.images import stem
from covidcxr.datasets.outlines import check_reach, rasterise
from covidcxr.errors import InputError
from covidcxr.paths import read_json


class CocoMasks:
    """Outlines of a COCO file by image and kind.

    Args:
        path: the json file.
        kind_of: maps a category's name to a kind of mask, or None for a category that is not wanted.

    Attributes:
        filenames: of the images, without folders.
        tags: image, by its name without suffix -> names of its tags, where the file has any (those that V7's Darwin exports do).
    """

    def __init__(self, path: Path, kind_of):
        self.path = path
        try:
            content = read_json(path, "COCO file")
            kinds = {category["id"]: kind_of(category["name"]) for category in content["categories"]}
            self._images = {image["id"]: image for image in content["images"]}
            self._sizes = {stem(image["file_name"]): (image["height"], image["width"]) for image in self._images.values()}
            self.filenames = [Path(image["file_name"]).name for image in self._images.values()]
            self._outlines: dict[tuple[str, str], list[dict]] = {}
            for annotation in content["annotations"]:
                self._add(annotation, kinds)
            words = {tag["id"]: tag["name"] for tag in content.get("tag_categories", ())}
            self.tags = {
                stem(image["file_name"]): [words[tag] for tag in image.get("tag_ids", ())] for image in self._images.values()
            }
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{path}: not a readable COCO file ({type(error).__name__}: {error}); the keys images, annotations and "
                "categories are expected"
            ) from error

    def _add(self, annotation: dict, kinds: dict) -> None:
        image, category = annotation["image_id"], annotation["category_id"]
        if image not in self._images or category not in kinds:
            raise InputError(
                f"{self.path}: annotation {annotation.get('id')} belongs to image {image} and category {category}, one of which "
                "the file does not list"
            )
        if kinds[category] is not None:
            case = stem(self._images[image]["file_name"])
            self._outlines.setdefault((case, kinds[category]), []).append(annotation)

    def has(self, case: str, kind: str) -> bool:
        """Whether the file has an outline of that kind in that image."""
        return (case, kind) in self._outlines

    def mask(self, case: str, kind: str, size: tuple[int, int]) -> np.ndarray:
        """Union of the outlines of one kind, bool (H, W) of `size`; empty where there is none.

        Raises:
            InputError: the image is not in the file, its size differs, or an outline cannot be decoded.
        """
        if case not in self._sizes:
            raise InputError(f"{self.path}: image {case} is not listed")
        if self._sizes[case] != tuple(size):
            raise InputError(
                f"{self.path}: image {case} is listed with height x width {self._sizes[case]}, the file has {tuple(size)}"
            )
        union = np.zeros(size, bool)
        for annotation in self._outlines.get((case, kind), ()):
            union |= self._decode(annotation, size)
        return union

    def _decode(self, annotation: dict, size: tuple[int, int]) -> np.ndarray:
        shape = annotation.get("segmentation")
        where = f"{self.path}: annotation {annotation.get('id')}"
        if isinstance(shape, list):
            outlines = [_points(polygon, where) for polygon in shape]
            for outline in outlines:
                check_reach(outline, size, where)
            return rasterise(outlines, size)
        if not isinstance(shape, dict) or not {"counts", "size"} <= set(shape):
            raise InputError(f"{where}: segmentation must be a list of polygons or an RLE with counts and size")
        # Darwin exports the run lengths of complex polygons as a list, column by column, but with width before height.
        turned = isinstance(shape["counts"], list) and shape["size"] == list(size)[::-1]
        if shape["size"] != list(size) and not turned:
            raise InputError(f"{where}: its RLE is for a size of {shape['size']}, the image has {list(size)} (height, width)")
        return _filled(shape["counts"], size, where)


def _points(polygon, where: str) -> np.ndarray:
    """float64 (n, 2) from [x1, y1, x2, y2, …]."""
    try:
        points = np.array(polygon, np.float64)
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"{where}: a polygon is a list of numbers, found {str(polygon)[:60]}") from None
    if points.ndim != 1 or len(points) < 6 or len(points) % 2:
        raise InputError(f"{where}: a polygon needs at least three points as x1, y1, x2, y2, …")
    return points.reshape(-1, 2)


def _filled(counts, size: tuple[int, int], where: str) -> np.ndarray:
    """A mask from run lengths, column by column, of which the second, fourth, … are foreground. pycocotools takes those that end
    early, and leaves the rest of the mask as it found the memory."""
    try:
        runs = _run_lengths(counts) if isinstance(counts, str) else counts
        whole = all(type(run) is int and run >= 0 for run in runs) and sum(runs) == size[0] * size[1]
    except (TypeError, ValueError, StopIteration):
        whole = False
    if not whole:
        raise InputError(f"{where}: its run lengths do not fill the image of {size[0]} x {size[1]} pixels (height x width)")
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(size, order="F")


def _run_lengths(text: str) -> list[int]:
    """The lengths that COCO packs into a text: five bits a character, the lowest first; from the fourth on, differences from
    the length two before."""
    lengths: list[int] = []
    characters = iter(text.encode("ascii"))
    for code in characters:
        value, shift, bits = 0, 0, code - 48
        while bits & 32:
            if shift > 60:
                raise ValueError("no length takes so many bits")
            value |= (bits & 31) << shift
            shift += 5
            bits = next(characters) - 48
        value |= (bits & 31) << shift
        if bits & 16:
            value -= 32 << shift
        lengths.append(value + (lengths[-2] if len(lengths) > 2 else 0))
    return lengths
