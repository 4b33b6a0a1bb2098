"""Grad-CAM: which places of an image raise a network's score, for any functional Keras model, on any backend.

    heat = gradcam.heat_maps(model, images, "conv2")             # float32 (N, H, W), 0 and more
    inside = gradcam.mass_inside(heat, masks)                    # share of each map that lies in its mask; NaN where it is empty

The map of an image is the positive part of the layer's channels, weighted by the mean gradient of the score with respect to each
(Selvaraju et al., ICCV 2017), enlarged to the image's size. The score is what goes into the model's last activation: log odds
before a sigmoid, logits before a softmax, which do not fade where the network is sure.

Keras has no function for gradients that works on all backends, but `train_on_batch` does: the maps of the layer enter the rest of
the network with a variable D added, which is zero; one step of plain gradient descent with a rate of 1 on minus the score
makes D the gradient, exactly. No other weight is trained, and the rest runs as in inference.
"""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np
from keras import ops

from covidcxr import training
from covidcxr.errors import InputError, ParameterError, did_you_mean
from covidcxr.resizing import resize


def heat_maps(
    model: keras.Model, images: Sequence[np.ndarray], layer: str, *, output: int = 0, batch_size: int = 16
) -> np.ndarray:
    """Grad-CAM of each image, float32 (N, H, W), 0 and more, in units of the score: not scaled image by image.

    Args:
        model: functional, from one image (H, W, C) to (classes,) scores; its weights stay as they are.
        images: float32 (H, W, C), or (H, W), which is repeated for as many channels as the model has.
        layer: name of a convolution in it, usually the last; what it gives is (h, w, channels), after its own activation.
        output: which of the model's numbers is asked for.
        batch_size: images at a time.

    Raises:
        InputError: there is no image, or one of another size than the model's.
        ParameterError: the model has no such layer or output, or the layer gives no maps.
    """
    if not len(images):
        raise InputError("Heat maps are made of at least one image; there is none.")
    chosen, scores = _parts(model, layer, output)
    maps_of = keras.Model(model.inputs, chosen)
    probe = _Probe(keras.Model([chosen, *model.inputs], scores), (batch_size, *chosen.shape[1:]), output)
    # Plain descent with a rate of 1: what the variable has become is the gradient.
    probe.compile(keras.optimizers.SGD(1.0), jit_compile=training.jit_compile())
    found = []
    for start in range(0, len(images), batch_size):
        batch = np.stack([_fed(images[i], model, i) for i in range(start, min(start + batch_size, len(images)))])
        # A last batch that is not full is filled up: networks are compiled for one shape.
        filled = np.concatenate([batch, np.repeat(batch[-1:], batch_size - len(batch), axis=0)])
        maps = np.asarray(maps_of.predict_on_batch(filled), np.float32)
        heat = _weighted(maps, probe.gradient(maps, filled))[: len(batch)]
        found += [resize(one, batch.shape[1:3]) for one in heat]
    return np.stack(found)


def mass_inside(heat: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Share of each heat map that lies within its mask, float64 (N,); NaN for a map that is 0 everywhere.

    Chance, for heat spread evenly, is the share of the image that the mask covers.

    Args:
        heat: (N, H, W), 0 and more.
        masks: bool (N, H, W).
    """
    if heat.shape != masks.shape or masks.dtype != bool or heat.ndim != 3:
        raise InputError(
            f"Each heat map needs one mask, bool, of its size; these are {heat.shape} and {masks.dtype} {masks.shape}."
        )
    whole = heat.sum(axis=(1, 2), dtype=np.float64)
    inside = np.where(masks, heat, 0).sum(axis=(1, 2), dtype=np.float64)
    return np.divide(inside, whole, out=np.full(len(heat), np.nan), where=whole > 0)


def _weighted(maps: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    """Positive part of the maps (N, h, w, c), each channel weighted by its mean gradient: (N, h, w)."""
    weights = gradient.mean(axis=(1, 2), keepdims=True, dtype=np.float32)
    return np.maximum((maps * weights).sum(axis=-1), 0)


def _parts(model: keras.Model, layer: str, output: int):
    """What the named layer gives, and the numbers that enter the last activation of the model."""
    if len(model.inputs) != 1 or len(model.outputs) != 1 or len(model.inputs[0].shape) != 4 or len(model.outputs[0].shape) != 2:
        raise ParameterError("Grad-CAM takes a model of one image (H, W, C) and one list of scores (classes,).")
    if not 0 <= output < model.outputs[0].shape[-1]:
        raise ParameterError(f"output is from 0 to {model.outputs[0].shape[-1] - 1} in this model; found {output!r}.")
    names = [one.name for one in model.layers]
    if layer not in names:
        raise ParameterError(f"The model has no layer {layer!r}.{did_you_mean(layer, names)} It has {', '.join(names)}.")
    chosen = model.get_layer(layer).output
    if isinstance(chosen, list) or len(chosen.shape) != 4 or None in chosen.shape[1:]:
        raise ParameterError(f"Layer {layer!r} gives no maps (h, w, channels) of a known size.")
    last = model.get_layer(model.output_names[0])
    if not hasattr(last, "activation"):
        return chosen, model.outputs[0]
    if isinstance(last, keras.layers.Activation):
        return chosen, last.input
    linear = type(last).from_config({**last.get_config(), "activation": None})
    scores = linear(last.input)
    linear.set_weights(last.get_weights())
    return chosen, scores


def _fed(image: np.ndarray, model: keras.Model, number: int) -> np.ndarray:
    """An image as the model takes it, (H, W, C)."""
    expected = model.input_shape[1:]
    fed = np.repeat(image[..., None], expected[-1], axis=-1) if image.ndim == 2 else image
    if fed.ndim != 3 or any(want not in (None, have) for want, have in zip(expected, fed.shape, strict=True)):
        raise InputError(f"image {number}: the model takes images of {expected}; this one is {image.shape}.")
    return fed.astype(np.float32, copy=False)


class _Probe(keras.Model):
    """The rest of a network after some maps (B, h, w, c), with a variable added to them that becomes the gradient."""

    def __init__(self, rest: keras.Model, shape: tuple[int, ...], output: int):
        super().__init__(name="grad_cam")
        # A copy: what is frozen here must go on learning in the model itself.
        self.rest, self.asked = keras.models.clone_model(rest), output
        self.rest.set_weights(rest.get_weights())
        self.rest.trainable = False
        self.added = self.add_weight(shape=shape, initializer="zeros", name="added", dtype="float32")

    def call(self, inputs):
        maps, image = inputs
        return self.rest([maps + self.added, image], training=False)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return -ops.sum(y_pred[:, self.asked])  # images do not mix: the gradient of each is its own score's

    def gradient(self, maps: np.ndarray, images: np.ndarray) -> np.ndarray:
        """Gradient of each image's score with respect to its maps, (B, h, w, c)."""
        self.added.assign(ops.zeros(self.added.shape))
        self.train_on_batch([maps, images])
        return ops.convert_to_numpy(self.added.value)
