"""Feeding segmentation: what a batch holds, decided by seed, epoch and position alone. The order: test_maskrcnn_feeding."""

from functools import partial

import keras
import numpy as np
import pytest

from covidcxr import augment, training
from covidcxr.errors import InputError, ParameterError
from covidcxr.feeding import Labelled, Pictures

rng = np.random.default_rng(0)
IMAGES = [rng.random((16, 24), dtype="float32") for _ in range(5)]
MASKS = [image < 0.3 for image in IMAGES]
RECIPE = partial(augment.draw, augment.tang2020(16))


def end_epoch(feed):
    feed.on_epoch_begin()
    feed.on_epoch_end()


def same(one, other):
    for (images, masks), (others, other_masks) in zip(one, other, strict=True):
        np.testing.assert_array_equal(images, others)
        np.testing.assert_array_equal(masks, other_masks)


def test_a_batch_is_images_of_three_channels_and_masks_of_one():
    images, masks = Pictures(IMAGES, MASKS, 2, shuffle=False)[1]
    assert images.dtype == masks.dtype == np.float32
    np.testing.assert_array_equal(images, np.stack(IMAGES[2:4])[..., None].repeat(3, axis=3))
    np.testing.assert_array_equal(masks, np.stack(MASKS[2:4])[..., None])
    colours = [np.stack([image, 1 - image, image**2], axis=2) for image in IMAGES]
    np.testing.assert_array_equal(Pictures(colours, MASKS, 2, shuffle=False)[0][0], colours[:2])


def test_each_pass_holds_every_image_once_with_its_own_mask():
    feed = Pictures(IMAGES, MASKS, 5, steps=2)
    for _ in range(3):
        for images, masks in feed:
            order = [next(i for i, own in enumerate(IMAGES) if np.array_equal(own, image[..., 0])) for image in images]
            assert sorted(order) == [0, 1, 2, 3, 4]
            np.testing.assert_array_equal(masks[..., 0], [MASKS[i] for i in order])
        end_epoch(feed)


def test_image_and_mask_are_changed_by_one_draw_of_their_own_seed():
    seeds = []

    def change(image, masks, seed):
        seeds.append(seed)
        return RECIPE(image, masks, seed)

    images, masks = Pictures(IMAGES, MASKS, 5, augment=change, shuffle=False)[0]
    assert len(set(seeds)) == 5 and images.shape == (5, 16, 16, 3) and masks.shape == (5, 16, 16, 1)
    for i, seed in enumerate(seeds):
        image, (mask,) = RECIPE(IMAGES[i], MASKS[i][None], seed)
        np.testing.assert_array_equal(images[i], image[..., None].repeat(3, axis=2))
        np.testing.assert_array_equal(masks[i, ..., 0], mask)


def test_one_that_goes_on_is_fed_as_if_it_had_not_stopped():
    make = partial(Pictures, IMAGES, MASKS, 2, steps=3, augment=RECIPE, seed=5)
    whole = make()
    first = list(whole)
    end_epoch(whole)
    end_epoch(whole)
    same(whole, make(first_epoch=2))
    same(first, make())
    assert not np.array_equal(first[0][0], make(seed=6)[0][0])


def test_not_shuffled_every_epoch_is_the_same():
    feed = Pictures(IMAGES, MASKS, 2, shuffle=False)
    assert len(feed) == 3
    first = list(feed)
    end_epoch(feed)
    same(first, feed)
    np.testing.assert_array_equal(first[2][0][1], first[0][0][0])  # the last batch is full


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("first", [0, 2])
def test_threads_change_nothing_in_training(first, workers, tmp_path):
    """Nor does Keras, which asks for batches before the first epoch."""
    make = partial(Pictures, IMAGES, MASKS, 2, steps=4, augment=RECIPE)
    expected = [float(np.mean((x[..., :1] - y) ** 2)) for epoch in range(3) for x, y in make(first_epoch=epoch)]
    model = keras.Sequential([keras.Input((16, 16, 3)), keras.layers.Conv2D(1, 1, use_bias=False)])
    model.set_weights([np.array([1.0, 0, 0], "float32").reshape(1, 1, 3, 1)])
    model.compile(keras.optimizers.SGD(0.0), "mse", jit_compile=False)
    heard = []
    listen = keras.callbacks.LambdaCallback(on_train_batch_end=lambda step, logs: heard.append((step + 1) * logs["loss"]))

    def feed(done):
        return make(first_epoch=first + done, workers=workers, max_queue_size=2)

    training.fit_or_load(
        model, feed, epochs=3 - first, folder=tmp_path, name="net", made_from=None, callbacks=[listen],
    )  # fmt: skip
    sums = np.array(heard, float).reshape(-1, 4)  # the loss of an epoch's steps so far is their mean
    np.testing.assert_allclose(np.diff(sums, axis=1, prepend=0).ravel(), expected[4 * first :], rtol=1e-4)


