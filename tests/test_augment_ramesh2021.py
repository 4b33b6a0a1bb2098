"""The recipe of ramesh2021: every item alone against its closed form."""

from dataclasses import replace

import numpy as np
import pytest
from augmenting import STILL, draw, happens, inverse_map, noise, origins, ramps

from covidcxr import augment
from covidcxr.augment import Ramesh2021, ramesh2021


def test_with_everything_off_nothing_happens():
    np.testing.assert_allclose(draw(noise(), STILL), noise(), atol=1e-6)


def test_a_flip_mirrors_columns_exactly():
    masks = noise(3, 40, 60) < 0.3
    image, moved, _ = augment.apply(ramesh2021(replace(STILL, flip_probability=1)), noise(), masks, np.arange(3), 0)
    np.testing.assert_allclose(image, noise()[:, ::-1], atol=1e-6)
    np.testing.assert_array_equal(moved, masks[:, :, ::-1])


@pytest.mark.parametrize(("name", "probability"), [
    ("flip_probability", 0.5), ("blur_probability", 0.5), ("channel_probability", 0.2),
])
def test_each_item_happens_as_often_as_printed(name, probability):
    assert getattr(Ramesh2021(), name) == probability
    image, values = noise(12, 16), replace(STILL, **{name: probability})
    if name == "blur_probability":
        values = replace(values, blur_sigma_range=(0.4, 0.5))  # smaller ones blur too little to be told
    changed = sum(not np.allclose(draw(image, values, seed), image, atol=1e-4) for seed in range(400))
    happens(changed, probability, 400)


def test_a_crop_cuts_the_same_share_and_resizes_back():
    image = ramps()
    cropped = draw(image, replace(STILL, crop_probability=1, crop_range=(10, 10)))
    assert cropped.shape == image.shape
    to, source = origins(cropped)
    np.testing.assert_allclose(source[:, 0], (to[:, 0] + 0.5) * 0.8 + 12 - 0.5, atol=0.02)  # 12 of 120 columns on each side
    np.testing.assert_allclose(source[:, 1], (to[:, 1] + 0.5) * 0.8 + 8 - 0.5, atol=0.02)


def test_sides_are_cropped_apart_and_within_the_range():
    cuts = []
    for seed in range(60):
        linear, middle = inverse_map(replace(STILL, crop_probability=1), seed)
        half = np.array([60, 40])
        first, last = half + middle - half * linear.diagonal(), half - middle - half * linear.diagonal()
        cuts.append([*first / (2 * half), *last / (2 * half)])
    cuts = np.array(cuts)
    assert cuts.min() > -0.002 and cuts.max() < 0.102
    assert (cuts.min(0) < 0.02).all() and (cuts.max(0) > 0.08).all()
    assert np.abs(np.corrcoef(cuts.T) - np.eye(4)).max() < 0.5


def test_blur_has_the_weights_of_a_gaussian():
    image = np.zeros((9, 9), "float32")
    image[4, 4] = 1
    blurred = draw(image, replace(STILL, blur_probability=1, blur_sigma_range=(0.5, 0.5)))
    line = np.exp(-0.5 * (np.arange(-1, 2) / 0.5) ** 2)
    expected = np.zeros((9, 9))
    expected[3:6, 3:6] = np.outer(line, line) / line.sum() ** 2
    np.testing.assert_allclose(blurred, expected, atol=1e-6)


def test_contrast_is_stretched_about_128():
    image = noise()
    expected = np.clip((image * 255 - 128) * 1.5 + 128, 0, 255) / 255
    np.testing.assert_allclose(draw(image, replace(STILL, contrast_range=(1.5, 1.5))), expected, atol=1e-6)


def test_contrast_factors_fill_their_range():
    image = np.full((4, 4), 0.4, "float32")
    image[0] = 0.6
    values = replace(STILL, contrast_range=Ramesh2021().contrast_range)
    drawn = [float(np.ptp(draw(image, values, seed)) / 0.2) for seed in range(200)]
    assert 0.75 <= min(drawn) < 0.8 and 1.45 < max(drawn) <= 1.5 + 1e-5 and abs(np.mean(drawn) - 1.125) < 0.06


def test_a_grey_image_is_multiplied_by_one_factor_and_a_colour_image_by_three():
    values = replace(STILL, channel_probability=1)
    image = 0.2 + 0.5 * noise()
    ratios = np.array([draw(image, values, seed) / image for seed in range(80)])
    factors = ratios[:, 0, 0]
    np.testing.assert_allclose(ratios, np.broadcast_to(factors[:, None, None], ratios.shape), atol=1e-5)
    assert 0.8 - 1e-5 < factors.min() < 0.83 and 1.17 < factors.max() < 1.2 + 1e-5
    image = np.repeat(image[..., None], 3, axis=-1)
    ratio = draw(image, values) / image
    np.testing.assert_allclose(ratio, np.broadcast_to(ratio[0, 0], ratio.shape), atol=1e-5)
    assert len(np.unique(ratio[0, 0].round(3))) == 3


def test_scale_changes_each_axis_on_its_own_about_the_centre():
    values = replace(STILL, affine_probability=1, rotation_degrees=(0, 0), shear_degrees=(0, 0))
    scales = []
    for seed in range(60):
        linear, middle = inverse_map(values, seed)
        assert abs(linear[0, 1]) < 0.002 and abs(linear[1, 0]) < 0.002 and np.abs(middle).max() < 0.05
        scales.append(1 / linear.diagonal())
    scales = np.array(scales)
    assert (0.795 < scales.min(0)).all() and (scales.min(0) < 0.84).all()
    assert (1.16 < scales.max(0)).all() and (scales.max(0) < 1.205).all()
    assert abs(np.corrcoef(scales.T)[0, 1]) < 0.5


def test_rotation_is_about_the_centre_and_within_its_range():
    values = replace(STILL, affine_probability=1, scale_range=(1, 1), shear_degrees=(0, 0))
    angles = []
    for seed in range(60):
        linear, middle = inverse_map(values, seed)
        np.testing.assert_allclose(linear @ linear.T, np.eye(2), atol=0.01)
        assert np.abs(middle).max() < 0.05
        angles.append(np.degrees(np.arctan2(linear[1, 0], linear[0, 0])))
    assert -10.1 < min(angles) < -8 and 8 < max(angles) < 10.1


def test_shear_tilts_both_axes_within_its_range():
    values = replace(STILL, affine_probability=1, scale_range=(1, 1), rotation_degrees=(0, 0))
    tilts = []
    for seed in range(60):
        linear, _ = inverse_map(values, seed)
        forward = np.linalg.inv(linear)
        np.testing.assert_allclose(forward.diagonal(), 1, atol=0.005)
        tilts.append(np.degrees(np.arctan([forward[0, 1], forward[1, 0]])))
    tilts = np.array(tilts)
    assert np.abs(tilts).max() < 2.1 and (tilts.min(0) < -1.5).all() and (tilts.max(0) > 1.5).all()
    assert abs(np.corrcoef(tilts.T)[0, 1]) < 0.5
