"""The lung network of zhang2020: its size, its shapes, and that it learns."""

import keras
import numpy as np
import pytest
from keras import ops

from covidcxr import training
from covidcxr.errors import ParameterError
from covidcxr.models.lung_unet import lung_unet


@pytest.mark.parametrize("channels, parameters", [(1, 31_031_685), (3, 31_032_837)])
def test_the_defaults_are_the_published_variant(channels, parameters):
    """31,031,685 is what Keras counts for zhixuhao's network on grey images."""
    model = lung_unet(channels=channels)
    assert model.count_params() == parameters
    kernels = [layer.kernel_size for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
    assert (kernels.count((3, 3)), kernels.count((2, 2)), kernels.count((1, 1))) == (19, 4, 1)
    assert [layer.rate for layer in model.layers if isinstance(layer, keras.layers.Dropout)] == [0.5, 0.5]


@pytest.mark.parametrize("depth, filters, batch_norm", [(1, 4, False), (2, 3, True), (4, 2, False)])
def test_probabilities_have_the_images_size(depth, filters, batch_norm):
    model = lung_unet(base_filters=filters, depth=depth, batch_norm=batch_norm)
    images = np.random.default_rng(0).random((2, 48, 16 * 2, 3), np.float32)
    found = ops.convert_to_numpy(model(images))
    assert found.shape == (2, 48, 32, 1) and found.dtype == np.float32 and 0 <= found.min() < found.max() <= 1
    smallest = model.get_layer("bottom_conv2").output.shape
    assert smallest[-1] == filters * 2**depth
    assert any(isinstance(layer, keras.layers.BatchNormalization) for layer in model.layers) == batch_norm


def test_probabilities_stay_float32_in_half_precision():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = lung_unet(16, base_filters=2, depth=1)
    finally:
        keras.config.set_dtype_policy("float32")
    assert model.output.dtype == "float32" and model.get_layer("down1_conv1").compute_dtype == "float16"


def test_every_pixel_sees_its_neighbourhood_through_the_skips_and_the_bottom():
    """A change of one pixel reaches far in a network with the bottom, and its own place through the skips."""
    training.set_seed(1)
    model = lung_unet(32, base_filters=4, depth=2, dropout=0.0)
    image = np.full((1, 32, 32, 3), 0.5, np.float32)
    other = image.copy()
    other[0, 16, 16] = 0.0
    change = np.abs(ops.convert_to_numpy(model(image) - model(other)))[0, ..., 0]
    assert change[16, 16] > 0 and change[16 - 8, 16] > 0 and change[16, 16 + 8] > 0


@pytest.mark.parametrize("batch_norm, last_filters", [(False, 2), (True, 0)])
def test_it_learns_a_disc(batch_norm, last_filters):
    training.set_seed(3)
    y, x = np.mgrid[:32, :32]
    centres = np.random.default_rng(0).uniform(10, 22, (16, 2))
    masks = np.stack([(y - a) ** 2 + (x - b) ** 2 < 49 for a, b in centres])[..., None].astype(np.float32)
    images = np.repeat(0.2 + 0.6 * masks, 3, axis=-1)
    model = lung_unet(
        32, base_filters=4, depth=2, dropout=0.0, batch_norm=batch_norm, momentum=0.8, last_filters=last_filters
    )
    model.compile(keras.optimizers.Adam(5e-3), "binary_crossentropy", jit_compile=training.jit_compile())
    model.fit(images, masks, batch_size=8, epochs=40, verbose=0)
    found = np.asarray(model.predict_on_batch(images)) > 0.5
    overlap = (found & (masks > 0)).sum() / (found | (masks > 0)).sum()
    assert overlap > 0.9


@pytest.mark.parametrize("arguments, message", [
    ({"image_size": 250}, "a multiple of 16; it is 250"), ({"image_size": 8}, "a multiple of 16"), ({"depth": 0}, "at least 1"),
    ({"base_filters": 0}, "at least 1"), ({"last_filters": -1}, "last_filters at least 0"), ({"dropout": 1.0}, "below 1"),
])
def test_arguments_out_of_range_are_named(arguments, message):
    with pytest.raises(ParameterError, match=message):
        lung_unet(**arguments)
