"""Labels: regions against scipy, hulls against closed forms and geometry, COCO as pycocotools reads it, VIA."""

import json
from dataclasses import replace

import numpy as np
import pytest
import shapely
from scipy import ndimage

from covidcxr.datasets.coco import CocoMasks
from covidcxr.errors import InputError, ParameterError
from covidcxr.labels import (
    ImageLabels,
    Region,
    concave_hull,
    hull_overlap,
    label_projection,
    outline_points,
    polygons,
    rasterise,
    regions,
    to_coco,
    to_via,
)


def blobs(seed=0, shape=(160, 200), level=0.6):
    """A random mask with regions of all sizes, some with holes, some at the border."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 4)
    return noise > level * noise.std() * 1.5


def mask_of(*rows: str) -> np.ndarray:
    return np.array([[c == "#" for c in row] for row in rows])


C_SHAPE = mask_of(
    "..........",
    ".########.",
    ".########.",
    ".##.......",
    ".##.......",
    ".##.......",
    ".########.",
    ".########.",
    "..........",
)


# --- regions ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("connectivity, structure", [(8, np.ones((3, 3))), (4, None)])
def test_regions_are_those_of_scipy(seed, connectivity, structure):
    mask = blobs(seed)
    numbered, count = ndimage.label(mask, structure)
    found = regions(mask, connectivity=connectivity)
    assert len(found) == count > 5
    again = np.zeros(mask.shape, int)
    for region in found:
        x0, y0, x1, y1 = region.box.astype(int)
        assert region.area == region.mask.sum() and region.mask.any(axis=0).all() and region.mask.any(axis=1).all()
        number = set(numbered[y0:y1, x0:x1][region.mask].tolist())
        assert len(number) == 1 and np.count_nonzero(numbered == number.pop()) == region.area
        again[y0:y1, x0:x1] += region.mask
    assert np.array_equal(again, mask)


def test_pixels_that_touch_at_a_corner_join_or_not():
    corner = mask_of("#..", ".#.", "..#")
    assert [len(regions(corner)), len(regions(corner, connectivity=4))] == [1, 3]
    assert label_projection(corner)[0].hull_area >= 3


def test_small_regions_are_left_out_on_demand_only():
    mask = mask_of("#...##", "....##", "......", "###...")
    assert sorted(r.area for r in regions(mask)) == [1, 3, 4]
    assert sorted(r.area for r in regions(mask, min_area=3)) == [3, 4]
    assert regions(mask, min_area=5) == []


def test_more_regions_than_sixteen_bits_can_count():
    mask = np.zeros((600, 600), bool)
    mask[::2, ::2] = True
    assert len(regions(mask)) == 90_000 and max(r.area for r in regions(mask)) == 1


def test_no_lesion_is_no_region_and_everything_is_one():
    assert label_projection(np.zeros((8, 9), bool)) == []
    whole = label_projection(np.ones((8, 9), bool))
    assert len(whole) == 1 and whole[0].hull_area == 72 and whole[0].box.tolist() == [0, 0, 9, 8]


def test_a_mask_that_is_a_view_is_read_as_it_looks():
    mask = blobs()
    boxes = [r.box.tolist() for r in regions(np.ascontiguousarray(mask[::-1].T))]
    assert boxes == [r.box.tolist() for r in regions(mask[::-1].T)]


# --- hulls ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mask, area", [
    (mask_of("#"), 1), (mask_of("....", ".#..", "...."), 1), (mask_of("#####"), 5), (mask_of("#", "#", "#"), 3),
    (mask_of("##", "##"), 4), (mask_of("....", ".##.", ".##.", "...."), 4),
])
@pytest.mark.parametrize("ratio", [0, 0.1, 1])
def test_pixels_and_lines_have_the_area_of_their_pixels(mask, area, ratio):
    region = label_projection(mask, ratio)[0]
    assert region.hull_area == area and len(region.polygon) == 4
    assert np.array_equal(rasterise(region.polygon, mask.shape), mask)


@pytest.mark.parametrize("seed", range(3))
def test_ratio_0_follows_the_outline_and_fills_holes(seed):
    for region in label_projection(blobs(seed), ratio=0):
        filled = ndimage.binary_fill_holes(region.mask)
        hull = rasterise(region.polygon - region.box[:2], region.mask.shape)
        assert (hull & filled).sum() == filled.sum()  # nothing lost
        assert (hull & ~filled).sum() <= 0.05 * filled.sum() + 2  # bays of one pixel at most


def test_a_ring_loses_its_hole():
    ring = mask_of("#####", "#...#", "#...#", "#####")
    region = label_projection(ring, 0)[0]
    assert (region.area, region.hull_area) == (14, 20)
    assert hull_overlap(region) == pytest.approx(14 / 20)


def test_a_bay_stays_open_at_low_ratio_and_is_closed_at_one():
    assert label_projection(C_SHAPE, 0)[0].hull_area == C_SHAPE.sum() == 38
    assert label_projection(C_SHAPE, 1)[0].hull_area == 56
    assert hull_overlap(label_projection(C_SHAPE, 0)[0]) == 1
    assert hull_overlap(label_projection(C_SHAPE, 1)[0]) == pytest.approx(38 / 56)


@pytest.mark.parametrize("seed", range(3))
def test_hulls_lie_between_the_region_and_its_convex_hull_and_grow_with_the_ratio(seed):
    mask = blobs(seed)
    previous = None
    for ratio in (0, 0.05, 0.2, 0.5, 1):
        labelled = label_projection(mask, ratio)
        for region in labelled:
            hull = shapely.Polygon(region.polygon)
            pixels = outline_points(region.mask) + region.box[:2]
            assert hull.is_valid and region.hull_area == pytest.approx(hull.area)
            assert region.hull_area >= region.area
            assert hull.area <= shapely.MultiPoint(pixels).convex_hull.area + 1e-6
            assert np.allclose(hull.bounds, region.box)  # the hull has the region's own box
        areas = [region.hull_area for region in labelled]
        assert previous is None or np.all(np.array(areas) >= np.array(previous) - 1e-6)
        previous = areas


def test_ratio_1_is_the_convex_hull():
    for region in label_projection(blobs(), 1):
        convex = shapely.MultiPoint(outline_points(region.mask) + region.box[:2]).convex_hull
        assert shapely.Polygon(region.polygon).equals(convex)


def test_two_threads_change_nothing():
    mask = ndimage.zoom(blobs(5).astype(np.uint8), 4, order=0).astype(bool)
    together = label_projection(mask)
    assert sum(len(outline_points(r.mask)) for r in together) > 4000
    for region in together:
        assert np.array_equal(region.polygon, concave_hull(region))


def test_regions_at_the_border_have_polygons_within_the_image():
    mask = np.zeros((20, 30), bool)
    mask[:4, :5], mask[-3:, -6:], mask[8:12, -1] = True, True, True
    for region in label_projection(mask):
        assert region.polygon.min() >= 0 and (region.polygon <= [30, 20]).all()
        assert region.hull_area == region.area


def test_a_whole_mask_is_one_region_for_concave_hull():
    two = mask_of("##...##", "##...##")
    assert shapely.Polygon(concave_hull(two, 1)).area == 14
    assert [len(label_projection(two, 1)), label_projection(two, 1)[1].hull_area] == [2, 4]


def test_outline_points_of_a_pixel_are_its_corners():
    assert sorted(map(tuple, outline_points(mask_of("#")).tolist())) == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert len(outline_points(np.ones((5, 7), bool))) == 2 * (5 + 7)


# --- rasterising and files --------------------------------------------------------------------------------------------


def test_rasterise_takes_the_pixels_whose_centre_is_inside():
    assert rasterise(np.array([[1, 1], [4, 1], [4, 3], [1, 3]]), (5, 6)).sum() == 6
    rng = np.random.default_rng(0)
    rows, columns = np.indices((60, 80)) + 0.5
    for _ in range(20):
        corners = np.array(shapely.MultiPoint(rng.integers(0, [81, 61], (8, 2))).convex_hull.exterior.coords)[:-1]
        hull = shapely.Polygon(corners)
        exact = shapely.contains_xy(hull, columns, rows)
        differing = rasterise(corners, (60, 80)) != exact
        edge = shapely.distance(hull.exterior, shapely.points(columns[differing], rows[differing]))
        assert np.all(edge <= 0.71)  # pycocotools rounds edges to a fifth of a pixel; only pixels on an edge may differ


@pytest.mark.parametrize("polygon", [np.array([[0, 0], [1, 1]]), np.array([[0, 0], [1, 0], [np.nan, 1]])])
def test_rasterise_refuses_what_is_no_polygon(polygon):
    with pytest.raises(InputError, match="three corners"):
        rasterise(polygon, (5, 5))


def labelled_images(tmp_path):
    (tmp_path / "b.png").write_bytes(bytes(77))
    masks = [blobs(1), np.zeros((50, 60), bool), blobs(2, (90, 70))]
    paths = [None, tmp_path / "b.png", None]
    images = [ImageLabels(f"{name}.png", mask.shape, label_projection(mask, 0), path)
              for name, mask, path in zip("abc", masks, paths, strict=True)]
    return masks, images


def test_coco_as_pycocotools_reads_it(tmp_path):
    from pycocotools.coco import COCO

    masks, images = labelled_images(tmp_path)
    (tmp_path / "labels.json").write_text(json.dumps(to_coco(images, description="test")))
    coco = COCO(tmp_path / "labels.json")
    assert coco.getImgIds() == [1, 2, 3] and coco.loadCats(1)[0]["name"] == "lesion"
    assert coco.getAnnIds(imgIds=2) == []
    for image_id, mask in zip((1, 2, 3), masks, strict=True):
        info = coco.loadImgs(image_id)[0]
        annotations = coco.loadAnns(coco.getAnnIds(imgIds=image_id))
        assert (info["height"], info["width"]) == mask.shape and len(annotations) == len(regions(mask))
        drawn = np.zeros(mask.shape, bool)
        for annotation in annotations:
            one = coco.annToMask(annotation).astype(bool)
            rows, columns = np.nonzero(one)
            x, y, width, height = annotation["bbox"]
            assert (x, y, x + width, y + height) == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            assert annotation["area"] == pytest.approx(one.sum(), rel=0.05, abs=3)
            drawn |= one
        filled = ndimage.binary_fill_holes(np.pad(mask, 1))[1:-1, 1:-1]
        assert not (mask & ~drawn).any()
        if mask.any():
            assert (drawn & filled).sum() / (drawn | filled).sum() > 0.97


def test_a_perfect_prediction_has_full_average_precision(tmp_path):
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    _, images = labelled_images(tmp_path)
    content = to_coco(images)
    (tmp_path / "labels.json").write_text(json.dumps(content))
    truth = COCO(tmp_path / "labels.json")
    kept = [a for a in truth.loadAnns(truth.getAnnIds()) if a["area"] > 4]
    found = [{"image_id": a["image_id"], "category_id": 1, "score": 1.0, "segmentation": truth.annToRLE(a)} for a in kept]
    evaluation = COCOeval(truth, truth.loadRes(found), "segm")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert evaluation.stats[0] >= len(kept) / len(content["annotations"]) - 0.02


def test_exact_coco_holds_the_masks_themselves(tmp_path):
    masks, images = labelled_images(tmp_path)
    bare = [
        image._replace(regions=[replace(region, polygon=None, label=1 + i % 2) for i, region in enumerate(image.regions)])
        for image in images
    ]
    file = tmp_path / "exact.json"
    file.write_text(json.dumps(to_coco(bare, ["even", "odd"], exact=True)))
    content = json.loads(file.read_text())
    assert [category["name"] for category in content["categories"]] == ["even", "odd"]
    assert [a["area"] for a in content["annotations"]] == [r.area for image in bare for r in image.regions]
    read = CocoMasks(file, kind_of=str)
    for name, mask, image in zip("abc", masks, bare, strict=True):
        parts = {kind: read.mask(name, kind, mask.shape) for kind in ("even", "odd")}
        assert np.array_equal(parts["even"] | parts["odd"], mask) and not (parts["even"] & parts["odd"]).any()
        assert parts["odd"].sum() == sum(r.area for r in image.regions if r.label == 2)


def test_via_export(tmp_path):
    _, images = labelled_images(tmp_path)
    via = json.loads(json.dumps(to_via(images)))
    assert list(via) == ["a.png-1", "b.png77", "c.png-1"] and via["b.png77"]["size"] == 77
    assert via["b.png77"]["regions"] == []
    for entry, region in zip(via["a.png-1"]["regions"], images[0].regions, strict=True):
        shape = entry["shape_attributes"]
        assert shape["name"] == "polygon" and entry["region_attributes"] == {"name": "lesion"}
        assert np.array_equal(np.stack([shape["all_points_x"], shape["all_points_y"]], 1), region.polygon)


# --- faults -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("support", [
    np.zeros((3, 3)), np.zeros((2, 3, 3), bool), np.zeros((0, 3), bool), np.zeros((3, 3), np.uint8),
])
def test_regions_refuse_what_is_no_mask(support):
    with pytest.raises(InputError, match=r"bool \(H, W\)"):
        regions(support)


@pytest.mark.parametrize("arguments", [
    {"ratio": -0.1}, {"ratio": 1.1}, {"ratio": float("nan")}, {"min_area": 0}, {"connectivity": 6},
])
def test_parameters_out_of_range_are_refused(arguments):
    with pytest.raises(ParameterError, match=next(iter(arguments))):
        label_projection(C_SHAPE, **arguments)


def test_an_empty_region_has_no_hull_and_a_region_without_one_says_so():
    with pytest.raises(InputError, match="with a pixel in it"):
        concave_hull(np.zeros((4, 4), bool))
    bare = Region(np.ones((2, 2), bool), np.array([0, 0, 2, 2], np.float32), 4)
    image = ImageLabels("a", (2, 2), [bare])
    for use, what in ((hull_overlap, bare), (to_coco, [image]), (to_via, [image])):
        with pytest.raises(InputError, match="no polygon yet"):
            use(what)


def test_labels_without_a_category_are_refused():
    region = Region(np.ones((2, 2), bool), np.array([0, 0, 2, 2], np.float32), 4, label=2)
    with pytest.raises(InputError, match="a.png: a region has label 2; labels go from 1 to 1"):
        to_coco([ImageLabels("a.png", (4, 4), [region])], exact=True)
    with pytest.raises(ParameterError, match="list of names"):
        to_coco([], "lesion")


def test_two_images_of_one_name_are_refused():
    twice = [ImageLabels("a.png", (4, 4), []), ImageLabels("a.png", (4, 4), [])]
    for export in (to_coco, to_via):
        with pytest.raises(InputError, match="a.png"):
            export(twice)


@pytest.mark.parametrize("seed", range(6))
def test_polygons_of_a_mask_are_exact_with_holes_in_holes(seed):
    """Against pycocotools' rule: blobs and noise with holes, islands in holes, and parts that touch at a corner."""
    rng = np.random.default_rng(seed)
    mask = ndimage.gaussian_filter(rng.normal(size=(37, 52)), [0.0, 0.5, 1.0, 2.0, 3.0, 5.0][seed]) > 0
    parts = polygons(mask)
    assert len(parts) == ndimage.label(mask)[1], "4-connected"
    covered = np.sum([rasterise(part, mask.shape) for part in parts], axis=0)
    np.testing.assert_array_equal(covered, mask.astype(int))


def test_a_ring_is_one_polygon_and_nothing_is_none():
    mask = np.zeros((9, 9), bool)
    mask[1:8, 1:8], mask[3:6, 3:6] = True, False
    (ring,) = polygons(mask)
    assert len(ring) == 4 + 4 + 2, "both squares and the bridge's two ends again"
    assert polygons(np.zeros((4, 4), bool)) == []
