"""What the tests of the augmentation recipes share: recipes with every item off, images that tell where a pixel comes from."""

from functools import lru_cache

import numpy as np
from scipy.ndimage import binary_erosion

from covidcxr import augment
from covidcxr.augment import Ramesh2021, Tang2020, ramesh2021, tang2020

STILL = Ramesh2021(
    flip_probability=0, crop_probability=0, blur_probability=0, contrast_range=(1, 1), channel_probability=0, affine_probability=0
)
STILL_TANG = Tang2020(
    flip_probability=0, affine_probability=0, enlarged=1, noise_probability=0, perspective_probability=0, light_probability=0,
    sharpness_probability=0, colour_probability=0,
)


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
