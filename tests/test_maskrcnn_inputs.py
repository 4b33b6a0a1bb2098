"""What is put into Mask R-CNN: padding, and messages that name the image and the box."""

import numpy as np
import pytest

from covidcxr.errors import InputError, ParameterError
from covidcxr.maskrcnn.batches import batch, boxes_of_masks, check_batch
from covidcxr.maskrcnn.presets import gaikwad2020, ramesh2021
from covidcxr.maskrcnn.settings import (
    Anchors,
    Detections,
    Pixels,
    Proposals,
    ProposalTraining,
    Regions,
    RegionTraining,
    Settings,
    WeightDecay,
)

SETTINGS = Settings(foreground_classes=2, largest_instances=3)


def picture(height=40, width=60):
    return np.random.default_rng(height).random((height, width), dtype="float32")


def objects(count=1, height=40, width=60, **changes):
    masks = np.zeros((count, height, width), bool)
    masks[:, 10:20, 5:25] = True
    return {"boxes": np.array([[5, 10, 25, 20]] * count, "float32"), "labels": np.ones(count, int), "masks": masks} | changes


def test_a_batch_is_padded_at_the_bottom_and_right():
    made = batch([picture(), picture(64, 30)], [objects(2), objects(0, 64, 30)], SETTINGS)
    shapes = {key: value.shape for key, value in made.items()}
    assert shapes == {
        "images": (2, 64, 64, 1),
        "sizes": (2, 2),
        "boxes": (2, 3, 4),
        "labels": (2, 3),
        "valid": (2, 3),
        "masks": (2, 3, 64, 64),
    }
    np.testing.assert_array_equal(made["sizes"], [[40, 60], [64, 30]])
    np.testing.assert_array_equal(made["valid"], [[True, True, False], [False] * 3])
    np.testing.assert_array_equal(made["images"][0, :40, :60, 0], picture())
    assert not made["images"][0, 40:].any() and not made["images"][1, :, 30:].any()
    np.testing.assert_array_equal(boxes_of_masks(made["masks"][0, :2]), made["boxes"][0, :2])
    check_batch(made, SETTINGS)
    assert batch([picture()], [objects()], SETTINGS, shape=(96, 128))["masks"].shape == (1, 3, 96, 128)


def with_value(value, dtype="float32"):
    image = picture().astype(dtype)
    image[3, 4] = value
    return image


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (with_value(np.nan), "xray7: 1 pixels are NaN or infinite, the first in row 3, column 4"),
        (with_value(np.inf), "xray7: 1 pixels are NaN or infinite"),
        (with_value(4095.0), "xray7: .* from .* to 4095.*16-bit or CT"),
        (with_value(200.0), "xray7: .*8-bit, to be divided by 255"),
        (with_value(-1000.0), "xray7: .*16-bit or CT"),
        ((picture() * 65535).astype("uint16"), "xray7: .* uint16, .*Divide 8-bit"),
        (np.zeros((40, 60), "float32"), "xray7: all pixels are 0"),
        (np.zeros((40, 60, 4), "float32"), r"xray7: .*\(40, 60, 4\)"),
    ],
)
def test_bad_images_are_named(image, message):
    with pytest.raises(InputError, match=message):
        batch([picture(), image], [objects(), objects()], SETTINGS, names=["xray6", "xray7"])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (objects(1, boxes=np.array([[5.0, 10, 5, 20]])), r"xray7, box 0 \(5, 10, 5, 20\): it is empty"),
        (
            objects(1, boxes=np.array([[5.0, 10, 61, 20]])),
            r"xray7, box 0 \(5, 10, 61, 20\): it leaves the image.*40 high and 60 wide",
        ),
        (objects(1, boxes=np.array([[-1.0, 10, 6, 20]])), "xray7, box 0 .*leaves the image"),
        (objects(1, boxes=np.array([[np.nan, 10, 6, 20]])), "xray7, box 0 .*finite"),
        (objects(2, labels=np.array([1, 3])), "xray7, box 1 .*its label is 3; labels go from 1 to 2"),
        (objects(2, labels=np.array([1, np.nan])), "xray7, box 1 .*its label is nan"),
        (objects(2, masks=np.zeros((2, 40, 60), bool)), "xray7, box 0 .*its mask is empty"),
        (objects(1, boxes=np.array([[10.0, 25, 20, 40]])), "xray7, box 0 .*its mask has no pixel in it. Boxes are x1, y1"),
        (objects(1, masks=np.ones((1, 60, 40), bool)), "xray7: the masks are 60 x 40, the image is 40 x 60"),
        (objects(1, masks=np.full((1, 40, 60), 255)), "xray7: masks must be bool"),
        (objects(4), "xray7: 4 objects, but room for 3"),
        (objects(2, labels=np.ones(1)), r"xray7: boxes must be \(n, 4\)"),
    ],
)
def test_bad_objects_are_named(wrong, message):
    with pytest.raises(InputError, match=message):
        batch([picture(), picture()], [objects(), wrong], SETTINGS, names=["xray6", "xray7"])


