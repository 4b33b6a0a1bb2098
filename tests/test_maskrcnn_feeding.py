"""Feeds: every batch as seed, epoch and position say, whoever makes it."""

from collections import Counter
from dataclasses import dataclass, replace
from functools import partial

import keras
import numpy as np
import pytest
from keras import ops

from covidcxr import augment
from covidcxr.errors import InputError, ParameterError
from covidcxr.maskrcnn.batches import batch, boxes_of_masks
from covidcxr.maskrcnn.feeding import Feed
from covidcxr.maskrcnn.model import LOSSES, MaskRCNN
from covidcxr.maskrcnn.settings import Anchors, Proposals, ProposalTraining, Regions, RegionTraining, Settings
from covidcxr.models.resnet import ResNet

SETTINGS = Settings(foreground_classes=3, largest_instances=3)
SHAPE = (32, 64)


@dataclass
class Made:
    name: str
    image: np.ndarray
    masks: np.ndarray
    labels: np.ndarray


def example(number, instances=1, height=30, width=60):
    """Its first pixel tells its number; instance i is 4 + i pixels square and has the label i modulo 3, plus 1."""
    image = np.random.default_rng(number).random((height, width), dtype="float32")
    image[0, 0] = number / 100
    masks = np.zeros((instances, height, width), bool)
    for i, mask in enumerate(masks):
        mask[10 : 14 + i, 20 : 24 + i] = True
    return Made(f"xray{number}", image, masks, (np.arange(instances) % 3 + 1).astype("int32"))


EXAMPLES = [example(number, number % 3) for number in range(7)]


def numbers(feed):
    """Which examples the present epoch holds, batch by batch."""
    return [np.round(x["images"][:, 0, 0, 0] * 100).astype(int).tolist() for (x,) in feed]


def end_epoch(feed):
    feed.on_epoch_begin()
    feed.on_epoch_end()


def test_a_batch_is_what_the_model_takes():
    (made,) = Feed(EXAMPLES, SETTINGS, SHAPE, 2, shuffle=False)[1]
    chosen = EXAMPLES[2:4]
    objects = [{"boxes": boxes_of_masks(e.masks), "labels": e.labels, "masks": e.masks} for e in chosen]
    for key, value in batch([e.image for e in chosen], objects, SETTINGS, SHAPE).items():
        np.testing.assert_array_equal(made[key], value)
    assert made["valid"].sum(1).tolist() == [2, 0]


def test_in_order_each_epoch_is_the_same_and_its_last_batch_full():
    feed = Feed(EXAMPLES, SETTINGS, SHAPE, 2, shuffle=False)
    assert len(feed) == 4 and numbers(feed) == [[0, 1], [2, 3], [4, 5], [6, 0]]
    end_epoch(feed)
    assert numbers(feed) == [[0, 1], [2, 3], [4, 5], [6, 0]]
    assert numbers(Feed(EXAMPLES, SETTINGS, SHAPE, 2, steps=1, shuffle=False)) == [[0, 1]]


def test_shuffled_none_comes_again_before_all_have_come():
    feed, row = Feed(EXAMPLES, SETTINGS, SHAPE, 2, steps=5), []
    for _ in range(7):
        row += [number for part in numbers(feed) for number in part]
        end_epoch(feed)
    passes = [row[i : i + 7] for i in range(0, 70, 7)]
    assert all(sorted(one) == list(range(7)) for one in passes)
    assert len({tuple(one) for one in passes}) > 5
    assert numbers(Feed(EXAMPLES, SETTINGS, SHAPE, 2, seed=1)) != numbers(Feed(EXAMPLES, SETTINGS, SHAPE, 2, seed=0))


def test_one_that_goes_on_is_fed_as_if_it_had_not_stopped():
    make = partial(Feed, EXAMPLES, SETTINGS, SHAPE, 2, steps=3, change=partial(augment.apply, augment.ramesh2021()), seed=5)
    whole = make()
    end_epoch(whole)
    end_epoch(whole)
    for (old,), (new,) in zip(whole, make(first_epoch=2), strict=True):
        for key in old:
            np.testing.assert_array_equal(old[key], new[key])


def test_every_change_has_a_seed_of_its_own_and_the_same_next_time():
    seeds = []

    def change(image, masks, labels, seed):
        seeds.append(seed)
        return image, masks, labels

    for _ in range(2):
        feed = Feed(EXAMPLES[:2], SETTINGS, SHAPE, 2, steps=10, change=change)
        numbers(feed)
        end_epoch(feed)
        numbers(feed)
    assert len(set(seeds)) == 40 and seeds[:40] == seeds[40:]
    numbers(Feed(EXAMPLES[:2], SETTINGS, SHAPE, 2, steps=10, change=change, seed=1))
    assert len(set(seeds)) == 60


def test_the_largest_instances_are_kept_and_the_others_counted():
    crowded = [example(1, 5), example(2, 3), example(3, 4)]
    feed = Feed(crowded, SETTINGS, SHAPE, 3, shuffle=False)
    assert feed.dropped == 3
    (made,) = feed[0]
    assert made["masks"].sum((2, 3)).tolist() == [[36, 49, 64], [16, 25, 36], [25, 36, 49]]
    assert made["labels"].tolist() == [[3, 1, 2], [1, 2, 3], [2, 3, 1]]
    assert Feed(EXAMPLES, SETTINGS, SHAPE, 2).dropped == 0


def test_boxes_follow_a_change_and_instances_may_vanish():
    def change(image, masks, labels, seed):
        moved = np.roll(masks, 5, axis=2)
        return image, moved[1:], labels[1:]

    (made,) = Feed([example(1, 2), example(2, 1)], SETTINGS, SHAPE, 2, change=change, shuffle=False)[0]
    assert made["valid"].tolist() == [[True, False, False], [False] * 3]
    assert made["boxes"][0, 0].tolist() == [25, 10, 30, 15] and made["labels"][0, 0] == 2


