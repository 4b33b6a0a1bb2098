"""What must hold of Mask R-CNN whatever its weights: mirrored, moved, reordered or padded input gives output changed alike."""

from dataclasses import replace

import keras
import numpy as np
import pytest
from keras import ops

from covidcxr.maskrcnn.boxes import decode, encode
from covidcxr.maskrcnn.detections import detect
from covidcxr.maskrcnn.masks import mask_targets, paste_masks
from covidcxr.maskrcnn.model import LOSSES, MaskRCNN
from covidcxr.maskrcnn.nms import nms
from covidcxr.maskrcnn.roi_align import roi_align
from covidcxr.maskrcnn.settings import Anchors, Detections, Proposals, ProposalTraining, RegionTraining, Settings
from covidcxr.maskrcnn.targets import region_targets
from covidcxr.models.resnet import ResNet

WIDTH, HEIGHT, STRIDES = 128, 96, (4, 8, 16, 32)
SMALL = Settings(
    foreground_classes=2,
    backbone=ResNet(18, norm="frozen"),
    pyramid_channels=16,
    anchors=Anchors(((8,), (16,), (32,), (64,), (128,))),
    proposals=Proposals(40, 30),
    proposal_training=ProposalTraining(samples=10**6, positive_fraction=1.0),  # all that count: no chance in the losses
    region_training=RegionTraining(samples=10**6, positive_fraction=1.0),
    detections=Detections(score_threshold=0.0, most=8),
)


def number(tensor):
    return np.asarray(ops.convert_to_numpy(tensor))


def tensors(arrays):
    return {key: ops.convert_to_tensor(value) for key, value in arrays.items()}


def boxes_within(rng, *shape):
    """Boxes (..., 4) in a picture of WIDTH x HEIGHT, some reaching its border, at least 4 pixels wide and high."""
    limits = np.array([WIDTH, HEIGHT])
    first, size = rng.uniform(-10, limits - 4, (*shape, 2)), rng.uniform(8, limits, (*shape, 2))
    low = np.maximum(first, 0)
    return np.concatenate([low, np.clip(first + size, low + 4, limits)], axis=-1).astype("float32")


def mirrored(boxes):
    """Left and right changed places."""
    return np.stack([WIDTH - boxes[..., 2], boxes[..., 1], WIDTH - boxes[..., 0], boxes[..., 3]], axis=-1)


# mirrored


