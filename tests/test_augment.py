"""Augmentation: every item of a recipe alone against its closed form, then all of them together."""

import os
import random
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from functools import lru_cache

import numpy as np
import pytest
from scipy.ndimage import binary_dilation, binary_erosion

from covidcxr import augment, claims
from covidcxr.augment import Ramesh2021, ramesh2021
from covidcxr.errors import InputError

STILL = Ramesh2021(
    flip_probability=0, crop_probability=0, blur_probability=0, contrast_range=(1, 1), channel_probability=0, affine_probability=0
)
NO_MASKS, NO_LABELS = np.zeros((0, 40, 60), bool), np.zeros(0, "int32")


def draw(image, values, seed=0):
    """The image alone after a draw of ramesh2021 with other values."""
    masks = np.zeros((0, *image.shape[:2]), bool)
    return augment.apply(recipe_of(values), image, masks, NO_LABELS, seed)[0]


recipe_of = lru_cache(ramesh2021)


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


# --- the whole recipe -------------------------------------------------------------------------------------------------


def discs(height, width, centres, radius):
    row, column = np.mgrid[:height, :width]
    return np.array([np.hypot(column - x, row - y) <= radius for x, y in centres])


def test_masks_follow_what_they_mark():
    masks = discs(96, 140, [(50, 40), (90, 60)], 14)
    values = replace(Ramesh2021(), blur_probability=0, channel_probability=0, contrast_range=(1, 1))
    for seed in range(30):
        for i in range(2):
            image, moved, labels = augment.apply(ramesh2021(values), masks[i].astype("float32"), masks, np.array([1, 2]), seed)
            assert labels.tolist() == [1, 2]
            seen = image > 0.5
            for one, other in ((seen, moved[i]), (moved[i], seen)):  # edges are apart by no more than a pixel
                assert not (one & ~binary_dilation(other, np.ones((3, 3)))).any()
            centres = [np.argwhere(mask).mean(0) for mask in (seen, moved[i])]
            assert np.abs(centres[0] - centres[1]).max() < 0.5


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


def test_threads_that_share_a_recipe_get_what_one_gets():
    recipe, masks = ramesh2021(), noise(2, 40, 60) < 0.5

    def one(seed):
        return augment.apply(recipe, noise(), masks, np.ones(2), seed)[:2]

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


def test_the_library_takes_every_argument():
    """albumentations ignores what it does not know, with a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ramesh2021()


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
