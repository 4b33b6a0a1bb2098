"""Labels for instance segmentation from a projected mask: connected regions, a concave hull each, COCO and VIA files.

The procedure of ramesh2021, section 2.2: the mask projection falls into disjoint opacity regions, each region becomes a
polygon by a concave hull. Regions are found by connected components and hulls are grown from the outside inwards
(shapely's `concave_hull`, which removes Delaunay triangles whose outer edge is long), not by recursion and random triangles.

Coordinates: pixel (row r, column c) covers the square from (c, r) to (c + 1, r + 1), in x right and y down; so a region of
one pixel has area 1 and a line has its width. Boxes are xyxy in these coordinates, COCO's are xywh.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from covidcxr.errors import InputError, ParameterError

RATIO = 0.1
_FOLLOW = 1e-6  # GEOS takes 0 as "remove whatever can be removed" and eats into the region; this keeps edges of one pixel
_TWO_THREADS = 4000  # points


@dataclass(frozen=True, eq=False)
class Region:
    """A connected region of a mask.

    Attributes:
        mask: bool (h, w), the region within its box.
        box: float32 (4,), x0, y0, x1, y1 in pixels; x1 and y1 are the far edges of the last pixels.
        area: pixels.
        polygon: float32 (N, 2), x and y of the hull's corners, first not repeated; None before a hull was made.
        label: its class, from 1.
    """

    mask: np.ndarray
    box: np.ndarray
    area: int
    polygon: np.ndarray | None = None
    label: int = 1

    @property
    def hull_area(self) -> float:
        """Area of the polygon in square pixels."""
        x, y = _needed_polygon(self).astype(float).T
        return float(abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2)


class ImageLabels(NamedTuple):
    """An image and its labelled regions: `file_name`, (height, width), regions with polygons, and the file, if there is one."""

    file_name: str
    shape: tuple[int, int]
    regions: Sequence[Region]
    path: Path | None = None


def regions(support: np.ndarray, min_area: int = 1, connectivity: int = 8) -> list[Region]:
    """Connected regions of a mask, ordered by where each is met first, row by row.

    Args:
        support: bool (H, W).
        min_area: smallest region that is kept, in pixels. 1 keeps all; a lesion of 5 mm across has 20 mm2.
        connectivity: 8 joins pixels that touch at a corner, 4 does not.
    """
    import cv2

    support = np.asarray(support)
    if support.ndim != 2 or support.dtype != bool or 0 in support.shape:
        raise InputError(f"A mask is bool (H, W); found {support.dtype} of shape {support.shape}. Apply a threshold first.")
    if min_area < 1:
        raise ParameterError(f"min_area is a number of pixels, at least 1; found {min_area!r}.")
    if connectivity not in (4, 8):
        raise ParameterError(f"connectivity is 4 or 8; found {connectivity!r}.")
    pixels = np.ascontiguousarray(support).view(np.uint8)
    starts = np.count_nonzero(pixels[:, 1:] > pixels[:, :-1]) + np.count_nonzero(pixels[:, 0])  # at least one per region
    numbers = cv2.CV_16U if starts < 2**16 else cv2.CV_32S  # the small type takes half the time
    count, numbered, stats, _ = cv2.connectedComponentsWithStats(pixels, connectivity=connectivity, ltype=numbers)
    found = []
    for number in range(1, count):
        x, y, width, height, area = (int(v) for v in stats[number])
        if area >= min_area:
            mask = numbered[y : y + height, x : x + width] == number
            found.append(Region(mask, np.array([x, y, x + width, y + height], np.float32), area))
    return found


def concave_hull(region: Region | np.ndarray, ratio: float = RATIO) -> np.ndarray:
    """The concave hull of a region: float32 (N, 2), x and y of its corners.

    Args:
        region: a Region, or a bool (H, W) mask with at least one pixel (taken as one region).
        ratio: 0 follows the outline, 1 is the convex hull; in between, edges up to this share of the longest edge of the
            Delaunay triangulation of the outline's points may bridge bays. Holes are always filled.
    """
    if not isinstance(region, Region):
        mask = np.asarray(region)
        if mask.ndim != 2 or mask.dtype != bool or not mask.any():
            raise InputError(f"A region is bool (H, W) with a pixel in it; found {mask.dtype} of shape {mask.shape}.")
        height, width = mask.shape
        region = Region(mask, np.array([0, 0, width, height], np.float32), int(mask.sum()))
    return _hulls([region], ratio)[0]


def label_projection(support: np.ndarray, ratio: float = RATIO, min_area: int = 1, connectivity: int = 8) -> list[Region]:
    """Regions of a projected mask, each with the polygon of its concave hull; an empty list where there is no lesion."""
    found = regions(support, min_area, connectivity)
    return [replace(region, polygon=polygon) for region, polygon in zip(found, _hulls(found, ratio), strict=True)]


def rasterise(polygon: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The pixels that a polygon covers, by pycocotools' rule (so as COCO evaluation sees it): bool (H, W)."""
    from pycocotools import mask as coco_mask

    flat = np.asarray(polygon, float).reshape(-1)
    if flat.size < 6 or not np.isfinite(flat).all():
        raise InputError(f"A polygon has at least three corners of finite x and y; found {flat.size // 2}.")
    height, width = shape
    return coco_mask.decode(coco_mask.frPyObjects([flat.tolist()], height, width))[..., 0].astype(bool)


