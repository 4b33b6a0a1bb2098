"""Slices before they are cut, and grey values made alike: a window that is undone, a lesion that stays."""

import numpy as np
import pytest

from covidcxr import datasets, slice_labels, slice_sources
from covidcxr.errors import InputError, ParameterError
from covidcxr.phantom.write_cc_ccii import write_set
from covidcxr.slice_labels import LabelledSlices
from covidcxr.slice_sources import Harmony
from covidcxr.squares import Greys

SIZE = 32


@pytest.fixture(scope="module")
def ct(phantom_smoke):
    return datasets.open("covid19_ct_seg", "phantom:smoke")


@pytest.fixture(scope="module")
def slices(ct):
    return slice_labels.of_volumes(ct, ct.cases().case, SIZE, step=3)[0]


def test_whole_slices_are_those_that_were_cut(ct, slices):
    """Within the lungs they are the same but at the border, where a cut pixel is the mean of its lung alone."""
    pictures = slice_sources.whole(ct, slices.names, SIZE)
    assert pictures.bytes.shape == slices.images.bytes.shape
    inner = slices.images.bytes > 0
    inner &= np.roll(inner, 1, 1) & np.roll(inner, -1, 1) & np.roll(inner, 1, 2) & np.roll(inner, -1, 2)
    assert inner.sum() > 1000
    assert (np.abs(pictures.bytes[inner].astype(int) - slices.images.bytes[inner]) <= 1).mean() > 0.95
    assert (pictures.bytes[slices.images.bytes == 0] > 0).mean() > 0.2, "outside of the lungs there is a body"


def test_whole_pictures_are_those_of_their_files(tmp_path):
    write_set(tmp_path / "cc_ccii", seed=3, patients=(1, 0, 0), segmented=0, spacing_mm=(6.0, 24.0), tips=20)
    dataset = datasets.open("cc_ccii", tmp_path)
    names = dataset.cases().case[:2].tolist()
    stored = dataset.image(names[1])
    pictures = slice_sources.whole(dataset, names, stored.shape[0])
    assert len(pictures) == 2
    if stored.shape[0] == stored.shape[1]:
        np.testing.assert_allclose(pictures[1], stored, atol=1e-6)
    with pytest.raises(InputError, match="no case"):
        slice_sources.whole(dataset, ["nobody"], SIZE)


def test_slices_that_are_not_there_are_refused(ct):
    case = ct.cases().case[0]
    with pytest.raises(InputError, match="has slices 0 to"):
        slice_sources.whole(ct, [f"{case}/999"], SIZE)
    with pytest.raises(InputError, match="no slice is named"):
        slice_sources.whole(ct, [], SIZE)


def at_other_levels(slices: LabelledSlices) -> LabelledSlices:
    """Every patient in a window of its own level, in which nothing is cut off."""
    made = slices.images.bytes.copy()
    for number, name in enumerate(sorted(set(slices.patients))):
        chosen = np.array([patient == name for patient in slices.patients])
        made[chosen] = np.where(made[chosen] > 0, made[chosen].clip(20, 200) + 25 * number - 15, 0)
    return LabelledSlices(slices.names, slices.patients, slices.sources, slices.has_lesion, Greys(made))


def test_the_level_of_a_window_is_undone(slices):
    harmony, other = Harmony.of(slices), at_other_levels(slices)
    first, second = (harmony(one).images.bytes.astype(int) for one in (slices, other))
    assert np.array_equal(first == 0, slices.images.bytes == 0) and np.array_equal(second == 0, first == 0)
    kept = (slices.images.bytes > 20) & (slices.images.bytes < 200) & (first < 255) & (first > 1)
    assert np.abs(other.images.bytes.astype(int) - slices.images.bytes)[kept].max() >= 25
    assert np.abs(first - second)[kept].max() <= 1
    assert [slice_sources._level(first[chosen]) for chosen in slice_sources._patients(slices)] == pytest.approx(
        [harmony.level] * len(set(slices.patients)), abs=1 / 255
    )


def test_a_lesion_stays_as_much_brighter_and_where_it_is():
    rng = np.random.default_rng(0)
    greys = rng.integers(50, 70, (4, 16, 16)).astype(np.uint8)
    greys[2:] += 40  # another window
    greys[1::2, 2:12, 2:12] += 60  # the lesion, a good third of the slice
    slices = LabelledSlices(list("abcd"), list("1122"), ["here"] * 4, np.array([False, True] * 2), Greys(greys))
    harmony = Harmony.of(slices)
    made = harmony(slices)
    for first, last in ((0, 2), (2, 4)):
        shift = made.images.bytes[first:last].astype(int) - greys[first:last]
        assert np.ptp(shift) == 0, "a patient's slices are shifted as one"
    assert made.has_lesion is slices.has_lesion and made.names is slices.names
    assert abs(made.images.bytes[:2].mean() - made.images.bytes[2:].mean()) < 2 < 30 < abs(greys[:2].mean() - greys[2:].mean())


def test_patients_of_one_name_in_two_sources_are_two():
    greys = np.concatenate([np.full((1, 4, 4), 50, np.uint8), np.full((1, 4, 4), 150, np.uint8)])
    greys[:, 0] += 20
    slices = LabelledSlices(["a", "b"], ["1", "1"], ["here", "there"], np.array([False, True]), Greys(greys))
    made = Harmony(0.3)(slices).images.bytes
    np.testing.assert_array_equal(made[0], made[1])


def test_a_level_out_of_range_is_refused():
    with pytest.raises(ParameterError, match="between 0 and 1"):
        Harmony(1.0)
