"""The recipe of tang2020: every item alone against its closed form."""

import warnings
from dataclasses import fields, replace

import numpy as np
import pytest
from augmenting import STILL_TANG, draw, happens, inverse_map, noise, origins, ramps

from covidcxr import augment
from covidcxr.augment import Tang2020, tang2020


def test_tang_with_everything_off_resizes_alone():
    np.testing.assert_allclose(draw(noise(40, 40), STILL_TANG), noise(40, 40), atol=1e-6)
    image, masks = augment.draw(tang2020(20, STILL_TANG), noise(40, 60), noise(2, 40, 60) < 0.3, 0)
    np.testing.assert_allclose(image, noise(40, 60).reshape(20, 2, 20, 3).mean((1, 3)), atol=1e-5)
    assert masks.shape == (2, 20, 20)
    image, masks = augment.draw(tang2020(80, STILL_TANG), noise(40, 40), noise(2, 40, 40) < 0.3, 0)
    np.testing.assert_array_equal(masks, (noise(2, 40, 40) < 0.3).repeat(2, axis=1).repeat(2, axis=2))
    assert image.shape == (80, 80)


@pytest.mark.parametrize("name", [field.name for field in fields(Tang2020) if field.name.endswith("_probability")])
def test_each_item_of_tang_happens_as_often_as_in_the_example(name):
    example = {
        "flip": 0.5, "affine": 1, "noise": 0.2, "perspective": 0.5, "light": 0.9, "sharpness": 0.9, "colour": 0.9,
    }
    probability = example[name.removesuffix("_probability")]
    assert getattr(Tang2020(), name) == probability
    image, values = noise(16, 16), replace(STILL_TANG, **{name: probability})
    changed = sum(not np.allclose(draw(image, values, seed), image, atol=1e-4) for seed in range(300))
    if probability == 1:
        assert changed == 300
    else:
        happens(changed, probability, 300)


def test_tang_flips_exactly():
    masks = noise(3, 40, 40) < 0.3
    image, moved = augment.draw(tang2020(40, replace(STILL_TANG, flip_probability=1)), noise(40, 40), masks, 0)
    np.testing.assert_allclose(image, noise(40, 40)[:, ::-1], atol=1e-6)
    np.testing.assert_array_equal(moved, masks[:, :, ::-1])


def test_tang_scales_both_axes_alike_and_shifts_each_on_its_own():
    scales, shifts = [], []
    for seed in range(60):
        linear, middle = inverse_map(replace(STILL_TANG, affine_probability=1), seed, 100, 100)
        assert abs(linear[0, 1]) < 0.002 and abs(linear[1, 0]) < 0.002 and abs(linear[0, 0] - linear[1, 1]) < 0.003
        scales.append(1 / linear[0, 0])
        shifts.append(-middle / linear[0, 0] / 100)
    shifts = np.array(shifts)
    assert 0.5 - 0.01 < min(scales) < 0.6 and 1.4 < max(scales) < 1.5 + 0.01
    assert np.abs(shifts).max() < 0.11 and (shifts.min(0) < -0.07).all() and (shifts.max(0) > 0.07).all()
    assert abs(np.corrcoef(shifts.T)[0, 1]) < 0.5


def test_tang_crops_a_window_of_the_enlarged_image():
    corners = []
    for seed in range(60):
        to, source = origins(draw(ramps(80, 80), replace(STILL_TANG, enlarged=1.25), seed))  # 80 of 100 pixels
        corner = (source + 0.5) * 1.25 - 0.5 - to
        assert np.abs(corner - corner.mean(0)).max() < 0.05
        corners.append(corner.mean(0))
    corners = np.array(corners)
    assert np.abs(corners - corners.round()).max() < 0.05 and corners.min() > -0.1 and corners.max() < 20.1
    assert (corners.min(0) < 3).all() and (corners.max(0) > 17).all() and abs(np.corrcoef(corners.T)[0, 1]) < 0.5


def test_tang_adds_noise_of_the_deviations_of_its_range_to_all_channels_alike():
    deviations = []
    for seed in range(100):
        added = draw(np.full((50, 50, 3), 0.5, "float32"), replace(STILL_TANG, noise_probability=1), seed) - 0.5
        np.testing.assert_allclose(added[..., 1:], added[..., :1].repeat(2, axis=2), atol=1e-6)
        assert abs(added.mean()) < 5 * 0.05 / 50
        deviations.append(added[..., 0].std())
    assert 0.0095 < min(deviations) < 0.013 and 0.047 < max(deviations) < 0.0525


