"""Augmentation: all items of a recipe together, the papers, the library. Each item alone: test_augment_<paper>.py."""

import os
import random
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace

import numpy as np
import pytest
from augmenting import STILL, STILL_TANG, draw, happens, noise
from scipy.ndimage import binary_dilation

from covidcxr import augment, claims
from covidcxr.augment import Ramesh2021, Tang2020, ramesh2021, tang2020
from covidcxr.errors import InputError

NO_MASKS, NO_LABELS = np.zeros((0, 40, 60), bool), np.zeros(0, "int32")


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


# --- the paper, the library --------------------------------------------------------------------------------------------


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
