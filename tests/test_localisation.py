"""Heat maps against masks: areas of another program, Dice by hand, what the printed mapping does, what must be refused."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from covidcxr import localisation, metrics
from covidcxr.errors import InputError, ParameterError

PATIENTS = ["a", "a", "b", "c", "c", "d"]


def some(seed: int = 0, signal: float = 1.0, count: int = 6, size: int = 48) -> tuple[np.ndarray, np.ndarray]:
    """Maps of noise, higher by `signal` in a square; the last slice has none."""
    rng = np.random.default_rng(seed)
    lesions = np.zeros((count, size, size), bool)
    for mask in lesions[:-1]:
        row, column = rng.integers(0, size - 12, 2)
        mask[row : row + 12, column : column + 8] = True
    maps = rng.normal(size=lesions.shape).astype(np.float32) + np.float32(signal) * lesions
    return maps, lesions


@pytest.mark.parametrize("signal", [0.0, 0.5, 3.0])
def test_the_area_is_that_of_all_single_pixels(signal):
    maps, lesions = some(signal=signal)
    scored = localisation.count(maps, lesions)
    found = scored.average_precision(PATIENTS, seed=0)
    assert abs(found.value - average_precision_score(lesions.ravel(), maps.ravel())) < 1e-3
    assert found.low <= found.value <= found.high and found.cases == maps.size and found.positives == lesions.sum()
    assert scored.prevalence == scored.curve().prevalence == lesions.mean()


def test_values_that_many_pixels_share_are_ties():
    """A map that is 0 nearly everywhere, as clipped ones are: bins must not part what is equal, nor join what is not."""
    maps, lesions = some(signal=4.0)
    maps = maps.clip(2.5, None) - np.float32(2.5)
    assert (maps == 0).mean() > 0.9
    found = localisation.count(maps, lesions).average_precision(PATIENTS, seed=0).value
    assert abs(found - average_precision_score(lesions.ravel(), maps.ravel())) < 1e-3


def test_a_map_that_knows_nothing_has_the_prevalence_and_a_perfect_one_has_1():
    maps, lesions = some()
    assert localisation.count(np.zeros_like(maps), lesions).curve().average_precision == pytest.approx(lesions.mean())
    assert localisation.count(lesions.astype(np.float32), lesions).curve().average_precision == pytest.approx(1)


def test_only_pixels_within_count():
    maps, lesions = some()
    within = np.zeros_like(lesions)
    within[:, :, :24] = True
    found = localisation.count(maps, lesions, within).curve()
    expected = average_precision_score(lesions[within], maps[within])
    assert abs(found.average_precision - expected) < 1e-3 and found.prevalence == lesions[within].mean()


def test_the_interval_draws_patients_not_pixels():
    """Slices of one patient twice are no new patients; and one patient alone has no interval."""
    maps, lesions = some(signal=1.0, count=12)
    many = [str(i) for i in range(12)]
    few = [str(i // 6) for i in range(12)]
    wide, narrow = (localisation.count(maps, lesions).average_precision(patients, seed=0) for patients in (few, many))
    assert wide.value == narrow.value and "12 patients" in narrow.method and "2 patients" in wide.method
    alone = localisation.count(maps, lesions).average_precision(["x"] * 12, seed=0)
    assert alone.value == narrow.value and np.isnan(alone.low)


def test_the_printed_mapping_sends_no_lesion_to_one_half():
    nothing = np.zeros((1, 4, 4), np.float32)
    assert (localisation.mapped(nothing, "affine") == 0.5).all() and (localisation.mapped(nothing, "clip_pos") == 0).all()
    maps = np.array([-1.0, -0.25, 0.0, 0.5, 1.0]).reshape(1, 1, 5)
    np.testing.assert_allclose(localisation.mapped(maps, "affine").ravel(), [0, 0.375, 0.5, 0.75, 1])
    np.testing.assert_allclose(localisation.mapped(maps, "clip_pos").ravel(), [0, 0, 0, 0.5, 1])
    np.testing.assert_allclose(localisation.mapped(maps * 3 + 1, "minmax"), localisation.mapped(maps, "affine"))
    lesions = np.zeros((2, 8, 8), bool)
    lesions[0, 2:4, 2:4] = True
    heat = np.where(lesions, 0.6, 0.0)
    printed = localisation.dice_over_thresholds(localisation.mapped(heat, "affine"), lesions, ["a", "b"], [0.1, 0.4, 0.6], seed=0)
    assert printed.marked.tolist() == [1, 1, 4 / 64], "up to one half, everything is marked"
    assert printed.dice.iloc[0] == pytest.approx(2 * 4 / (64 + 4)) and printed.dice.iloc[2] == 1
    clipped = localisation.dice_over_thresholds(localisation.mapped(heat, "clip_pos"), lesions, ["a", "b"], [0.1, 0.4], seed=0)
    assert clipped.dice.tolist() == [1, 1]


def test_dice_over_thresholds_is_the_dice_of_each_mask():
    maps, lesions = some(signal=2.0)
    heat = localisation.mapped(maps, "minmax")
    levels = [0.7, 0.2, 0.5, 0.95]
    table = localisation.dice_over_thresholds(heat, lesions, PATIENTS, levels, seed=0)
    assert table.threshold.tolist() == levels and (table.slices == 5).all(), "the slice without lesion does not count"
    for level, row in zip(levels, table.itertuples(), strict=True):
        each = [metrics.dice(heat[i] >= level, lesions[i], empty="skip") for i in range(5)]
        assert row.dice == pytest.approx(np.mean(each)) and row.low <= row.dice <= row.high
        assert row.pooled == pytest.approx(metrics.dice(heat[:5] >= level, lesions[:5], empty="skip"))
        assert row.marked == pytest.approx((heat[:5] >= level).mean())
    mean, low, high = metrics.bootstrap_mean(
        [metrics.dice(heat[i] >= 0.5, lesions[i], empty="skip") for i in range(5)], PATIENTS[:5], seed=0
    )
    assert table.iloc[2][["dice", "low", "high"]].tolist() == pytest.approx([mean, low, high])


def test_false_alarms_are_counted_on_slices_without_lesion():
    lesions, lungs = np.zeros((4, 10, 10), bool), np.zeros((4, 10, 10), bool)
    lungs[:, :, :5] = True
    lesions[3, 0, 0] = True
    heat = np.zeros((4, 10, 10))
    heat[0, :, 0] = 0.5  # a fifth of the lungs
    heat[1, :, 9] = 0.9  # outside of them
    heat[3] = 1
    found = localisation.false_alarms(heat, lesions, lungs, ["a", "b", "c", "d"], 0.4, seed=0)
    assert found["slices"] == 3 and found["share"] == pytest.approx(0.2 / 3) and found["alarmed"] == pytest.approx(1 / 3)
    assert found["alarmed_low"] <= found["alarmed"] <= found["alarmed_high"]
    none = localisation.false_alarms(heat, lesions, lungs, ["a", "b", "c", "d"], 0.6, seed=0)
    assert none["alarmed"] == 0 < none["alarmed_high"]


MAPS, LESIONS = some()


@pytest.mark.parametrize(("act", "message"), [
    (lambda: localisation.count(MAPS[:2], LESIONS), "one mask"),
    (lambda: localisation.count(MAPS, LESIONS.astype(int)), "one mask"),
    (lambda: localisation.count(MAPS * np.nan, LESIONS), "not finite"),
    (lambda: localisation.count(MAPS, np.zeros_like(LESIONS)), "all are without"),
    (lambda: localisation.count(MAPS, ~np.zeros_like(LESIONS)), "all are with"),
    (lambda: localisation.count(MAPS, LESIONS, np.ones((1, 2, 2), bool)), "`within`"),
    (lambda: localisation.count(MAPS, LESIONS).average_precision(["a"], seed=0), "one patient"),
    (lambda: localisation.mapped(MAPS * 9, "affine"), r"values in \[-1, 1\]"),
    (lambda: localisation.mapped(MAPS * 0, "minmax"), "nothing to be stretched"),
    (lambda: localisation.dice_over_thresholds(MAPS, LESIONS & False, PATIENTS, [0.5], seed=0), "there is none"),
    (lambda: localisation.false_alarms(MAPS, ~np.zeros_like(LESIONS), LESIONS, PATIENTS, 0.5, seed=0), "there is none"),
    (lambda: localisation.false_alarms(MAPS, LESIONS, LESIONS, PATIENTS, 0.5, seed=0), "no lung"),
])
def test_what_cannot_be_scored_is_refused(act, message):
    with pytest.raises(InputError, match=message):
        act()


def test_an_unknown_mapping_is_refused():
    with pytest.raises(ParameterError, match="clip_pos, minmax, affine"):
        localisation.mapped(MAPS, "log")


def test_two_methods_are_compared_on_the_same_resamples():
    maps, lesions = some(signal=1.0)
    better, _ = some(signal=2.0)
    first, second = localisation.count(better, lesions), localisation.count(maps, lesions)
    found = localisation.compare(first, second, PATIENTS, seed=0)
    areas = [one.average_precision(PATIENTS, seed=0) for one in (first, second)]
    assert found.value == pytest.approx(areas[0].value - areas[1].value) and found.low <= found.value <= found.high
    assert found.low > 0, "in pairs the better one is told from the other …"
    back = localisation.compare(second, first, PATIENTS, seed=0)
    assert (back.low, back.high) == pytest.approx((-found.high, -found.low))
    same = localisation.compare(first, first, PATIENTS, seed=0)
    assert same.value == same.low == same.high == 0
    assert np.isnan(localisation.compare(first, second, ["a"] * 6, seed=0).low)
    with pytest.raises(InputError, match="same slices"):
        localisation.compare(first, localisation.count(maps, ~lesions), PATIENTS, seed=0)