@pytest.mark.parametrize("samples", [1, 2])
def test_features_of_mirrored_regions_in_mirrored_maps_are_mirrored(samples):
    """On all levels, for regions at the border too. Each cell's value lies in its middle, or there would be no symmetry."""
    rng = np.random.default_rng(0)
    maps = [rng.random((2, HEIGHT // s, WIDTH // s, 3), dtype="float32") for s in STRIDES]
    boxes = boxes_within(rng, 2, 40)

    def pooled(maps, boxes):
        return number(roi_align([*map(ops.convert_to_tensor, maps)], STRIDES, ops.convert_to_tensor(boxes), 7, samples, True))

    turned = pooled([np.ascontiguousarray(m[:, :, ::-1]) for m in maps], mirrored(boxes))
    np.testing.assert_allclose(turned[..., ::-1, :], pooled(maps, boxes), atol=2e-5)


def test_targets_of_mirrored_objects_are_mirrored():
    rng = np.random.default_rng(1)
    boxes, reference = boxes_within(rng, 30), boxes_within(rng, 30)
    sign = np.array([-1, 1, 1, 1])
    plain = number(encode(ops.convert_to_tensor(boxes), ops.convert_to_tensor(reference)))
    turned = number(encode(*(ops.convert_to_tensor(mirrored(b)) for b in (boxes, reference))))
    np.testing.assert_allclose(turned, plain * sign, atol=1e-4)
    deltas = (0.3 * rng.standard_normal((30, 4))).astype("float32")
    moved = number(decode(ops.convert_to_tensor(deltas), ops.convert_to_tensor(reference)))
    turned = number(decode(ops.convert_to_tensor(deltas * sign.astype("float32")), ops.convert_to_tensor(mirrored(reference))))
    np.testing.assert_allclose(turned, mirrored(moved), atol=1e-3)

    masks = rng.random((1, 3, HEIGHT, WIDTH)) < 0.5
    index = ops.convert_to_tensor(np.arange(30, dtype="int32")[None] % 3)

    def target(masks, boxes):
        return number(mask_targets(ops.convert_to_tensor(masks), index, ops.convert_to_tensor(boxes[None]), 14, 2, aligned=True))

    turned = target(np.ascontiguousarray(masks[..., ::-1]), mirrored(boxes))
    np.testing.assert_allclose(turned[..., ::-1], target(masks, boxes), atol=1e-3)


def test_pasted_masks_of_mirrored_boxes_are_mirrored():
    rng = np.random.default_rng(2)
    masks, boxes = rng.random((20, 14, 14), dtype="float32"), boxes_within(rng, 20)
    plain, turned = (paste_masks(m, b, HEIGHT, WIDTH) for m, b in ((masks, boxes), (masks[..., ::-1], mirrored(boxes))))
    np.testing.assert_allclose(turned[..., ::-1], plain, atol=1e-4)


# moved and scaled


def test_features_do_not_change_when_regions_and_maps_move_by_a_cell():
    rng = np.random.default_rng(3)
    cells = rng.random((1, 24, 32, 3), dtype="float32")
    boxes = np.clip(boxes_within(rng, 1, 30), 8, [WIDTH - 12, HEIGHT - 12] * 2) + np.array([0, 0, 4, 4], "float32")
    boxes = boxes.astype("float32")
    moved = np.roll(cells, (1, 1), axis=(1, 2))
    plain, after = (
        number(roi_align([ops.convert_to_tensor(m)], [4], ops.convert_to_tensor(b), 5, aligned=True))
        for m, b in ((cells, boxes), (moved, boxes + 4))
    )
    np.testing.assert_allclose(after, plain, atol=1e-5)


def test_suppression_does_not_depend_on_scale_and_keeps_what_it_should():
    """Whoever is kept overlaps no better one that is kept; whoever is not, does."""
    boxes = boxes_within(np.random.default_rng(4), 3, 80)
    valid = ops.ones((3, 80), "bool")
    kept = number(nms(ops.convert_to_tensor(boxes), valid, 0.4))
    np.testing.assert_array_equal(number(nms(ops.convert_to_tensor(8 * boxes), valid, 0.4)), kept)
    for row, keep in zip(boxes.astype("float64"), kept, strict=True):
        low, high = np.maximum(row[:, None, :2], row[None, :, :2]), np.minimum(row[:, None, 2:], row[None, :, 2:])
        both, area = np.clip(high - low, 0, None).prod(-1), (row[:, 2:] - row[:, :2]).prod(-1)
        overlap = both / (area[:, None] + area - both)
        blocked = ((overlap > 0.4) & keep[:, None] & np.tri(80, k=-1, dtype=bool).T).any(0)
        np.testing.assert_array_equal(keep, ~blocked)


# reordered and padded


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(5)
    model = MaskRCNN(SMALL)
    model.compile(jit_compile=keras.backend.backend() == "jax")
    return model


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(6)
    boxes = boxes_within(rng, 2, 3)
    boxes[1] *= np.array([100 / WIDTH, 80 / HEIGHT] * 2)  # within the smaller image
    boxes = boxes.round()
    row, column = np.mgrid[:HEIGHT, :WIDTH]
    x1, y1, x2, y2 = np.moveaxis(boxes[..., None, None], 2, 0)
    return {
        "images": rng.random((2, HEIGHT, WIDTH, 1), dtype="float32"),
        "sizes": np.array([[HEIGHT, WIDTH], [80, 100]], "float32"),
        "boxes": boxes,
        "labels": np.array([[1, 2, 1], [2, 1, 2]], "int32"),
        "valid": np.array([[True, True, True], [True, True, False]]),
        "masks": (row >= y1) & (row < y2) & (column >= x1) & (column < x2),
    }


def test_images_of_a_batch_do_not_see_each_other(model, batch):
    images = {key: batch[key] for key in ("images", "sizes")}
    found = model.predict(images, verbose=0)
    assert found["valid"].any(axis=1).all()
    swapped = model.predict({key: value[::-1] for key, value in images.items()}, verbose=0)
    alone = model.predict({key: value[1:] for key, value in images.items()}, verbose=0)
    for key, value in found.items():
        np.testing.assert_allclose(swapped[key][::-1], value, atol=1e-3, err_msg=key)
        np.testing.assert_allclose(alone[key], value[1:], atol=1e-3, err_msg=key)


def test_losses_depend_neither_on_the_order_of_objects_nor_on_padding(model, batch):
    def losses_of(batch):
        return model.test_on_batch(batch, return_dict=True)

    losses = losses_of(batch)
    assert set(losses) == {"loss", *LOSSES} and all(value > 0 for value in losses.values()), losses
    order = [2, 0, 1]
    turned = {key: value[:, order] if key in ("boxes", "labels", "valid", "masks") else value for key, value in batch.items()}
    others = dict(batch)  # whatever stands in the row that is not valid
    others["boxes"], others["masks"], others["labels"] = (batch[key].copy() for key in ("boxes", "masks", "labels"))
    others["boxes"][1, 2], others["masks"][1, 2], others["labels"][1, 2] = 0, ~batch["masks"][1, 2], 0
    for changed in (turned, others):
        for key, value in losses_of(changed).items():
            np.testing.assert_allclose(value, losses[key], rtol=1e-4, err_msg=key)


def test_proposals_that_are_not_valid_change_nothing(batch):
    """Neither what is found nor what is trained."""
    rng = np.random.default_rng(7)
    boxes, valid = boxes_within(rng, 2, 30), rng.random((2, 30)) < 0.7
    logits, deltas = rng.standard_normal((2, 30, 3)).astype("float32"), rng.standard_normal((2, 30, 2, 4)).astype("float32")
    results = []
    for filler in (0.0, 50.0):
        rows = np.where(valid[..., None], boxes, np.float32(filler) + np.array([0, 0, 9, 9], "float32"))
        scored = np.where(valid[..., None], logits, np.array([0, filler, 0], "float32"))
        shifts = np.where(valid[..., None, None], deltas, np.float32(filler / 50))
        proposals, (scored, shifts, sizes) = (
            tensors({"boxes": rows, "valid": valid}), map(ops.convert_to_tensor, (scored, shifts, batch["sizes"])),
        )
        found = detect(proposals, scored, shifts, sizes, SMALL.detections)
        settings = replace(SMALL.region_training, samples=12, positive_fraction=0.25)
        results.append({**found, **region_targets(proposals, tensors(batch), settings, keras.random.SeedGenerator(0))})
    for key, value in results[0].items():
        np.testing.assert_array_equal(number(value), number(results[1][key]), err_msg=key)