def test_tang_moves_the_corners_in_perspective():
    strength = []
    for seed in range(40):
        to, source = origins(draw(ramps(90, 90), replace(STILL_TANG, perspective_probability=1), seed))
        (x, y), (u, v), one = to.T / 90, source.T / 90, np.ones(len(to))
        zero = 0 * one  # u = (a x + b y + c) / (g x + h y + 1), v likewise
        rows = np.block([
            [np.stack([x, y, one, zero, zero, zero, -u * x, -u * y], 1)],
            [np.stack([zero, zero, zero, x, y, one, -v * x, -v * y], 1)],
        ])
        solution, *_ = np.linalg.lstsq(rows, np.concatenate([u, v]))
        assert np.abs(rows @ solution - np.concatenate([u, v])).max() < 0.3 / 90
        strength.append(np.abs(solution[6:]).max())
    assert min(strength) < 0.05 < 0.15 < max(strength)


def test_tang_changes_light_in_one_of_three_ways():
    image, kinds = 0.25 + 0.5 * noise(32, 32), []
    for seed in range(150):
        changed = draw(image, replace(STILL_TANG, light_probability=1), seed)
        powers = np.log(changed) / np.log(image)
        if np.ptp(changed - image) < 1e-5:
            kinds.append("brightness")
            assert abs((changed - image).mean()) < 0.2 + 1e-5
        elif np.ptp(powers) < 1e-3:
            kinds.append("gamma")
            assert 0.8 - 1e-3 < powers.mean() < 1.2 + 1e-3
        else:
            kinds.append("equalisation")
            assert np.ptp(changed) > np.ptp(image) or changed.std() > image.std()
    for kind in ("brightness", "gamma", "equalisation"):
        happens(kinds.count(kind), 1 / 3, 150)


def test_tang_changes_sharpness_in_one_of_three_ways():
    image, kinds = np.full((9, 9), 0.5, "float32"), []
    image[4, 4] = 0.6
    for seed in range(150):
        changed = draw(image, replace(STILL_TANG, sharpness_probability=1), seed)
        weights = (changed - changed[0, 0]) / 0.1  # of each pixel's neighbours
        assert np.abs(weights[3:6, 3:6].sum() - weights.sum()) < 1e-4
        if weights.min() < -0.1:
            kinds.append("sharpening")
            share = -weights[3, 3]
            np.testing.assert_allclose(np.delete(weights[3:6, 3:6].ravel(), 4), -share, atol=1e-4)
            lightness = (weights[4, 4] - (1 - share)) / share - 8
            assert 0.2 - 1e-3 < share < 0.5 + 1e-3 and 0.5 - 1e-2 < lightness < 1 + 1e-2
        elif np.ptp(weights[3:6, 3:6]) < 1e-4:
            kinds.append("blur")
            np.testing.assert_allclose(weights[3:6, 3:6], 1 / 9, atol=1e-4)
        else:
            kinds.append("motion")
            assert (weights > -1e-4).all() and abs(weights.sum() - 1) < 1e-3
    for kind in ("sharpening", "blur", "motion"):
        happens(kinds.count(kind), 1 / 3, 150)


@pytest.mark.parametrize("channels", [(), (1,), (3,)])
def test_tang_changes_contrast_or_colour(channels):
    image, contrasts, values = 0.3 + 0.4 * noise(16, 16), [], []
    if channels:
        image = image[..., None].repeat(channels[0], axis=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for seed in range(150):
            changed = draw(image, replace(STILL_TANG, colour_probability=1), seed)
            assert changed.shape == image.shape
            if np.ptp(changed / image) < 1e-5:
                contrasts.append(float((changed / image).mean() - 1))
            elif channels == (3,):
                values.append(float((changed.max(-1) - image.max(-1)).mean()))
                assert np.ptp(changed.max(-1) - image.max(-1)) < 2.1 / 255
            else:
                values.append(float((changed - image).mean()))
                assert np.ptp(changed - image) < 2.1 / 255  # 8 bits
    happens(len(contrasts), 0.5, 150)
    assert -0.2 - 1e-5 < min(contrasts) < -0.15 and 0.15 < max(contrasts) < 0.2 + 1e-5
    assert -20.6 / 255 < min(values) < -15 / 255 and 15 / 255 < max(values) < 20.6 / 255