def hull_overlap(region: Region) -> float:
    """Intersection over union of a region and its rasterised hull; 1 where the hull adds and loses nothing."""
    hull = rasterise(_needed_polygon(region) - region.box[:2], region.mask.shape)
    return float(np.count_nonzero(hull & region.mask) / np.count_nonzero(hull | region.mask))


def to_coco(
    images: Sequence[ImageLabels], categories: Sequence[str] = ("lesion",), description: str = "", exact: bool = False
) -> dict:
    """COCO's instance format: `area` is that of the outline, `bbox` x, y, width, height.

    Images without regions are listed too: they are the negatives. Ids count from 1.

    Args:
        images: their regions have labels 1 ... len(categories).
        categories: names of the labels, in order.
        description: of the set.
        exact: outlines are the regions' masks as run lengths; else they are the polygons.
    """
    if isinstance(categories, str):
        raise ParameterError(f"categories is a list of names; found the text {categories!r}.")
    content: dict = {
        "info": {"description": description},
        "licenses": [],
        "categories": [{"id": label, "name": name, "supercategory": ""} for label, name in enumerate(categories, 1)],
        "images": [],
        "annotations": [],
    }
    for image_id, image in enumerate(images, 1):
        height, width = (int(n) for n in image.shape)
        content["images"].append({"id": image_id, "file_name": image.file_name, "height": height, "width": width})
        for region in image.regions:
            if not 1 <= region.label <= len(categories):
                raise InputError(f"{image.file_name}: a region has label {region.label}; labels go from 1 to {len(categories)}.")
            x0, y0, x1, y1 = (float(v) for v in region.box)
            content["annotations"].append({
                "id": len(content["annotations"]) + 1,
                "image_id": image_id,
                "category_id": int(region.label),
                "segmentation": _exact(region, (height, width)) if exact else [_flat(region)],
                "area": float(region.area) if exact else region.hull_area,
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "iscrowd": 0,
            })
    _check_unique([image.file_name for image in images])
    return content


