"""Augmentation: every item of a recipe alone against its closed form, then all of them together."""

import os
import random
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, fields, replace
from functools import lru_cache

import numpy as np
import pytest
from scipy.ndimage import binary_dilation, binary_erosion

from covidcxr import augment, claims
from covidcxr.augment import Ramesh2021, Tang2020, ramesh2021, tang2020
from covidcxr.errors import InputError

STILL = Ramesh2021(
    flip_probability=0, crop_probability=0, blur_probability=0, contrast_range=(1, 1), channel_probability=0, affine_probability=0
)
STILL_TANG = Tang2020(
    flip_probability=0, affine_probability=0, enlarged=1, noise_probability=0, perspective_probability=0, light_probability=0,
    sharpness_probability=0, colour_probability=0,
)
NO_MASKS, NO_LABELS = np.zeros((0, 40, 60), bool), np.zeros(0, "int32")


def draw(image, values, seed=0):
    """The image alone after a draw of a recipe with other values; that of tang2020 keeps the size of a square image."""
    return augment.draw(recipe_of(values, len(image)), image, np.zeros((0, *image.shape[:2]), bool), seed)[0]


@lru_cache
def recipe_of(values, size):
    return ramesh2021(values) if isinstance(values, Ramesh2021) else tang2020(size, values)


def noise(*shape, seed=0):
    return np.random.default_rng(seed).random(shape or (40, 60), dtype="float32")


def ramps(height=80, width=120):
    """An image of two channels that say where a pixel comes from: column / 256 and row / 256, both moved up to be never 0."""
    row, column = np.mgrid[:height, :width]
    return np.stack([column + 16, row + 16, 0 * row], axis=-1).astype("float32") / 256


def origins(image):
    """Of an image made of `ramps`: where its pixels are and where they come from, (n, 2) each, but for the border."""
    rows, columns = np.nonzero(binary_erosion((image[..., :2] > 0).all(-1), np.ones((5, 5))))
    return np.stack([columns, rows], axis=1), image[rows, columns, :2] * 256 - 16


def inverse_map(values, seed, height=80, width=120):
    """(2, 2) linear part and where the centre comes from, fitted to the moved ramps."""
    to, source = origins(draw(ramps(height, width), values, seed))
    centre = np.array([width - 1, height - 1]) / 2
    solution, *_ = np.linalg.lstsq(np.column_stack([to - centre, np.ones(len(to))]), source - centre, rcond=None)
    assert np.abs(np.column_stack([to - centre, np.ones(len(to))]) @ solution - (source - centre)).max() < 0.1
    return solution[:2].T, solution[2]


def happens(changed, probability, draws):
    """Within five standard deviations of what a probability says."""
    expected, deviation = draws * probability, np.sqrt(draws * probability * (1 - probability))
    assert abs(changed - expected) < 5 * deviation, f"{changed} of {draws}"


# --- each item alone --------------------------------------------------------------------------------------------------


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


# --- each item of tang2020 alone --------------------------------------------------------------------------------------


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
    assert changed == 300 if probability == 1 else abs(changed - 300 * probability) < 5 * np.sqrt(300 * probability)


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


# --- the whole recipe -------------------------------------------------------------------------------------------------


def discs(height, width, centres, radius):
    row, column = np.mgrid[:height, :width]
    return np.array([np.hypot(column - x, row - y) <= radius for x, y in centres])


MOVES = [  # what does not move pixels is off; how far edges may be apart: bilinear and nearest interpolation, two and three times
    (ramesh2021(replace(Ramesh2021(), blur_probability=0, channel_probability=0, contrast_range=(1, 1))), 1),
    (tang2020(128, replace(
        Tang2020(), scale_range=(0.7, 1.1), noise_probability=0, light_probability=0, sharpness_probability=0,
        colour_probability=0,
    )), 2),
]


@pytest.mark.parametrize(("recipe", "pixels"), MOVES, ids=["ramesh2021", "tang2020"])
def test_masks_follow_what_they_mark(recipe, pixels):
    masks = discs(96, 140, [(50, 40), (90, 60)], 14)
    for seed in range(30):
        for i in range(2):
            image, moved, labels = augment.apply(recipe, masks[i].astype("float32"), masks, np.array([1, 2]), seed)
            assert labels.tolist() == [1, 2]
            seen = image > 0.5
            for one, other in ((seen, moved[i]), (moved[i], seen)):
                assert not (one & ~binary_dilation(other, np.ones((3, 3)), pixels)).any()
            centres = [np.argwhere(mask).mean(0) for mask in (seen, moved[i])]
            assert np.abs(centres[0] - centres[1]).max() < 0.5 * pixels


