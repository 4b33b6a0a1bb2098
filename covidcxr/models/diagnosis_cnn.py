"""The diagnosis network of zhang2020: two convolutions, two maxima, two dense layers; its training and its answers.

    training.set_seed(0)
    model = diagnosis_cnn((246, 236, 3))
    history = train(model, images, covid, validation=(others, others_covid), epochs=20, patience=1, folder=…, name="printed")
    risk = probabilities(model, others)

`images` may be any sequence of pictures of one size, such as `diagnosis.cropped(squares.read(…).images)`: the same network learns
from whole radiographs, from lungs alone, or from what is left without them.

Section 5.1 of the paper: "2 convolution layers with convolutional operations of kernel size (3,3), 2 max pool layers with a
kernel size of (2,2), 1 flattening layer, and 1 dense layer of size 64 and the final dense layer of size 1"; ReLU after all but
the last, which has a sigmoid. How many filters a convolution has stands only in its Figure 6.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from covidcxr.errors import InputError, ParameterError

if TYPE_CHECKING:
    import keras

    from covidcxr.training import History

FILTERS = (32, 64)
"""Of the two convolutions: those of Keras' own example of such a network ("Simple MNIST convnet"). The paper's are not known."""

DENSE = 64
BATCH = 32
"""Images per step where nothing is said, as in the paper: Keras' default."""


def diagnosis_cnn(image_shape: tuple[int, int, int], filters: Sequence[int] = FILTERS, dense: int = DENSE) -> "keras.Model":
    """A network from images (N, H, W, C) in [0, 1] to the probability of COVID-19, float32 (N, 1).

    Nothing is padded, as Keras does by default. Of 246 x 236 x 3 pixels it has 14,027,841 parameters, nearly all of them between
    the last map and the dense layer.

    Args:
        image_shape: height, width and channels.
        filters: of the convolutions, from the image on; the paper has two. After each, every 2 x 2 cells become their maximum.
        dense: units of the dense layer.

    Raises:
        ParameterError: a number is below 1, or nothing would be left of so small an image.
    """
    import keras
    from keras import layers

    _check(image_shape, filters, dense)
    image = x = keras.Input(image_shape, name="image")
    for i, count in enumerate(filters, start=1):
        x = layers.Conv2D(count, 3, activation="relu", name=f"conv{i}")(x)
        x = layers.MaxPooling2D(2, name=f"pool{i}")(x)
    x = layers.Flatten(name="flat")(x)
    x = layers.Dense(dense, activation="relu", name="dense")(x)
    # Probabilities stay float32 where the rest computes in half precision.
    x = layers.Dense(1, activation="sigmoid", dtype="float32", name="covid")(x)
    return keras.Model(image, x, name="diagnosis_cnn")


def train(
    model: "keras.Model",
    images: Sequence[np.ndarray],
    covid: Sequence[bool] | np.ndarray,
    *,
    validation: tuple[Sequence[np.ndarray], Sequence[bool] | np.ndarray],
    epochs: int,
    folder: Path,
    name: str,
    patience: int | None = 1,
    restore_best: bool = False,
    learning_rate: float = 0.001,
    batch_size: int = BATCH,
    steps: int | None = None,
    seed: int = 0,
) -> "History":
    """Train the network, or load what has been trained before (`training.fit_or_load`): Adam and binary cross-entropy.

    Args:
        model: of `diagnosis_cnn`, as it shall begin; it is compiled here.
        images: of the height and width of the model, float32 in [0, 1], (H, W) or (H, W, 3). covid: whether it is COVID-19, each.
        validation: images and labels whose loss is looked at after every epoch.
        epochs: at most.
        folder, name: where the weights are kept, and as what.
        patience: training ends when the validation loss has not fallen for so many epochs; None: after all `epochs`. The paper
            has 1, and its training ended after the second epoch.
        restore_best: keep the weights of the epoch with the lowest validation loss. False, Keras' default, keeps the last ones,
            of an epoch in which it had risen.
        learning_rate: of Adam, constant; 0.001 is Keras' default, which "the adam optimizer" of the paper would be.
        batch_size, steps: images per step and steps per epoch; None: all images once.
        seed: of the order of the images.

    Returns:
        Per epoch `loss`, `accuracy`, `val_loss`, `val_accuracy` and what `training.History` has besides. The loss and the
        accuracy in training are means over an epoch while the weights change.

    Raises:
        InputError: images and labels do not fit together, or the training images are all of one class.
    """
    import keras

    from covidcxr import feeding, training

    labels = np.asarray(covid)
    if labels.dtype == bool and len(labels) and (labels.all() or not labels.any()):
        kind = "of COVID-19" if labels.all() else "without COVID-19"
        raise InputError(f"A diagnosis is learned from both classes; these {len(labels)} training images are all {kind}.")
    watched = feeding.Labelled(*validation, batch_size, shuffle=False)

    def feed(first_epoch: int) -> feeding.Labelled:
        return feeding.Labelled(images, labels, batch_size, steps, seed, first_epoch)

    model.compile(
        keras.optimizers.Adam(learning_rate), loss="binary_crossentropy", metrics=["accuracy"], jit_compile=training.jit_compile()
    )
    made_from = {
        "train": digest(images, labels), "validation": digest(*validation),
        "batch_size": batch_size, "steps": steps, "seed": seed,
    }
    return training.fit_or_load(
        model, feed, epochs=epochs, folder=folder, name=name, made_from=made_from, validation=watched, patience=patience,
        restore_best=restore_best,
    )


def probabilities(model: "keras.Model", images: Sequence[np.ndarray], batch_size: int = BATCH) -> np.ndarray:
    """Probability of COVID-19 of each image, float64 (N,) in [0, 1].

    Args:
        images: as for `train`.
        batch_size: images at a time. The last ones are filled up, so that no other shape is compiled.
    """
    from covidcxr.feeding import Labelled

    feed = Labelled(images, np.zeros(len(images), bool), batch_size, shuffle=False)
    found = []
    for index in range(len(feed)):
        batch, _ = feed[index]
        filled = np.concatenate([batch, np.repeat(batch[-1:], batch_size - len(batch), axis=0)])
        found.append(np.asarray(model.predict_on_batch(filled), np.float64)[: len(batch), 0])
    return np.concatenate(found)


def digest(images: Sequence[np.ndarray], covid: Sequence[bool] | np.ndarray) -> str:
    """Hash of images and labels: what a training that is loaded again must have been made from."""
    hashed = hashlib.sha256(repr((len(images), np.asarray(covid).tolist())).encode())
    for number in range(len(images)):
        image = images[number]
        hashed.update(repr(image.shape).encode() + np.ascontiguousarray(image).tobytes())
    return hashed.hexdigest()


def _check(image_shape: tuple[int, int, int], filters: Sequence[int], dense: int) -> None:
    if min(image_shape) < 1 or not filters or min(filters) < 1 or dense < 1:
        raise ParameterError(
            f"image_shape, filters and dense must be at least 1; they are {image_shape}, {list(filters)} and {dense}."
        )
    side = min(image_shape[:2])
    for _ in filters:
        side = (side - 2) // 2
    if side < 1:
        height, width, _ = image_shape
        raise ParameterError(f"{len(filters)} convolutions of 3 x 3, each halved, leave nothing of {height} x {width} pixels.")
