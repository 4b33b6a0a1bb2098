"""A classifier of CT slices, lesion or none, and its class activation maps: yang2021's peers CAM and Grad-CAM, and BL's judge.

    model = slice_classifier(256)
    history = train(model, scale.all(slices.normal), scale.all(slices.lesioned), epochs=20, folder=…, name="classifier", …)
    heat = activation_maps(model, images)                                  # CAM
    heat = gradcam.heat_maps(model, images, LAST_MAPS)                     # Grad-CAM

Section 3.2 of the paper: "ResNet18 was chosen as the backbone of CAM and Grad-CAM to train a binary classification task." CAM
(Zhou et al., CVPR 2016) needs what a ResNet has: the mean over each map, then one dense layer. Of such a network Grad-CAM is the
positive part of CAM, over the number of places.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from covidcxr import feeding, training
from covidcxr.errors import InputError
from covidcxr.models.resnet import ResNet
from covidcxr.resizing import resize

LAST_MAPS = "maps"
"""Name of the layer whose maps are pooled."""


def slice_classifier(image_size: int, last_stage: int = 5) -> keras.Model:
    """ResNet18 with one dense layer: from images (N, H, W, 1) in [-1, 1] to the probability of a lesion, float32 (N, 1).

    Args:
        image_size: side of the images, at least 32.
        last_stage: of the ResNet; 5 is all of it, with maps of a 32nd of the side. With 4 small images keep maps worth a look.
    """
    image = keras.Input((image_size, image_size, 1), name="image")
    maps = ResNet(18, norm="batch").network(last_stage, input_channels=1)(image)[-1]
    maps = layers.Activation("linear", name=LAST_MAPS)(maps)
    pooled = layers.GlobalAveragePooling2D(name="pooled")(maps)
    return keras.Model(image, layers.Dense(1, activation="sigmoid", dtype="float32", name="lesion")(pooled), name="classifier")


class _Balanced(feeding.Feed):
    """Half a batch of either class, in an order of its own."""

    def __init__(self, normal, lesioned, batch_size: int, steps: int, seed: int, first_epoch: int):
        self.classes = normal, lesioned
        half = batch_size // 2
        self.others = None if lesioned is None else _Balanced(lesioned, None, batch_size, steps, seed + 1, first_epoch)
        super().__init__(len(normal), half, steps, True, seed, first_epoch, workers=2, max_queue_size=4)

    def make(self, drawn: list[tuple[int, int]]) -> tuple[Any, ...]:
        return (np.stack([self.classes[0][number] for number, _ in drawn])[..., None],)

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        (images,) = super().__getitem__(index)
        if self.others is None:
            return (images,)
        (lesioned,) = self.others[index]
        labels = np.repeat(np.array([[0], [1]], np.float32), [len(images), len(lesioned)], axis=0)
        return np.concatenate([images, lesioned]), labels

    def on_epoch_begin(self) -> None:
        super().on_epoch_begin()
        if self.others is not None:
            self.others.on_epoch_begin()

    def on_epoch_end(self) -> None:
        super().on_epoch_end()
        if self.others is not None:
            self.others.on_epoch_end()


def train(
    model: keras.Model, normal: Sequence[np.ndarray], lesioned: Sequence[np.ndarray], *, epochs: int, steps: int, folder: Path,
    name: str, made_from: Any, batch_size: int = 8, learning_rate: float = 1e-3, seed: int = 0,
) -> training.History:
    """Train a classifier, or load what has been trained before: Adam, binary cross-entropy, half of each batch of either class.

    Args:
        model: of `slice_classifier`, as it shall begin; it is compiled here.
        normal, lesioned: float32 (H, W) in [-1, 1] of both classes.
        epochs, steps: epochs, and batches in each.
        folder, name, made_from: as for `training.fit_or_load`.

    Raises:
        InputError: there is no image of a class.
    """
    feeding.check_classes(normal, lesioned)
    rate = training.cosine_rate(learning_rate, epochs * steps)
    model.compile(keras.optimizers.Adam(rate), "binary_crossentropy", metrics=["accuracy"], jit_compile=training.jit_compile())

    def feed(first_epoch: int) -> _Balanced:
        return _Balanced(normal, lesioned, batch_size, steps, 2 * seed, first_epoch)

    described = {"images": made_from, "batch_size": batch_size, "steps": steps, "seed": seed}
    return training.fit_or_load(model, feed, epochs=epochs, folder=folder, name=name, made_from=described)


def activation_maps(model: keras.Model, images: Sequence[np.ndarray], batch_size: int = 8) -> np.ndarray:
    """CAM of each image, float32 (N, H, W): the last maps, weighted as the score weighs their means, enlarged to the image.

    Its mean over the maps' places plus the bias is the log odds of a lesion, so negative values speak against one.

    Args:
        model: whose last layers are: maps, named `LAST_MAPS`, their means, one dense layer with one unit.
        images: float32 (H, W) in [-1, 1].

    Raises:
        InputError: there is no image, or the model is another one.
    """
    if not len(images):
        raise InputError("Heat maps are made of at least one image; there is none.")
    last = model.layers[-1]
    if not isinstance(last, layers.Dense) or not isinstance(model.layers[-2], layers.GlobalAveragePooling2D):
        raise InputError("CAM needs a model that ends in a mean over each map and one dense layer; for others take Grad-CAM.")
    maps_of = keras.Model(model.inputs, model.get_layer(LAST_MAPS).output)
    weights = ops.convert_to_numpy(last.kernel)[:, 0]
    found = []
    for start in range(0, len(images), batch_size):
        batch = np.stack([images[i] for i in range(start, min(start + batch_size, len(images)))])[..., None]
        filled = np.concatenate([batch, np.repeat(batch[-1:], batch_size - len(batch), axis=0)])
        maps = ops.convert_to_numpy(maps_of.predict_on_batch(filled))[: len(batch)]
        found += [resize(one, batch.shape[1:3]) for one in (maps @ weights).astype(np.float32)]
    return np.stack(found)