def test_many_overlapping_masks_move_as_each_alone():
    masks, image = noise(19, 40, 60) < 0.3, noise()
    _, together, labels = augment.apply(ramesh2021(), image, masks, np.arange(19), 5)
    assert labels.tolist() == list(range(19)) and together.dtype == bool
    for mask, moved in zip(masks, together, strict=True):
        np.testing.assert_array_equal(augment.apply(ramesh2021(), image, mask[None], np.zeros(1), 5)[1][0], moved)


def test_results_are_float32_finite_and_within_0_and_1():
    plain = [np.full((40, 60), grey, "float32") for grey in (0, 1)]
    for image in (*plain, noise(), noise(33, 71), (noise() > 0.5).astype("float32")):
        for seed in range(30):
            changed = draw(image, Ramesh2021(), seed)
            assert changed.dtype == np.float32 and changed.shape == image.shape
            assert np.isfinite(changed).all() and changed.min() >= 0 and changed.max() <= 1


def test_what_comes_in_from_outside_is_empty():
    values = replace(STILL, affine_probability=1, scale_range=(0.8, 0.8), rotation_degrees=(0, 0), shear_degrees=(0, 0))
    image, (mask,), _ = augment.apply(ramesh2021(values), np.ones((50, 50), "float32"), np.ones((1, 50, 50), bool), np.ones(1), 0)
    outside = np.ones((50, 50), bool)
    outside[5:45, 5:45] = False
    assert not image[outside][image[outside] > 0.5].size and not mask[outside].any() and mask[6:44, 6:44].all()


@pytest.mark.parametrize("shape", [(30, 70), (48, 48, 1), (100, 60, 3)])
def test_tang_gives_its_size_whatever_comes(shape):
    recipe, image = tang2020(48), noise(*shape)
    masks = np.stack([image.reshape(*shape[:2], -1)[..., 0] < 0.5, np.zeros(shape[:2], bool)])
    for seed in range(20):
        changed, moved = augment.draw(recipe, image, masks, seed)
        assert changed.shape == (48, 48, *shape[2:]) and changed.dtype == np.float32
        assert np.isfinite(changed).all() and changed.min() >= 0 and changed.max() <= 1
        assert moved.shape == (2, 48, 48) and moved.dtype == bool and moved[0].any() and not moved[1].any()
        np.testing.assert_array_equal(changed, augment.draw(recipe, image, masks[:0], seed)[0])
    assert augment.draw(recipe, image, masks[:0], 0)[1].shape == (0, 48, 48)


def test_draw_keeps_every_mask():
    masks = np.zeros((3, 40, 60), bool)
    masks[1, 20, 30] = True
    _, moved = augment.draw(ramesh2021(), noise(), masks, 1)
    assert moved.shape == (3, 40, 60) and not moved[[0, 2]].any()


def test_an_image_without_instances():
    image, masks, labels = augment.apply(ramesh2021(), noise(), NO_MASKS, NO_LABELS, 4)
    assert masks.shape == (0, 40, 60) and masks.dtype == bool and labels.shape == (0,)
    one = augment.apply(ramesh2021(), noise(), np.ones((1, 40, 60), bool), np.ones(1), 4)[0]
    np.testing.assert_array_equal(image, one)


def test_an_instance_that_leaves_is_dropped_with_its_label():
    masks = np.zeros((3, 40, 60), bool)
    masks[0, :, :5], masks[1, 15:25, 20:40], masks[2, 20:22, 5:8] = True, True, True  # 6 of 60 columns are cut
    values = replace(STILL, crop_probability=1, crop_range=(10, 10))
    labels = np.array([7, 8, 9], "int32")
    _, moved, kept = augment.apply(ramesh2021(values), noise(), masks, labels, 0)
    assert kept.tolist() == [8, 9] and kept.dtype == np.int32
    rows, columns = np.nonzero(moved[0])  # centres of pixels between (15 - 4) / 0.8 and (25 - 4) / 0.8, (20 - 6) / 0.8 and ...
    assert (rows.min(), rows.max(), columns.min(), columns.max(), len(rows)) == (14, 25, 17, 41, 12 * 25)
    assert 4 <= moved[1].sum() <= 9
    assert augment.apply(ramesh2021(values), noise(), masks, labels, 0, smallest=10)[2].tolist() == [8]
    _, moved, kept = augment.apply(ramesh2021(values), noise(), masks, labels, 0, smallest=0)
    assert kept.tolist() == [7, 8, 9] and not moved[0].any()