def test_bad_batches_are_refused():
    with pytest.raises(InputError, match="all be grey or all be RGB"):
        batch([picture(), np.stack([picture()] * 3, -1)], [objects(), objects()], SETTINGS)
    for shape in ((32, 64), (64, 70)):
        with pytest.raises(InputError, match="multiples of 32"):
            batch([picture()], [objects()], SETTINGS, shape=shape)
    made = batch([picture(), picture()], [objects(), objects()], SETTINGS)
    made["boxes"][1, 0, 2] = 100
    with pytest.raises(InputError, match="image 1, box 0 .*leaves the image"):
        check_batch(made, SETTINGS)
    for images, known in (([], []), ([picture()], []), ([picture()], [objects(), objects()])):
        with pytest.raises(InputError, match=f"here are {len(images)} and {len(known)}"):
            batch(images, known, SETTINGS)
    part = {key: value for key, value in made.items() if key != "masks"}
    with pytest.raises(InputError, match="The truth is incomplete: masks missing"):
        check_batch(part, SETTINGS)
    with pytest.raises(InputError, match="Mask 1 of 2 is empty"):
        boxes_of_masks(np.stack([made["masks"][0, 0], made["masks"][0, 2]]))
    with pytest.raises(InputError, match="must hold `images`; this one holds sizes, boxes, labels, valid, masks"):
        check_batch({key: value for key, value in made.items() if key != "images"}, SETTINGS)
    with pytest.raises(InputError, match="of the same images; there are 2, and 1 in `sizes`"):
        check_batch(made | {"sizes": made["sizes"][:1]}, SETTINGS)


@pytest.mark.parametrize("truth", [True, False])
@pytest.mark.parametrize("size", [(65, 64), (40, 0), (40, 59.5), (np.nan, 60)])
def test_sizes_that_no_image_has_are_refused(size, truth):
    made = batch([picture(), picture()], [objects(), objects()], SETTINGS)
    made = made if truth else {key: made[key] for key in ("images", "sizes")}
    check_batch(made, SETTINGS)
    with pytest.raises(InputError, match="image 1: `sizes` must hold .* from 1 x 1 to 64 x 64; they are") as caught:
        check_batch(made | {"sizes": np.array([(40, 60), size], "float32")}, SETTINGS)
    assert str(np.array(size, "float32").tolist()) in str(caught.value)


# settings


def test_settings_survive_a_file():
    import json

    for settings in (Settings(), ramesh2021(), gaikwad2020("r101", "c4"), gaikwad2020("x101")):
        assert Settings.from_dict(json.loads(json.dumps(settings.to_dict()))) == settings


