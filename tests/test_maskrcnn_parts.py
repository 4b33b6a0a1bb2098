"""Single operations of Mask R-CNN against other implementations (peer_fixtures/E_units), brute force and closed forms."""

import keras
import numpy as np
import pytest
from keras import ops
from peer_fixtures import peer_weights as peer

from covidcxr.maskrcnn.anchors import cell_anchors, grid_anchors
from covidcxr.maskrcnn.boxes import clip, decode, encode, iou, take_rows
from covidcxr.maskrcnn.losses import binary_crossentropy, crossentropy, mean_over, smooth_l1
from covidcxr.maskrcnn.masks import mask_targets, paste_masks
from covidcxr.maskrcnn.matcher import match
from covidcxr.maskrcnn.nms import nms
from covidcxr.maskrcnn.roi_align import pyramid_level
from covidcxr.maskrcnn.roi_align import roi_align as roi_align_of_tensors
from covidcxr.maskrcnn.sampler import most_positives, sample

SPEC, UNITS = peer.fixture("E_units")
number = ops.convert_to_numpy


def of_tensors(function):
    """`function`, given tensors for arrays, as the model gives them: torch does not mix the two."""

    def call(*args, **kwargs):
        tensors = (ops.convert_to_tensor(x) if isinstance(x, np.ndarray) else x for x in args)
        return function(*tensors, **kwargs)

    return call


clip, decode, encode, iou, take_rows = map(of_tensors, (clip, decode, encode, iou, take_rows))
binary_crossentropy, crossentropy, mean_over = map(of_tensors, (binary_crossentropy, crossentropy, mean_over))
mask_targets, match, nms, pyramid_level, sample = map(of_tensors, (mask_targets, match, nms, pyramid_level, sample))
smooth_l1 = of_tensors(smooth_l1)


def roi_align(maps, strides, boxes, *args, **kwargs):
    maps = [ops.convert_to_tensor(level) for level in maps]
    return roi_align_of_tensors(maps, strides, ops.convert_to_tensor(boxes), *args, **kwargs)


def assert_equals_peer(ours, key):
    gap = np.abs(number(ours) - UNITS[key]).max()
    assert gap <= peer.tolerance(SPEC, key), f"{key}: gap {gap:.2e}, allowed {peer.tolerance(SPEC, key):.2e}"


def random_boxes(count, seed=0, side=100):
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, side, (count, 2))
    return np.concatenate([corner, corner + rng.uniform(1, side / 2, (count, 2))], axis=1).astype("float32")


# boxes


@pytest.mark.parametrize(("key", "weights"), [("1_1", (1.0, 1.0, 1.0, 1.0)), ("10_5", (10.0, 10.0, 5.0, 5.0))])
@pytest.mark.parametrize("library", ["", "detectron2_"])
def test_coding_equals_peers(key, weights, library):
    coded = encode(UNITS["boxes/target"], UNITS["boxes/reference"], weights)
    assert_equals_peer(coded, f"boxes/{library}encoded/weights_{key}")
    decoded = decode(UNITS["boxes/deltas"], UNITS["boxes/reference"], weights)
    # detectron2's noise is not known (it keeps boxes in float32); torchvision's is that of the same numbers.
    gap = np.abs(number(decoded) - UNITS[f"boxes/{library}decoded/weights_{key}"]).max()
    assert gap <= peer.tolerance(SPEC, f"boxes/decoded/weights_{key}")


def test_decoding_undoes_encoding():
    boxes, reference = random_boxes(200, 1), random_boxes(200, 2)
    weights = (10.0, 10.0, 5.0, 5.0)
    assert np.abs(number(decode(encode(boxes, reference, weights), reference, weights)) - boxes).max() < 1e-3


def test_huge_deltas_stay_finite():
    boxes = number(decode(np.full((1, 4), 1e4, "float32"), random_boxes(1)))
    assert np.isfinite(boxes).all()


def test_overlap_equals_peer_and_counts_of_pixels():
    assert_equals_peer(iou(UNITS["boxes/reference"][:16], UNITS["boxes/target"][:16]), "boxes/iou")
    boxes = np.random.default_rng(3).integers(0, 20, (30, 2, 2))
    boxes = np.sort(boxes, axis=1).reshape(30, 4)
    drawn = np.zeros((30, 20, 20), bool)
    for picture, (x1, y1, x2, y2) in zip(drawn, boxes, strict=True):
        picture[y1:y2, x1:x2] = True
    drawn = drawn.reshape(30, -1).astype(int)
    both = drawn @ drawn.T
    either = drawn.sum(1)[:, None] + drawn.sum(1) - both
    expected = both / np.maximum(either, 1)
    np.testing.assert_allclose(number(iou(boxes.astype("float32"), boxes.astype("float32"))), expected, atol=1e-6)


