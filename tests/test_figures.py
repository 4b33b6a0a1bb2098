"""The house style of plots: whose side is where, and what a reader who sees no colours can tell."""

from itertools import combinations

import matplotlib
import numpy as np
import pytest
from skimage.color import deltaE_ciede2000, rgb2lab

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from covidcxr import figures


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def sides(axis) -> dict[str, tuple[float, float]]:
    return {text.get_text(): text.get_position() for text in axis.texts}


@pytest.mark.parametrize(("asked", "low"), [(True, False), ("bottom", True)])
def test_the_patients_right_is_on_the_images_left(asked, low):
    _, axes = figures.show_grid([np.zeros((8, 6)), np.ones((6, 8))], ["one", "other"], sides=asked)
    for axis in axes:
        marks = sides(axis)
        assert set(marks) == {"R", "L"} and marks["R"][0] < 0.5 < marks["L"][0]
        assert all((y < 0.5) == low for _, y in marks.values())


def test_sides_can_be_left_out_or_be_front_and_back():
    _, (axis,) = figures.show_grid([np.zeros((8, 6))], ["a lateral view"], sides=False)
    assert not axis.texts
    figures.mark_sides(axis, ("A", "P"))
    assert sides(axis)["A"][0] < sides(axis)["P"][0]


def test_an_empty_mask_has_no_outline_but_an_entry_in_the_legend():
    _, axis = plt.subplots()
    figures.outline(axis, np.zeros((8, 8), bool), figures.COLOURS["orange"], label="nothing found")
    assert not axis.collections and axis.get_legend_handles_labels()[1] == ["nothing found"]
    figures.outline(axis, np.eye(8, dtype=bool), figures.COLOURS["orange"])
    assert axis.collections


SEEN_BY = {  # linear RGB as dichromats see it, Machado, Oliveira and Fernandes (2009), severity 1
    "no red cones": ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
    "no green cones": ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881)),
    "no blue cones": ((1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602), (0.004733, 0.691367, 0.303900)),
}


def least_difference(colours, matrix) -> float:
    """CIEDE2000 of the two most alike, as that eye sees them."""
    rgb = np.array([matplotlib.colors.to_rgb(colour) for colour in colours])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4) @ np.array(matrix).T
    seen = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear.clip(1e-9, 1) ** (1 / 2.4) - 0.055).clip(0, 1)
    lab = rgb2lab(seen[None])[0]
    return min(float(deltaE_ciede2000(one, other)) for one, other in combinations(lab, 2))


@pytest.mark.parametrize("matrix", SEEN_BY.values(), ids=SEEN_BY)
def test_colours_stay_apart_for_every_eye(matrix):
    assert set(figures.CYCLE) <= set(figures.COLOURS.values())
    assert least_difference(figures.COLOURS.values(), matrix) > 10


def test_the_measure_finds_colours_that_do_not():
    assert least_difference(("#808000", "#a05a00"), SEEN_BY["no green cones"]) < 10
