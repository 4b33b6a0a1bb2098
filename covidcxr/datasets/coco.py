"""Masks from a COCO annotation file: polygons and RLE, decoded by pycocotools."""

import json
from pathlib import Path

import numpy as np

from covidcxr.datasets.images import stem
from covidcxr.errors import InputError


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
            content = json.loads(path.read_text(encoding="utf-8"))
            kinds = {category["id"]: kind_of(category["name"]) for category in content["categories"]}
            self._images = {image["id"]: image for image in content["images"]}
            annotations = content["annotations"]
            words = {tag["id"]: tag["name"] for tag in content.get("tag_categories", ())}
            self.tags = {
                stem(image["file_name"]): [words[tag] for tag in image.get("tag_ids", ())] for image in self._images.values()
            }
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{path}: not a readable COCO file ({type(error).__name__}: {error}); the keys images, annotations and "
                "categories are expected"
            ) from error
        self.filenames = [Path(image["file_name"]).name for image in self._images.values()]
        self._sizes = {stem(image["file_name"]): (image["height"], image["width"]) for image in self._images.values()}
        self._outlines: dict[tuple[str, str], list] = {}
        for annotation in annotations:
            if annotation["image_id"] not in self._images or annotation["category_id"] not in kinds:
                raise InputError(
                    f"{path}: annotation {annotation.get('id')} belongs to image {annotation['image_id']} and category "
                    f"{annotation['category_id']}, one of which the file does not list"
                )
            kind = kinds[annotation["category_id"]]
            if kind is not None:
                case = stem(self._images[annotation["image_id"]]["file_name"])
                self._outlines.setdefault((case, kind), []).append(annotation)

    def has(self, case: str, kind: str) -> bool:
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
        from pycocotools import mask as coco

        shape = annotation["segmentation"]
        where = f"{self.path}: annotation {annotation.get('id')}"
        if isinstance(shape, list):  # polygons [x1, y1, x2, y2, ...]
            if any(len(polygon) < 6 or len(polygon) % 2 for polygon in shape):
                raise InputError(f"{where}: a polygon needs at least three points as x1, y1, x2, y2, …")
            codes = coco.frPyObjects(shape, *size) if shape else []
        elif isinstance(shape, dict) and {"counts", "size"} <= set(shape):
            # Darwin exports the run lengths of complex polygons as a list, column by column, but with width before height.
            if isinstance(shape["counts"], list) and list(shape["size"]) == list(size)[::-1]:
                shape = {**shape, "size": list(size)}
            if list(shape["size"]) != list(size):
                raise InputError(f"{where}: its RLE is for a size of {shape['size']}, the image has {list(size)} (height, width)")
            codes = [shape if isinstance(shape["counts"], str) else coco.frPyObjects(shape, *size)]
        else:
            raise InputError(f"{where}: segmentation must be a list of polygons or an RLE with counts and size")
        return coco.decode(coco.merge(codes)).astype(bool) if codes else np.zeros(size, bool)