def test_clip_cuts_each_image_at_its_own_size():
    boxes = np.array([[[-5, -5, 200, 200]], [[-5, -5, 200, 200]]], "float32")
    clipped = number(clip(boxes, np.array([[50, 60], [70, 80]], "float32")))
    np.testing.assert_array_equal(clipped, [[[0, 0, 60, 50]], [[0, 0, 80, 70]]])


def test_take_rows_keeps_images_apart():
    rows = np.arange(2 * 5 * 3).reshape(2, 5, 3).astype("float32")
    indices = np.array([[4, 0], [1, 1]])
    np.testing.assert_array_equal(number(take_rows(rows, indices)), np.take_along_axis(rows, indices[..., None], 1))


# anchors


def test_anchors_equal_peers():
    ratios = (0.5, 1.0, 2.0)
    rounded = grid_anchors(cell_anchors([32], ratios, rounded=True), 8, 8, 16)
    np.testing.assert_array_equal(rounded, UNITS["anchors/torchvision_size_32_stride_16"])
    exact = grid_anchors(cell_anchors([32, 64], ratios), 8, 8, 16)
    assert_equals_peer(exact, "anchors/detectron2_sizes_32_64_stride_16_offset_0.0")


def test_anchors_have_the_areas_and_ratios_asked_for():
    anchors = cell_anchors([32, 128], [0.5, 2.0]).astype("float64")
    width, height = anchors[:, 2] - anchors[:, 0], anchors[:, 3] - anchors[:, 1]
    np.testing.assert_allclose(np.sqrt(width * height), [32, 32, 128, 128], rtol=1e-6)
    np.testing.assert_allclose(height / width, [0.5, 2.0, 0.5, 2.0], rtol=1e-6)


# non-maximum suppression


def greedy(boxes, valid, threshold, groups):
    overlap, kept = number(iou(boxes, boxes)), []
    for i in range(len(boxes)):
        if valid[i] and not any(overlap[k, i] > threshold and groups[k] == groups[i] for k in kept):
            kept.append(i)
    return kept


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7])
def test_suppression_equals_peers(threshold):
    order = np.argsort(-UNITS["nms/scores"], kind="stable")
    boxes, valid, classes = UNITS["nms/boxes"][order], np.ones(len(order), bool), UNITS["nms/classes"][order]
    np.testing.assert_array_equal(order[number(nms(boxes, valid, threshold))], UNITS[f"nms/kept_{threshold}"])
    kept = order[number(nms(boxes, valid, threshold, classes))]
    np.testing.assert_array_equal(kept, UNITS[f"nms/kept_per_class_{threshold}"])


@pytest.mark.parametrize("seed", range(5))
def test_suppression_equals_the_greedy_loop(seed):
    rng = np.random.default_rng(seed)
    boxes = np.stack([random_boxes(60, seed, side=30), random_boxes(60, seed + 10, side=15)])
    valid, groups = rng.random((2, 60)) < 0.8, rng.integers(0, 2, (2, 60))
    kept = number(nms(boxes, valid, 0.4, groups))
    for image in range(2):
        assert np.flatnonzero(kept[image]).tolist() == greedy(boxes[image], valid[image], 0.4, groups[image])


def test_suppression_follows_the_longest_chain():
    # Each box overlaps only its neighbours: every second one is kept, and the last is settled in the last round.
    x = np.arange(101, dtype="float32")
    boxes = np.stack([10 * x, 0 * x, 10 * x + 15, 0 * x + 10], axis=1)
    np.testing.assert_array_equal(number(nms(boxes, np.ones(101, bool), 0.15)), x % 2 == 0)


def test_suppression_of_nothing():
    assert not number(nms(random_boxes(5), np.zeros(5, bool), 0.5)).any()


