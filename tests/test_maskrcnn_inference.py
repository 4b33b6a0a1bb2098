"""Found objects lie in the pictures' own pixels, whatever size the network saw and however pictures are batched."""

from dataclasses import dataclass, replace

import numpy as np
import pytest

from covidcxr.errors import InputError
from covidcxr.maskrcnn.inference import Found, find, proposed
from covidcxr.maskrcnn.model import MaskRCNN
from covidcxr.maskrcnn.settings import Detections, Proposals, Settings
from covidcxr.models.resnet import ResNet


@dataclass(frozen=True)
class Picture:
    name: str
    image: np.ndarray
    original: tuple[int, int]


@pytest.fixture(scope="module")
def model():
    settings = Settings(
        1, ResNet(18, norm="frozen"), pyramid_channels=16, proposals=Proposals(before_nms=32, after_nms=16),
        detections=Detections(score_threshold=0.0, most=5),
    )
    model = MaskRCNN(settings)
    model.compile(jit_compile=False)
    return model


@pytest.fixture(scope="module")
def pictures():
    rng = np.random.default_rng(0)
    return [Picture(str(k), rng.random(shape, dtype="float32"), (2 * shape[0], 3 * shape[1]))
            for k, shape in enumerate([(64, 64), (48, 64), (64, 40)])]


def test_batches_change_nothing_and_boxes_are_in_original_pixels(model, pictures):
    pairs, fours = find(model, pictures, (64, 64), 2), find(model, pictures, (64, 64), 4)
    small = find(model, [replace(picture, original=picture.image.shape) for picture in pictures], (64, 64), 2)
    for one, other, fitted, picture in zip(pairs, fours, small, pictures, strict=True):
        assert len(one.boxes) and one.shape == picture.original
        np.testing.assert_allclose(one.boxes, other.boxes, atol=1e-3)
        np.testing.assert_allclose(one.boxes, fitted.boxes * [3, 2, 3, 2], rtol=1e-6)
        assert (one.boxes[:, 2] <= one.shape[1]).all() and (one.boxes[:, 3] <= one.shape[0]).all()
        assert (np.diff(one.scores) <= 0).all() and one.masks.shape[1:] == (28, 28)


def test_masks_are_pasted_where_their_boxes_are():
    boxes = np.array([[10, 20, 30, 60], [50, 0, 70, 20]], "float32")
    found = Found((80, 100), boxes, np.array([0.9, 0.4], "float32"), np.array([1, 1]), np.ones((2, 28, 28), "float32"))
    whole = found.whole_masks()
    assert whole.shape == (2, 80, 100) and whole.sum(axis=(1, 2)) == pytest.approx([800, 400], rel=0.02)
    assert np.array_equal(found.union(), whole.any(axis=0)) and whole[0, 20:60, 10:30].all()
    best = found.above(0.5)
    assert len(best.boxes) == 1 and best.union().sum() == whole[0].sum()
    half = found.resized((40, 50))
    assert half.boxes.tolist() == (boxes / 2).tolist() and half.whole_masks()[0, 10:30, 5:15].all()
    assert not found.above(0.95).union().any() and found.above(0.95).whole_masks().shape == (0, 80, 100)


def test_no_picture_and_pictures_that_do_not_fit_are_refused(model, pictures):
    with pytest.raises(InputError, match="no picture"):
        find(model, [], (64, 64))
    with pytest.raises(InputError, match="hold all images"):
        find(model, pictures, (32, 32))


def test_what_is_found_are_proposals_moved(model, pictures):
    """A head whose deltas are nothing leaves the proposals where they are."""
    deltas = model.box_head.get_layer("box_deltas")
    weights = deltas.get_weights()
    deltas.set_weights([np.zeros_like(weight) for weight in weights])
    picture = replace(pictures[1], original=pictures[1].image.shape)
    boxes = proposed(model, picture, (64, 64))
    assert 5 <= len(boxes) <= 16 and (boxes[:, 3] <= 48).all()
    for box in find(model, [picture], (64, 64), 2)[0].boxes:
        assert np.abs(boxes - box).max(axis=1).min() < 1e-3
    deltas.set_weights(weights)
