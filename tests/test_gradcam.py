"""Grad-CAM: gradients known in closed form, what it must not change, and what it refuses."""

import keras
import numpy as np
import pytest
from keras import layers

from covidcxr import gradcam, training
from covidcxr.errors import InputError, ParameterError
from covidcxr.models.diagnosis_cnn import diagnosis_cnn


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).random((5, 12, 10, 3), np.float32)


def pooled(last: str | None) -> keras.Model:
    """Convolution, mean over the places, dense: its Grad-CAM is the class activation map."""
    training.set_seed(3)
    image = keras.Input((12, 10, 3))
    maps = layers.Conv2D(4, 3, padding="same", activation="relu", name="conv")(image)
    return keras.Model(image, layers.Dense(2, activation=last, name="scores")(layers.GlobalAveragePooling2D()(maps)))


@pytest.mark.parametrize("last", [None, "sigmoid", "softmax"])
@pytest.mark.parametrize("output", [0, 1])
def test_after_a_global_mean_it_is_the_class_activation_map(images, last, output):
    model = pooled(last)
    maps = keras.Model(model.inputs, model.get_layer("conv").output).predict(images, verbose=0)
    weights = model.get_layer("scores").get_weights()[0][:, output]
    expected = np.maximum(maps @ weights, 0) / (12 * 10)
    found = gradcam.heat_maps(model, images, "conv", output=output, batch_size=2)
    assert found.shape == (5, 12, 10) and found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-8)


def test_gradients_are_those_of_finite_differences(images):
    """With what lies between a layer and the score: skip around it, batch norm, dropout, a flattened dense layer."""
    training.set_seed(5)
    image = keras.Input((12, 10, 3))
    maps = layers.Conv2D(3, 3, padding="same", activation="tanh", name="conv")(image)
    joined = layers.Concatenate()([layers.BatchNormalization()(maps), image])
    deep = layers.Dense(6, activation="tanh")(layers.Dropout(0.5)(layers.Flatten()(layers.AveragePooling2D(2)(joined))))
    model = keras.Model(image, layers.Dense(1, activation="sigmoid")(deep))
    chosen, scores = gradcam._parts(model, "conv", 0)
    rest = keras.Model([chosen, *model.inputs], scores)
    conv = keras.Model(model.inputs, chosen).predict(images, verbose=0)
    probe = gradcam._Probe(rest, conv.shape, 0)
    probe.compile(keras.optimizers.SGD(1.0), jit_compile=training.jit_compile())
    gradient = probe.gradient(conv, images)
    random, step = np.random.default_rng(1), 0.05
    for _ in range(6):
        direction = random.standard_normal(conv.shape).astype(np.float32)
        ahead, back = (rest.predict([conv + sign * step * direction, images], verbose=0)[:, 0] for sign in (1, -1))
        np.testing.assert_allclose((gradient * direction).sum(axis=(1, 2, 3)), (ahead - back) / (2 * step), rtol=0.02, atol=2e-3)


def test_the_model_stays_as_it_was(images):
    model = pooled("sigmoid")
    before = [weight.copy() for weight in model.get_weights()]
    answers, trainable = model.predict(images, verbose=0), len(model.trainable_weights)
    gradcam.heat_maps(model, images, "conv")
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    np.testing.assert_array_equal(model.predict(images, verbose=0), answers)
    assert len(model.trainable_weights) == trainable > 0 and model.layers[1].trainable


def test_batches_change_nothing_and_grey_images_are_repeated():
    grey = np.random.default_rng(2).random((7, 20, 18), np.float32)
    training.set_seed(0)
    model = diagnosis_cnn((20, 18, 3), (4, 4), 8)
    model.set_weights([np.abs(weight) / 10 for weight in model.get_weights()])  # every place raises the score
    whole = gradcam.heat_maps(model, grey, "conv2", batch_size=7)
    assert whole.max() > 0
    np.testing.assert_allclose(gradcam.heat_maps(model, grey, "conv2", batch_size=3), whole, rtol=1e-4, atol=1e-7)
    colour = np.repeat(grey[..., None], 3, axis=-1)
    np.testing.assert_allclose(gradcam.heat_maps(model, colour, "conv2", batch_size=7), whole, rtol=1e-5, atol=1e-8)


def test_a_planted_mark_is_where_the_heat_is():
    """Images that differ in a bright corner alone: what the network has learned lies there."""
    random = np.random.default_rng(4)
    marked = np.arange(24) % 2 == 0
    pictures = 0.2 * random.random((24, 24, 24, 1), np.float32)
    pictures[marked, 3:8, 3:8] = 1.0
    training.set_seed(1)
    image = keras.Input((24, 24, 1))
    maps = layers.Conv2D(6, 3, padding="same", activation="relu", name="conv")(image)
    model = keras.Model(image, layers.Dense(1, activation="sigmoid")(layers.GlobalMaxPooling2D()(maps)))
    model.compile(keras.optimizers.Adam(0.02), "binary_crossentropy", jit_compile=training.jit_compile())
    model.fit(pictures, marked.astype("float32")[:, None], epochs=30, batch_size=8, verbose=0)
    corner = np.zeros((12, 24, 24), bool)
    corner[:, :12, :12] = True
    inside = gradcam.mass_inside(gradcam.heat_maps(model, pictures[marked], "conv"), corner)
    assert np.nanmean(inside) > 0.6  # chance: a quarter


def test_mass_inside_is_a_share():
    heat = np.zeros((3, 4, 4), np.float32)
    heat[0, :2] = 1
    heat[1, 0, 0], heat[1, 3, 3] = 3, 1
    masks = np.zeros((3, 4, 4), bool)
    masks[:, 0] = True
    np.testing.assert_allclose(gradcam.mass_inside(heat, masks), [0.5, 0.75, np.nan])
    with pytest.raises(InputError, match="one mask, bool"):
        gradcam.mass_inside(heat, masks[:2])
    with pytest.raises(InputError, match="one mask, bool"):
        gradcam.mass_inside(heat, masks.astype(float))


def test_what_it_refuses(images):
    model = pooled("softmax")
    with pytest.raises(ParameterError, match="did you mean 'conv'|Did you mean 'conv'"):
        gradcam.heat_maps(model, images, "convv")
    with pytest.raises(ParameterError, match="no maps"):
        gradcam.heat_maps(model, images, "scores")
    with pytest.raises(ParameterError, match="0 to 1"):
        gradcam.heat_maps(model, images, "conv", output=2)
    with pytest.raises(InputError, match="image 1: .*this one is"):
        gradcam.heat_maps(model, [images[0], images[1][:5]], "conv")
    with pytest.raises(InputError, match="at least one image"):
        gradcam.heat_maps(model, images[:0], "conv")
    image = keras.Input((12, 10, 3))
    maps = keras.Model(image, layers.Conv2D(1, 3, name="conv")(image))
    with pytest.raises(ParameterError, match="one image"):
        gradcam.heat_maps(maps, images, "conv")