# ROIAlign


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("samples", [1, 2])
def test_roi_align_equals_peers(aligned, samples):
    boxes = np.stack([UNITS["roi_align/boxes"]] * 2)
    pooled = number(roi_align([UNITS["roi_align/map"]], [4], boxes, 7, samples, aligned))
    image = UNITS["roi_align/image"].astype(int)
    assert_equals_peer(pooled[image, np.arange(len(image))], f"roi_align/aligned_{aligned}/samples_{samples}")


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("samples", [1, 2])
def test_roi_align_equals_peers_that_adapt_their_samples(aligned, samples):
    """They take one per cell, up and across; ours has one number for both, so regions count that ask for it twice."""
    boxes, image = UNITS["roi_align/boxes"], UNITS["roi_align/image"].astype(int)
    cells = (boxes[:, 2:] - boxes[:, :2]) / 4
    alike = (np.ceil((cells if aligned else np.maximum(cells, 1)) / 7) == samples).all(axis=1)
    pooled = number(roi_align([UNITS["roi_align/map"]], [4], np.stack([boxes] * 2), 7, samples, aligned))
    key = f"roi_align/aligned_{aligned}/samples_adaptive"
    gap = np.abs(pooled[image, np.arange(len(image))] - UNITS[key])[alike]
    assert len(gap) and gap.max() <= peer.tolerance(SPEC, key)


class Pooled(keras.Model):
    """ROIAlign of maps that are learned, at precision `dtype`."""

    def __init__(self, maps, dtype):
        super().__init__()
        self.maps = [self.add_weight(shape=level.shape, name=f"map{k}") for k, level in enumerate(maps)]
        self.precision = dtype
        self.set_weights(maps)

    def call(self, boxes):
        maps = [ops.cast(level, self.precision) for level in self.maps]
        return ops.cast(roi_align_of_tensors(maps, [4, 8], boxes, 5), "float32")


@pytest.mark.parametrize(("dtype", "accuracy"), [("float32", 1e-5), ("bfloat16", 1e-2)])
def test_the_gradient_of_roi_align_is_its_transpose(dtype, accuracy):
    """Pooling P is linear: of the loss <P maps, weights> the gradient g has <g, others> = <P others, weights> for all maps."""
    rng = np.random.default_rng(3)
    boxes = np.stack([random_boxes(6, seed, side=300) for seed in (1, 2)])  # of both levels, some reach beyond the maps
    maps = [rng.normal(size=(2, side, side, 3)).astype("float32") for side in (64, 32)]
    model = Pooled(maps, dtype)
    weights = rng.normal(size=(2, 6, 5, 5, 3)).astype("float32")
    model.compile(keras.optimizers.SGD(1.0), loss=lambda weights, pooled: ops.sum(weights * pooled))
    model.train_on_batch(boxes, weights)
    gradient = [before - after for before, after in zip(maps, model.get_weights(), strict=True)]
    assert all(np.abs(level).max() > 0.1 for level in gradient)
    others = [level + rng.normal(scale=level.std(), size=level.shape).astype("float32") for level in gradient]
    expected = np.sum(number(roi_align(others, [4, 8], boxes, 5)) * weights, dtype="float64")
    found = sum(np.sum(g * other, dtype="float64") for g, other in zip(gradient, others, strict=True))
    scale = np.sqrt(sum(np.sum(g**2) for g in gradient) * sum(np.sum(other**2) for other in others))
    assert abs(found - expected) < accuracy * scale


@pytest.mark.parametrize("samples", [1, 2, 3])
def test_roi_align_of_a_ramp_is_the_ramp(samples):
    row, column = np.mgrid[:16, :24].astype("float32")
    ramp = (2 * row - 3 * column + 1)[None, :, :, None]
    box = np.array([[[12.0, 9.0, 60.0, 41.0]]], "float32")
    pooled = number(roi_align([ramp], [4], box, 5, samples, aligned=True))[0, 0, :, :, 0]
    middle = (np.arange(5) + 0.5) / 5
    x, y = 12 + 48 * middle, 9 + 32 * middle  # the value of cell i lies at pixel 4 (i + 0.5)
    expected = 2 * (y[:, None] / 4 - 0.5) - 3 * (x[None] / 4 - 0.5) + 1
    np.testing.assert_allclose(pooled, expected, atol=2e-5)


def test_roi_align_of_a_mirrored_map_is_mirrored():
    maps = np.random.default_rng(4).random((1, 12, 16, 3), dtype="float32")
    boxes = random_boxes(20, 7, side=40)[None]
    mirrored = np.stack([64 - boxes[..., 2], boxes[..., 1], 64 - boxes[..., 0], boxes[..., 3]], axis=-1)
    plain = number(roi_align([maps], [4], boxes, 7, aligned=True))
    np.testing.assert_allclose(
        number(roi_align([maps[:, :, ::-1]], [4], mirrored, 7, aligned=True))[..., ::-1, :], plain, atol=1e-5
    )


