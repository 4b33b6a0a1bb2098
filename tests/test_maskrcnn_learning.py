"""Mask R-CNN learns: from drawn pictures through feed, training and inference to COCO's average precision on other pictures."""

from dataclasses import dataclass

import keras
import numpy as np
import pandas as pd
import pytest

from covidcxr import splits, training
from covidcxr.maskrcnn import coco
from covidcxr.maskrcnn.feeding import Feed
from covidcxr.maskrcnn.inference import find
from covidcxr.maskrcnn.model import LOSSES, MaskRCNN
from covidcxr.maskrcnn.settings import Anchors, Detections, Proposals, ProposalTraining, Regions, RegionTraining, Settings
from covidcxr.models.resnet import ResNet

SEED, SIDE, PICTURES, EPOCHS = 0, 64, 96, 10
SETTINGS = Settings(
    foreground_classes=2,
    backbone=ResNet(18, norm="batch"),
    pyramid_channels=32,
    anchors=Anchors(((8,), (16,), (32,), (64,), (128,))),
    proposals=Proposals(64, 48),
    proposal_training=ProposalTraining(samples=64),
    regions=Regions(mask_size=7),  # masks of 14 x 14
    region_training=RegionTraining(samples=32, positive_fraction=0.5),
    detections=Detections(most=10, candidates=96),
    largest_instances=3,
)


@dataclass(frozen=True, eq=False)
class Picture:
    name: str
    image: np.ndarray
    masks: np.ndarray
    labels: np.ndarray

    @property
    def original(self):
        return self.image.shape


def ellipses(name, rng):
    """A noisy picture of one to three ellipses that do not touch, bright (label 1) or dark (label 2)."""
    row, column = np.mgrid[:SIDE, :SIDE] + 0.5
    image, masks, labels = np.full((SIDE, SIDE), 0.5), [], []
    for label in rng.integers(1, 3, rng.integers(1, 4)):
        (y, x), half, turn = rng.uniform(8, SIDE - 8, 2), rng.uniform(5, 13, 2), rng.uniform(0, np.pi)
        down = (row - y) * np.cos(turn) + (column - x) * np.sin(turn)
        along = (column - x) * np.cos(turn) - (row - y) * np.sin(turn)
        mask = (down / half[0]) ** 2 + (along / half[1]) ** 2 < 1
        if not any((mask & other).any() for other in masks):
            masks.append(mask)
            labels.append(label)
            image[mask] += 0.3 if label == 1 else -0.3
    noisy = np.clip(image + 0.1 * rng.standard_normal(image.shape), 0, 1).astype("float32")
    return Picture(name, noisy, np.array(masks), np.array(labels))


@pytest.fixture(scope="module")
def pictures():
    """Training pictures and test pictures, each drawn from a seed of its own."""
    names = [f"picture{i:02}" for i in range(PICTURES)]
    drawn = {name: ellipses(name, np.random.default_rng((SEED, i))) for i, name in enumerate(names)}
    split = splits.grouped(pd.DataFrame({"case": names, "patient": names}), 1 / 3, seed=SEED)
    return [[drawn[name] for name in split.case[split.role == role]] for role in ("train", "test")]


def precision(model, test):
    truth, found = coco.truth(test, ["bright", "dark"]), coco.results(find(model, test, (SIDE, SIDE), batch_size=8))
    return {kind: coco.average_precision(truth, found, kind) for kind in ("segm", "bbox")}


def test_ellipses_never_seen_are_found_with_their_masks(pictures):
    train, test = pictures
    assert (len(train), len(test)) == (64, 32)
    training.set_seed(SEED)
    model = MaskRCNN(SETTINGS, seed=SEED)
    feed = Feed(train, SETTINGS, (SIDE, SIDE), batch_size=4, seed=SEED)
    rate = training.cosine_rate(2e-3, EPOCHS * len(feed))
    model.compile(keras.optimizers.AdamW(rate, weight_decay=1e-4), jit_compile=training.jit_compile())
    assert precision(model, test)["segm"]["AP50"] < 0.1  # before training

    history = model.fit(feed, epochs=EPOCHS, verbose=0).history
    assert set(history) == {"loss", *LOSSES}
    for name, share in {"loss": 0.5, "rpn_class_loss": 0.3, "class_loss": 0.5, "mask_loss": 0.6}.items():
        assert history[name][-1] < share * history[name][0], (name, history[name])
    after = precision(model, test)
    print({kind: {key: round(scores[key], 3) for key in ("AP", "AP50", "AP75")} for kind, scores in after.items()}, history)
    assert after["segm"]["AP50"] > 0.9 and after["bbox"]["AP50"] > 0.9
    assert min(scores["AP50"] for scores in after["segm"]["classes"].values()) > 0.85