@pytest.mark.parametrize(("change", "message"), [
    ({"pixels": Pixels(order="grb")}, "pixels.order must be 'rgb' or 'bgr'; it is 'grb'"),
    ({"proposal_training": ProposalTraining(box_mean_over="positive")}, "proposal_training.box_mean_over must be 'samples' or"),
    ({"weight_decay": WeightDecay(form="l2")}, "weight_decay.form must be 'sum' or 'mean'"),
    ({"regions": Regions(samples=0)}, "regions.samples must be at least 1; it is 0"),
    ({"largest_instances": 0}, "largest_instances must be at least 1"),
    ({"pyramid_channels": 0}, "pyramid_channels must be at least 1"),
    ({"rpn_channels": 0}, "rpn_channels must be at least 1"),
    ({"box_units": 0}, "box_units must be at least 1"),
    ({"anchors": Anchors(sizes=((8.0,), (16.0,), (32.0, 40.0), (64.0,), (128.0,)))}, "as many anchor sizes"),
    ({"anchors": Anchors(sizes=((8.0,), (16.0,), (0.0,), (64.0,), (128.0,)))}, "anchors.sizes must be numbers above 0"),
    ({"anchors": Anchors(ratios=())}, r"anchors.ratios must be numbers above 0, at least one; they are \(\)"),
    ({"anchors": Anchors(ratios=(1.0, -2.0))}, "anchors.ratios must be numbers above 0"),
    ({"anchors": Anchors(delta_weights=(10.0, 10.0, 5.0))}, "anchors.delta_weights must be 4 numbers"),
    ({"anchors": Anchors(delta_weights=(10.0, 10.0, 5.0, 0.0))}, "anchors.delta_weights must be numbers above 0"),
    ({"pixels": Pixels(mean=(0.5,))}, "pixels.mean must be 3 numbers"),
    ({"pixels": Pixels(std=(0.2, 0.0, 0.2))}, "pixels.std must be numbers above 0"),
    ({"proposals": Proposals(nms_threshold=70)}, "proposals.nms_threshold must be between 0 and 1; it is 70"),
    ({"detections": Detections(score_threshold=-0.1)}, "detections.score_threshold must be between 0 and 1"),
    ({"region_training": RegionTraining(mask_threshold=128)}, "region_training.mask_threshold must be between 0 and 1"),
    ({"region_training": RegionTraining(positive_fraction=25)}, "region_training.positive_fraction must be between 0 and 1"),
    ({"proposal_training": ProposalTraining(0.3, 0.7)}, "negative_iou must not exceed positive_iou; they are 0.7 and 0.3"),
    ({"proposal_training": ProposalTraining(positive_fraction=0)}, "proposal_training: of 256 samples a share of 0 is not one"),
    ({"region_training": RegionTraining(samples=3)}, "region_training: of 3 samples a share of 0.25 is not one positive"),
])  # fmt: skip
def test_words_and_numbers_that_mean_nothing_are_refused(change, message):
    with pytest.raises(ParameterError, match=message):
        Settings(**change)


def test_contradictory_settings_are_refused():
    one_level = Anchors(((32, 64),))
    for wrong in (
        {"neck": "bifpn"},
        {"neck": "c4"},
        {"anchors": one_level},
        {"neck": "dc5", "anchors": one_level},
        {"neck": "c4", "anchors": one_level},  # boxes of 7 x 7 cells and masks of 14 x 14
        {"foreground_classes": 0},
    ):
        with pytest.raises(ParameterError):
            Settings(**wrong)
    with pytest.raises(ParameterError, match='"x101" with "fpn"'):
        gaikwad2020("x101", "c4")


def test_ramesh2021_has_the_papers_values():
    """Section 2.3.1 of the paper."""
    settings = ramesh2021()
    assert settings.backbone.depth == 101 and settings.neck == "fpn"
    assert settings.anchors.sizes == ((32,), (64,), (128,), (256,), (512,)) and settings.anchors.ratios == (0.5, 1, 2)
    assert settings.region_training.samples == 200 and settings.region_training.positive_fraction == 0.33
    assert settings.largest_instances == 15 and settings.weight_decay.factor == 1e-4 and 2 * settings.regions.mask_size == 28