def polygons(mask: np.ndarray) -> list[np.ndarray]:
    """The exact outline of a mask, bool (H, W): one polygon per 4-connected part, float (N, 2) of x and y, corners of pixels.

    COCO's polygons have no holes. Here a hole is joined to the ring around it by a bridge without width, walked both ways, so
    that a lesion that encloses healthy lung stays hollow: `rasterise` gives each part back pixel by pixel.
    """
    import shapely

    changes = np.diff(np.pad(mask, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    rows, columns = np.nonzero(changes)  # of each run of pixels in a row its start, then its end
    runs = shapely.box(columns[0::2], rows[0::2], columns[1::2], rows[0::2] + 1)
    return [_one_ring(part.simplify(0)) for part in shapely.get_parts(shapely.union_all(runs))]


def _one_ring(part) -> np.ndarray:
    ring = np.array(part.exterior.coords)[:-1]
    for hole in part.interiors:
        inner = np.array(hole.coords)[:-1]
        distance = ((ring[:, None] - inner[None]) ** 2).sum(axis=-1)
        i, j = np.unravel_index(distance.argmin(), distance.shape)
        ring = np.concatenate([ring[: i + 1], np.roll(inner, -j, axis=0), inner[j : j + 1], ring[i:]])
    return ring


def run_lengths(mask: np.ndarray) -> dict:
    """A mask, bool (H, W), as COCO's compressed run lengths: `size` (height, width) and `counts`, text for JSON."""
    from pycocotools import mask as coco_mask

    code = coco_mask.encode(np.asfortranarray(mask.view(np.uint8)))
    return {"size": [int(n) for n in code["size"]], "counts": code["counts"].decode("ascii")}


def to_via(images: Sequence[ImageLabels]) -> dict:
    """Annotations of the VGG Image Annotator 2 (its JSON export; the input of many Mask R-CNN examples).

    Images are keyed by file name and size in bytes, as VIA does; -1 stands for the size of a file that is not given.
    """
    _check_unique([image.file_name for image in images])
    content: dict = {}
    for image in images:
        size = os.path.getsize(image.path) if image.path is not None else -1
        shapes = []
        for region in image.regions:
            xs, ys = _needed_polygon(region).astype(float).T.tolist()
            shape = {"name": "polygon", "all_points_x": xs, "all_points_y": ys}
            shapes.append({"shape_attributes": shape, "region_attributes": {"name": "lesion"}})
        content[f"{image.file_name}{size}"] = {
            "filename": image.file_name, "size": size, "regions": shapes, "file_attributes": {},
        }
    return content


def outline_points(mask: np.ndarray) -> np.ndarray:
    """Corners of pixels at which a mask's inside meets its outside: int (N, 2) of x, y; the edge of the array is outside.

    Neighbours along the outline are one pixel apart, so each stretch of outline between them is an edge of the Delaunay
    triangulation (no other corner lies in the circle over it): a concave hull can follow the outline exactly.
    """
    padded = np.zeros((mask.shape[0] + 2, mask.shape[1] + 2), np.uint8)
    padded[1:-1, 1:-1] = mask
    around = padded[:-1, :-1] + padded[1:, :-1] + padded[:-1, 1:] + padded[1:, 1:]
    rows, columns = np.nonzero((around > 0) & (around < 4))
    return np.stack([columns, rows], axis=1)


def _hulls(found: Sequence[Region], ratio: float) -> list[np.ndarray]:
    """Concave hulls of regions, in image coordinates. GEOS works outside Python's lock, so large sets go to two threads."""
    import shapely

    if not 0 <= ratio <= 1:
        raise ParameterError(f"ratio runs from 0 (follow the outline) to 1 (convex hull); found {ratio!r}.")
    if not found:
        return []
    points = [outline_points(region.mask) for region in found]
    owner = np.repeat(np.arange(len(found)), [len(p) for p in points])
    paths = shapely.linestrings(np.concatenate(points), indices=owner)  # only their points count

    def hulls_of(some: np.ndarray) -> np.ndarray:
        if ratio == 1:
            return shapely.convex_hull(some)
        return shapely.concave_hull(some, ratio=max(ratio, _FOLLOW))

    half = int(owner[len(owner) // 2])  # the region at which half of the points are reached
    if len(owner) > _TWO_THREADS and half:
        with ThreadPoolExecutor(1) as other:
            second = other.submit(hulls_of, paths[half:])
            hulls = np.concatenate([hulls_of(paths[:half]), second.result()])
    else:
        hulls = hulls_of(paths)
    rings = [_corners(shapely.get_coordinates(hull)[:-1]) for hull in hulls]
    return [(ring + region.box[:2]).astype(np.float32) for ring, region in zip(rings, found, strict=True)]


def _corners(ring: np.ndarray) -> np.ndarray:
    """A ring without the points that lie on the straight line between their neighbours."""
    before, after = ring - np.roll(ring, 1, axis=0), np.roll(ring, -1, axis=0) - ring
    return ring[before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]]


def _exact(region: Region, shape: tuple[int, int]) -> dict:
    whole = np.zeros(shape, bool)
    x0, y0, x1, y1 = region.box.astype(int)
    whole[y0:y1, x0:x1] = region.mask
    return run_lengths(whole)


def _flat(region: Region) -> list[float]:
    return [float(v) for v in _needed_polygon(region).reshape(-1)]


def _needed_polygon(region: Region) -> np.ndarray:
    if region.polygon is None:
        raise InputError("This region has no polygon yet: make regions with label_projection, or add one by concave_hull.")
    return region.polygon


def _check_unique(names: Sequence[str]) -> None:
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        raise InputError(f"File names must differ from each other; these come twice: {', '.join(doubled[:5])}.")