def test_regions_take_their_own_level_and_image():
    # Every level of every image is constant, so the pooled value tells where it came from.
    maps = [np.full((2, 64 >> k, 64 >> k, 1), k, "float32") + np.array([0, 10], "float32")[:, None, None, None] for k in range(4)]
    sides = np.array([20, 111, 112, 223, 224, 447, 448, 2000], "float32")
    boxes = np.stack([0 * sides, 0 * sides, sides, sides], axis=1)
    level = number(pyramid_level(boxes, 4))
    np.testing.assert_array_equal(level, [0, 0, 1, 1, 2, 2, 3, 3])
    pooled = number(roi_align(maps, [32, 64, 128, 256], np.stack([boxes, boxes]), 2))
    np.testing.assert_allclose(pooled[..., 0, 0, 0], [level, level + 10], atol=1e-5)


# matcher and sampler


@pytest.mark.parametrize(("high", "low", "forced"), [(0.7, 0.3, True), (0.7, 0.3, False), (0.5, 0.5, False)])
def test_matching_equals_peers(high, low, forced):
    overlap = iou(UNITS["matcher/truth"], UNITS["anchors/torchvision_size_32_stride_16"])
    assert_equals_peer(overlap, "matcher/iou")
    index, label = match(overlap[None], np.ones((1, 7), bool), high, low, forced)
    index, label = number(index)[0], number(label)[0]
    name = f"high_{high}_low_{low}_forced_{forced}"
    theirs = UNITS[f"matcher/torchvision_{name}"]
    np.testing.assert_array_equal(np.where(label == 1, index, np.where(label == 0, -1, -2)), theirs)
    np.testing.assert_array_equal(label, UNITS[f"matcher/detectron2_{name}/label"])
    touched = number(overlap).max(0) > 0
    np.testing.assert_array_equal(index[touched], UNITS[f"matcher/detectron2_{name}/match"][touched])


def test_padding_does_not_change_matches():
    truth, anchors = random_boxes(4, 5)[None], random_boxes(50, 6)
    padded = np.concatenate([truth, anchors[None, :3]], axis=1)  # rows that would match perfectly, were they valid
    plain = match(iou(truth, anchors), np.ones((1, 4), bool), 0.5, 0.3, force_best=True)
    valid = np.array([[True] * 4 + [False] * 3])
    for ours, expected in zip(match(iou(padded, anchors), valid, 0.5, 0.3, force_best=True), plain, strict=True):
        np.testing.assert_array_equal(number(ours), number(expected))


def test_without_objects_all_is_negative():
    _, label = match(iou(random_boxes(3)[None], random_boxes(9)), np.zeros((1, 3), bool), 0.7, 0.3, force_best=True)
    assert (number(label) == 0).all()


@pytest.mark.parametrize(
    ("positives", "negatives", "expected"),
    [(100, 500, (16, 48)), (5, 500, (5, 59)), (100, 10, (16, 10)), (0, 3, (0, 3)), (0, 0, (0, 0))],
)
def test_sampler_counts(positives, negatives, expected):
    label = np.array([1] * positives + [0] * negatives + [-1] * 7)
    label = np.random.default_rng(0).permuted(np.stack([label, label]), axis=1).astype("int32")
    indices, positive, valid = map(number, sample(label, 64, 0.25, keras.random.SeedGenerator(0)))
    assert indices.shape == positive.shape == valid.shape == (2, 64)
    for image in range(2):
        drawn = indices[image][valid[image]]
        assert len(set(drawn.tolist())) == len(drawn) == sum(expected)
        np.testing.assert_array_equal(label[image][drawn], [1] * expected[0] + [0] * expected[1])
        np.testing.assert_array_equal(positive[image], np.arange(64) < expected[0])


def test_sampler_is_fair_and_follows_its_seed():
    label = np.array([[1] * 10 + [0] * 10] * 2000, "int32")
    indices, positive, _ = map(number, sample(label, 6, 0.5, keras.random.SeedGenerator(1)))
    times = np.bincount(indices.ravel(), minlength=20)  # each row is drawn with chance 0.3: 600 of 2000 times, deviation 20
    assert (np.abs(times - 600) < 100).all()
    assert most_positives(6, 0.5) == positive.sum(1).max() == 3
    again = number(sample(label, 6, 0.5, keras.random.SeedGenerator(1))[0])
    np.testing.assert_array_equal(indices, again)


# masks


@pytest.mark.parametrize("samples", [1, 2, 4])
def test_mask_targets_equal_peer(samples):
    height, width = SPEC["settings"]["canvas"]
    masks = np.unpackbits(UNITS["masks/truth_packed"], axis=-1, count=width)
    targets = mask_targets(masks[None], np.arange(4)[None], UNITS["masks/crop_boxes"][None], 28, samples)
    assert_equals_peer(number(targets)[0], f"masks/torchvision_targets_samples_{samples}")