@pytest.mark.parametrize(("images", "masks", "message"), [
    ([], [], "at least one example"),
    (IMAGES, MASKS[:4], "5 images and 4 masks"),
    ([IMAGES[0], 255 * IMAGES[1]], MASKS[:2], "image 1: .*8-bit"),
    ([IMAGES[0], np.full((16, 24), np.nan, "float32")], MASKS[:2], "image 1: .*NaN"),
    ([IMAGES[0], IMAGES[1].astype(float)], MASKS[:2], r"image 1: an image must be float32 \(H, W\) or \(H, W, 3\); .*float64"),
    ([IMAGES[0], IMAGES[1][..., None]], MASKS[:2], r"image 1: an image must be float32 .*\(16, 24, 1\)"),
    (IMAGES[:2], [MASKS[0], MASKS[1].T], r"image 1: its mask must be bool \(16, 24\).*\(24, 16\)"),
    (IMAGES[:2], [MASKS[0], MASKS[1].astype("uint8")], "image 1: its mask must be bool .*uint8"),
    ([IMAGES[0], IMAGES[1].T], [MASKS[0], MASKS[1].T], "image 1: without `augment` all images must be of one size"),
])  # fmt: skip
def test_faults_are_found_when_the_feed_is_made(images, masks, message):
    with pytest.raises(InputError, match=message):
        Pictures(images, masks, 2)


@pytest.mark.parametrize("how", [{"batch_size": 0}, {"batch_size": 2, "steps": 0}])
def test_no_batches_are_refused(how):
    with pytest.raises(ParameterError, match="at least 1"):
        Pictures(IMAGES, MASKS, **how)


def test_faults_of_a_change_are_told():
    def refuse(image, masks, seed):
        raise InputError("it cannot be")

    with pytest.raises(InputError, match="image 0: it cannot be"):
        Pictures(IMAGES, MASKS, 2, augment=refuse, shuffle=False)[0]

    def cut(image, masks, seed):
        rows = 8 + int(image is IMAGES[1])
        return image[:rows], masks[:, :rows]

    with pytest.raises(InputError, match=r"of one size; after `augment` here are \[\(8, 24\), \(9, 24\)\]"):
        Pictures(IMAGES, MASKS, 2, augment=cut, shuffle=False)[0]


# ---- labels ----------------------------------------------------------------------------------------------------------

LABELS = np.array([True, False, False, True, False])


def test_a_labelled_batch_is_images_of_three_channels_and_a_column_of_labels():
    images, labels = Labelled(IMAGES, LABELS, 2, shuffle=False)[1]
    assert images.dtype == labels.dtype == np.float32
    np.testing.assert_array_equal(images, np.stack(IMAGES[2:4])[..., None].repeat(3, axis=3))
    np.testing.assert_array_equal(labels, [[0], [1]])
    colours = [np.stack([image, 1 - image, image**2], axis=2) for image in IMAGES]
    np.testing.assert_array_equal(Labelled(colours, LABELS, 2, shuffle=False)[0][0], colours[:2])


def test_labels_go_with_their_images_and_no_image_comes_again_before_all_have_come():
    feed = Labelled(IMAGES, LABELS, 5, steps=2)
    for _ in range(3):
        for images, labels in feed:
            order = [next(i for i, own in enumerate(IMAGES) if np.array_equal(own, image[..., 0])) for image in images]
            assert sorted(order) == [0, 1, 2, 3, 4]
            np.testing.assert_array_equal(labels[:, 0], LABELS[order])
        end_epoch(feed)
    same(feed, Labelled(IMAGES, LABELS, 5, steps=2, first_epoch=3))


@pytest.mark.parametrize("batch_size", [1, 2, 3, 5, 8])
def test_not_shuffled_every_image_counts_once(batch_size):
    batches = list(Labelled(IMAGES, LABELS, batch_size, shuffle=False))
    np.testing.assert_array_equal(np.concatenate([images for images, _ in batches])[..., 0], IMAGES)
    np.testing.assert_array_equal(np.concatenate([labels for _, labels in batches])[:, 0], LABELS)
    model = keras.Sequential([keras.Input((16, 24, 3)), keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(1, "sigmoid")])
    model.compile(loss="binary_crossentropy", jit_compile=False)
    risk = model.predict(np.stack(IMAGES)[..., None].repeat(3, axis=3), verbose=0)[:, 0]
    expected = -np.mean(np.log(np.where(LABELS, risk, 1 - risk)))
    assert model.evaluate(Labelled(IMAGES, LABELS, batch_size, shuffle=False), verbose=0) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("images", "labels", "error", "message"), [
    ([], np.zeros(0, bool), InputError, "at least one example"),
    (IMAGES, LABELS[:4], InputError, "5 images and 4 labels"),
    (IMAGES, [True, None, False, True, True], InputError, "none missing; these are object"),
    (IMAGES, [0, 1, 0, 1, 2], InputError, "must be bool, none missing; these are int64"),
    ([IMAGES[0], 255 * IMAGES[1]], LABELS[:2], InputError, "image 1: .*8-bit"),
    ([IMAGES[0], IMAGES[1][..., None]], LABELS[:2], InputError, r"image 1: an image must be float32 .*\(16, 24, 1\)"),
    ([IMAGES[0], IMAGES[1].T], LABELS[:2], InputError, r"image 1: images must be of one size; this one is \(24, 16\)"),
])  # fmt: skip
def test_faults_of_labels_are_found_when_the_feed_is_made(images, labels, error, message):
    with pytest.raises(error, match=message):
        Labelled(images, labels, 2)


def test_an_epoch_that_is_not_shuffled_has_no_other_length():
    with pytest.raises(ParameterError, match="leave steps out"):
        Labelled(IMAGES, LABELS, 2, steps=2, shuffle=False)