class Listener(keras.Model):
    """A model whose loss is a number that tells which images came, and in which order, changed in which way."""

    def __init__(self):
        super().__init__()
        self.weight = self.add_weight(shape=(), initializer="ones")
        self.built = True

    def call(self, x, training=False):
        return ops.multiply(x["images"], self.weight)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return ops.mean(ops.mean(x["images"], axis=(1, 2, 3)) * ops.convert_to_tensor([1.0, 3.0])) + 0 * self.weight


def heard(feed, validation=None, **how):
    """The loss after every batch of `fit`, and of every validation."""
    losses = []
    model = Listener()
    model.compile(optimizer="sgd", jit_compile=False)
    listen = keras.callbacks.LambdaCallback(on_train_batch_end=lambda _, logs: losses.append(float(logs["loss"])))
    history = model.fit(feed, validation_data=validation, callbacks=[listen], shuffle=False, verbose=0, **how).history
    return losses, history.get("val_loss")


def test_threads_change_nothing_in_fit():
    recipe = partial(augment.apply, augment.ramesh2021())

    def make(**how):
        return Feed(EXAMPLES, SETTINGS, SHAPE, 2, steps=5, change=recipe, **how)

    expected, _ = heard(make(workers=0), epochs=3)
    assert len(set(expected)) == 15
    for workers in (1, 2, 3):
        feed = make(workers=workers, max_queue_size=2)
        validation = Feed(EXAMPLES, SETTINGS, SHAPE, 2, shuffle=False, workers=workers)
        losses, validated = heard(feed, validation, epochs=3)
        assert losses == expected and feed.epoch == 3
        assert len(set(validated)) == 1
        assert heard(make(workers=workers, first_epoch=2), epochs=3, initial_epoch=2)[0] == expected[10:]


@pytest.mark.parametrize("steps", [1, 2])
def test_few_steps_are_counted_too(steps):
    """Keras asks for the first two batches, to see their shapes, and ends an epoch, before the first one begins."""
    feed = Feed(EXAMPLES, SETTINGS, SHAPE, 2, steps=steps)
    heard(feed, epochs=4)
    assert feed.epoch == 4


def test_the_model_keeps_the_order_of_a_feed():
    asked = []

    class Watched(Feed):
        def __getitem__(self, index):
            asked.append(index)
            return super().__getitem__(index)

    settings = Settings(
        backbone=ResNet(18, norm="batch"),
        anchors=Anchors(((8,), (16,), (32,), (64,), (128,))),
        proposals=Proposals(16, 8),
        proposal_training=ProposalTraining(samples=16),
        regions=Regions(box_size=3, mask_size=3),
        region_training=RegionTraining(samples=4),
        largest_instances=2,
        pyramid_channels=16,
    )
    keras.utils.set_random_seed(0)
    model = MaskRCNN(settings)
    eagerly = keras.backend.backend() == "tensorflow"  # JAX would compile each operation
    model.compile(optimizer=keras.optimizers.SGD(1e-4), run_eagerly=eagerly)
    feed = Watched([example(number) for number in range(5)], settings, SHAPE, 1, workers=1)
    history = model.fit(feed, verbose=0).history
    assert asked[-5:] == list(range(5)) and set(LOSSES) < set(history)
    assert np.isfinite([values[-1] for values in history.values()]).all()


@pytest.mark.parametrize(("changes", "message"), [
    ({"image": example(1).image * 255}, r"xray1: .*8-bit"),
    ({"masks": np.zeros((1, 30, 60), bool)}, "xray1: .*empty"),
    ({"masks": np.ones((1, 60, 30), bool)}, "xray1: .*60 x 30"),
    ({"labels": np.array([4], "int32")}, "xray1, box 0 .*label is 4"),
    ({"image": np.ones((40, 60), "float32"), "masks": np.ones((1, 40, 60), bool)}, "xray1: .*hold all images, up to 40 x 60"),
])
def test_faults_are_found_when_the_feed_is_made(changes, message):
    bad = replace(example(1), **changes)
    with pytest.raises(InputError, match=message):
        Feed([example(0), bad], SETTINGS, SHAPE, 2)


def test_no_examples_and_no_steps_are_refused():
    with pytest.raises(InputError, match="at least one"):
        Feed([], SETTINGS, SHAPE, 2)
    for how in ({"batch_size": 0}, {"batch_size": 1, "steps": 0}):
        with pytest.raises(ParameterError, match="at least 1"):
            Feed(EXAMPLES, SETTINGS, SHAPE, **how)


def test_an_image_that_a_change_makes_black_comes_as_it_is():
    def darken(image, masks, labels, seed):
        return np.zeros_like(image), masks[:0], labels[:0]

    (x,) = Feed([example(1)], SETTINGS, SHAPE, 1, change=darken)[0]
    np.testing.assert_array_equal(x["images"][0, :30, :60, 0], example(1).image)
    assert x["valid"].sum() == 1


def test_a_fault_of_a_change_names_the_image():
    def change(image, masks, labels, seed):
        return image, masks & False, labels

    with pytest.raises(InputError, match="xray1: Mask 0 of 1 is empty"):
        Feed([example(1)], SETTINGS, SHAPE, 1, change=change)[0]


def test_counts_of_examples_are_even_over_many_epochs():
    feed, seen = Feed(EXAMPLES, SETTINGS, SHAPE, 2, steps=2, seed=3), Counter()
    for _ in range(9):
        seen.update(number for part in numbers(feed) for number in part)
        end_epoch(feed)
    assert set(seen.values()) == {5, 6} and sum(seen.values()) == 36