def test_hard_mask_targets_nearly_equal_detectron2():
    # Its number of samples depends on the region; with a fixed number only cells on the outline may differ.
    masks = np.unpackbits(UNITS["masks/truth_packed"], axis=-1, count=SPEC["settings"]["canvas"][1])
    targets = mask_targets(masks[None], np.arange(4)[None], UNITS["masks/crop_boxes"][None], 28, 4, aligned=True)
    assert ((number(targets)[0] >= 0.5) != (UNITS["masks/detectron2_targets"] > 0.5)).mean() < 0.01


def test_mask_targets_equal_peers_that_adapt_their_samples():
    """The last region is less than 28 pixels wide and high, so that 28 x 28 cells get one sample each, in theirs too."""
    masks = np.unpackbits(UNITS["masks/truth_packed"], axis=-1, count=SPEC["settings"]["canvas"][1])[None, -1:]
    box = UNITS["masks/crop_boxes"][None, -1:]
    assert (box[..., 2:] - box[..., :2] < 28).all()
    soft, hard = (number(mask_targets(masks, np.zeros((1, 1), int), box, 28, 1, aligned))[0, 0] for aligned in (False, True))
    key = "masks/torchvision_targets_samples_adaptive"
    assert np.abs(soft - UNITS[key][-1]).max() <= peer.tolerance(SPEC, key)
    np.testing.assert_array_equal(hard >= 0.5, UNITS["masks/detectron2_targets"][-1] > 0.5)


def test_pasting_equals_peer():
    height, width = SPEC["settings"]["canvas"]
    pasted = paste_masks(UNITS["masks/probabilities"], UNITS["masks/boxes"], height, width)
    assert_equals_peer(pasted, "masks/detectron2_pasted")
    binary = np.unpackbits(UNITS["masks/detectron2_pasted_binary_packed"], axis=-1, count=width)
    np.testing.assert_array_equal(pasted >= 0.5, binary)


def test_pasting_equals_torchvisions_within_its_box_of_whole_pixels():
    """It surrounds a mask by a cell of zeros, and lays the whole into a box that is widened as much and cut to whole pixels."""
    boxes, cells = UNITS["masks/boxes"].astype("float64"), 28
    middle, half = (boxes[:, 2:] + boxes[:, :2]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2 * (cells + 2) / cells
    first = np.trunc(middle - half)
    cell = (np.trunc(middle + half) - first + 1) / (cells + 2)
    within = np.concatenate([first + cell, first + (cells + 1) * cell], axis=1)
    pasted = paste_masks(UNITS["masks/probabilities"], within, *SPEC["settings"]["canvas"])
    assert_equals_peer(pasted, "masks/torchvision_pasted")


def test_a_pasted_target_is_the_mask_again():
    row, column = np.mgrid[:64, :80]
    mask = (row - 30) ** 2 / 400 + (column - 42) ** 2 / 900 < 1
    box = np.array([[12.0, 10.0, 72.0, 50.0]], "float32")
    target = number(mask_targets(mask[None, None], np.zeros((1, 1), int), box[None], 28, 2, aligned=True))[0]
    again = paste_masks(target, box, 64, 80)[0] >= 0.5
    assert (again & mask).sum() / (again | mask).sum() > 0.97


# losses


def test_losses_in_closed_form():
    even = binary_crossentropy(np.zeros(2, "float32"), np.array([0, 1], "float32"))
    np.testing.assert_allclose(number(even), np.log(2), rtol=1e-6)
    assert np.isfinite(number(binary_crossentropy(np.array([-1e4, 1e4], "float32"), np.array([1, 0], "float32")))).all()
    np.testing.assert_allclose(number(crossentropy(np.zeros((3, 4), "float32"), np.array([0, 2, 3]))), np.log(4), rtol=1e-6)
    difference = np.array([-2.0, -0.1, 0.0, 0.05, 3.0], "float32")
    np.testing.assert_allclose(number(smooth_l1(difference, 0)), np.abs(difference))
    np.testing.assert_allclose(number(smooth_l1(difference, 0.2)), [1.9, 0.025, 0, 0.00625, 2.9], rtol=1e-5)
    values = np.array([1.0, 2.0, 6.0], "float32")
    assert float(mean_over(values, np.array([True, False, True]))) == 3.5
    assert float(mean_over(values, np.zeros(3, bool))) == 0.0
