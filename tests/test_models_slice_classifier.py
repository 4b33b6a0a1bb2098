"""The classifier of slices: CAM in closed form, and a lesion of known place."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from covidcxr import gradcam, training
from covidcxr.errors import InputError
from covidcxr.models.slice_classifier import LAST_MAPS, activation_maps, slice_classifier, train
from covidcxr.resizing import resize

SIZE = 32


def slices(count: int, lesioned: bool, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Noise, and a bright square in one of the four quarters."""
    rng = np.random.default_rng((seed, lesioned))
    images = rng.normal(-0.5, 0.05, (count, SIZE, SIZE)).astype(np.float32)
    masks = np.zeros(images.shape, bool)
    if lesioned:
        for mask, (row, column) in zip(masks, rng.choice([4, 20], (count, 2)), strict=True):
            mask[row : row + 8, column : column + 8] = True
    images[masks] += 0.7
    return images, masks


def test_cam_is_the_weighted_sum_of_the_last_maps():
    training.set_seed(0)
    model = slice_classifier(64, last_stage=3)
    images = np.random.default_rng(0).normal(size=(3, 64, 64)).astype(np.float32)
    found = activation_maps(model, images, batch_size=2)
    maps = keras.Model(model.inputs, model.get_layer(LAST_MAPS).output).predict(images[..., None], verbose=0)
    kernel, bias = model.get_layer("lesion").get_weights()
    by_place = np.einsum("nhwc,c->nhw", maps, kernel[:, 0])
    assert found.shape == (3, 64, 64) and by_place.shape[1:] == (8, 8)
    np.testing.assert_allclose(found, [resize(one, (64, 64)) for one in by_place], rtol=1e-3, atol=1e-4)
    odds = by_place.mean(axis=(1, 2)) + bias[0]
    np.testing.assert_allclose(model.predict(images[..., None], verbose=0)[:, 0], 1 / (1 + np.exp(-odds)), rtol=1e-4)


def test_cam_points_to_the_lesion_and_grad_cam_is_its_positive_part(tmp_path):
    training.set_seed(0)
    model = slice_classifier(SIZE, last_stage=3)
    normal, lesioned = slices(32, False)[0], slices(32, True)[0]
    history = train(model, normal, lesioned, epochs=4, steps=12, folder=tmp_path, name="c", made_from="squares", seed=1)
    assert history[-1]["accuracy"] > 0.95
    new, masks = slices(12, True, seed=5)
    quarters = np.repeat(np.repeat(masks.reshape(12, 2, 16, 2, 16).any(axis=(2, 4)), 16, axis=1), 16, axis=2)
    maps = activation_maps(model, new)
    inside, outside = (np.array([one[where].mean() for one, where in zip(maps, chosen, strict=True)])
                       for chosen in (quarters, ~quarters))
    assert (inside > outside).mean() > 0.9
    # Of places, whatever lies between them when they are enlarged.
    places = keras.Model(model.inputs, model.get_layer(LAST_MAPS).output).predict(new[..., None], verbose=0)
    evidence = places @ model.get_layer("lesion").get_weights()[0][:, 0]
    expected = [resize(one, (SIZE, SIZE)) for one in np.maximum(evidence, 0) / evidence[0].size]
    np.testing.assert_allclose(gradcam.heat_maps(model, new[..., None], LAST_MAPS), expected, rtol=1e-3, atol=1e-5)


def test_a_finished_classifier_is_loaded(tmp_path, capsys):
    normal, lesioned = slices(8, False)[0], slices(8, True)[0]
    found = []
    for _ in range(2):
        training.set_seed(0)
        model = slice_classifier(SIZE, last_stage=2)
        train(model, normal, lesioned, epochs=1, steps=2, folder=tmp_path, name="c", made_from="", batch_size=4)
        found.append(model.predict(lesioned[..., None], verbose=0))
    assert "trained before" in capsys.readouterr().out
    np.testing.assert_array_equal(*found)


def test_one_class_and_other_models_are_refused(tmp_path):
    model = slice_classifier(SIZE, last_stage=2)
    with pytest.raises(InputError, match="all of one class"):
        train(model, slices(4, False)[0], [], epochs=1, steps=1, folder=tmp_path, name="c", made_from="")
    with pytest.raises(InputError, match="at least one image"):
        activation_maps(model, [])
    image = keras.Input((SIZE, SIZE, 1))
    flat = keras.Model(image, layers.Dense(1)(layers.Flatten()(image)))
    with pytest.raises(InputError, match="take Grad-CAM"):
        activation_maps(flat, slices(1, True)[0])
    assert ops.convert_to_numpy(model(slices(2, True)[0][..., None])).shape == (2, 1)