def test_inputs_and_random_states_of_others_are_left_alone():
    image, masks, labels = noise(), noise(9, 40, 60) < 0.5, np.arange(9)
    before = [image.copy(), masks.copy(), labels.copy()]
    np.random.seed(1)
    random.seed(1)
    states = np.random.get_state()[1].tolist(), random.getstate()
    recipe = ramesh2021()
    first = augment.apply(recipe, image, masks, labels, 3)
    assert (np.random.get_state()[1].tolist(), random.getstate()) == states
    np.random.seed(2)
    random.seed(2)
    for old, new in zip(first, augment.apply(recipe, image, masks, labels, 3), strict=True):
        np.testing.assert_array_equal(old, new)
    for old, new in zip(before, (image, masks, labels), strict=True):
        np.testing.assert_array_equal(old, new)
    assert not np.array_equal(first[0], augment.apply(recipe, image, masks, labels, 4)[0])


@pytest.mark.parametrize("recipe", [ramesh2021(), tang2020(48)], ids=["ramesh2021", "tang2020"])
def test_threads_that_share_a_recipe_get_what_one_gets(recipe):
    masks = noise(2, 40, 60) < 0.5

    def one(seed):
        return augment.draw(recipe, noise(), masks, seed)

    alone = [one(seed) for seed in range(60)]
    with ThreadPoolExecutor(4) as pool:
        for expected, found in zip(alone, pool.map(one, range(60)), strict=True):
            np.testing.assert_array_equal(expected[0], found[0])
            np.testing.assert_array_equal(expected[1], found[1])


def test_items_are_drawn_apart():
    """albumentations' own `set_random_seed` gives each transform the same numbers: either both of these would happen, or none."""
    values = replace(STILL, flip_probability=0.5, channel_probability=0.5, channel_range=(0.8, 0.8))
    image = np.zeros((4, 4), "float32")
    image[:, 0] = 0.5
    outcomes = [(changed[0, 0] == 0, changed.max() < 0.45) for changed in (draw(image, values, seed) for seed in range(400))]
    for outcome in ((False, False), (False, True), (True, False), (True, True)):
        happens(outcomes.count(outcome), 0.25, 400)


def test_items_of_tang_are_drawn_apart():
    values = replace(STILL_TANG, flip_probability=0.5, colour_probability=0.5)
    image = 0.3 + 0.2 * noise(8, 8)
    image[:, :4] += 0.4
    outcomes = []
    for seed in range(400):
        changed = draw(image, values, seed)
        flipped = changed[:, :4].mean() < changed[:, 4:].mean()
        outcomes.append((flipped, not np.allclose(changed, image[:, ::-1] if flipped else image, atol=1e-6)))
    for outcome in ((False, False), (False, True), (True, False), (True, True)):
        happens(outcomes.count(outcome), 0.25, 400)


# --- the paper, the library -------------------------------------------------------------------------------------------


def test_values_are_those_of_the_paper():
    printed = {
        claim.id.removeprefix("ramesh2021.setting.augmentation."): claim.value
        for claim in claims.load().of_paper("ramesh2021")
        if claim.id.startswith("ramesh2021.setting.augmentation.")
    }
    ours = asdict(Ramesh2021())
    assert set(ours) - set(printed) == {"contrast_range"}  # not printed
    assert len(printed) == 11 and {name: ours[name] for name in printed} == printed
    size = next(claim.value for claim in claims.load().of_paper("tang2020") if claim.id == "tang2020.setting.image_size")
    assert augment.draw(tang2020(), noise(), NO_MASKS, 0)[0].shape == size


def test_the_library_takes_every_argument():
    """albumentations ignores what it does not know, with a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ramesh2021()
        tang2020()


def test_importing_asks_no_network():
    code = (
        "import urllib.request\n"
        "def refuse(*_, **__): raise SystemExit('the network was asked')\n"
        "urllib.request.OpenerDirector.open = refuse\n"
        "import covidcxr.augment\n"
    )
    environment = {key: value for key, value in os.environ.items() if key != "NO_ALBUMENTATIONS_UPDATE"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("changes", "message"), [
    ({"image": noise() * 255}, r"in \[0, 1\].*to 25\d"),
    ({"image": np.full((40, 60), np.nan, "float32")}, "nan"),
    ({"image": noise().astype(float)}, "float64"),
    ({"image": noise()[0]}, r"\(60,\)"),
    ({"masks": np.zeros((1, 40, 60), "uint8")}, "uint8"),
    ({"masks": np.zeros((1, 60, 40), bool)}, r"\(1, 60, 40\)"),
    ({"labels": np.ones(2)}, r"labels \(2,\)"),
])
def test_wrong_arrays_are_refused(changes, message):
    given = {"image": noise(), "masks": np.ones((1, 40, 60), bool), "labels": np.ones(1)} | changes
    with pytest.raises(InputError, match=message):
        augment.apply(ramesh2021(), **given, seed=0)
