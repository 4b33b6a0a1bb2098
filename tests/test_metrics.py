"""Scores and intervals against closed forms."""

import numpy as np
import pandas as pd
import pytest

from covidcxr import metrics
from covidcxr.errors import InputError


def mask(*rows: str) -> np.ndarray:
    return np.array([[character == "#" for character in row] for row in rows])


def test_overlap_of_known_masks():
    first, second = mask("##..", "##.."), mask(".##.", ".##.")
    assert metrics.iou(first, second, empty="skip") == 2 / 6
    assert metrics.dice(first, second, empty="skip") == 4 / 8


@pytest.mark.parametrize("score", [metrics.iou, metrics.dice])
def test_every_rule_for_empty_masks(score):
    nothing, something = mask("..", ".."), mask("#.", "..")
    assert np.isnan(score(nothing, nothing, empty="skip"))
    assert score(nothing, nothing, empty="one") == 1
    assert score(nothing, nothing, empty="zero") == 0
    for rule in ("skip", "one", "zero"):
        assert score(nothing, something, empty=rule) == score(something, nothing, empty=rule) == 0


def test_pixel_agreement_rewards_finding_nothing():
    """With a lesion on one pixel of 25, finding nothing agrees on a = 0.96 of the pixels and scores a / (2 - a)."""
    truth = np.zeros((5, 5), bool)
    truth[2, 2] = True
    assert metrics.pixel_agreement(np.zeros_like(truth), truth) == pytest.approx(0.96 / 1.04)
    assert metrics.pixel_agreement(truth, truth) == 1
    assert metrics.pixel_agreement(~truth, truth) == 0


def test_pixel_agreement_is_the_jaccard_index_of_pixel_value_pairs():
    random = np.random.default_rng(0)
    first, second = random.random((2, 8, 9)) < 0.4
    pairs = [{(index, value) for index, value in np.ndenumerate(image)} for image in (first, second)]
    assert metrics.pixel_agreement(first, second) == pytest.approx(len(pairs[0] & pairs[1]) / len(pairs[0] | pairs[1]))


@pytest.mark.parametrize("bad", [(np.zeros((2, 2)), np.zeros((2, 2), bool)), (np.zeros((2, 2), bool), np.zeros((2, 3), bool))])
def test_masks_of_another_kind_or_shape_are_refused(bad):
    with pytest.raises(InputError, match="Masks must"):
        metrics.iou(*bad, empty="one")


def test_t_interval_gives_back_a_printed_margin():
    """ramesh2021 prints 0.8056 ± 0.0266 for n = 40; 40 values with the SD that this implies must give that margin."""
    values = np.random.default_rng(0).normal(size=40)
    values = 0.8056 + (values - values.mean()) / values.std(ddof=1) * 0.0266 * np.sqrt(40) / 2.022691
    mean, low, high = metrics.t_interval(values)
    assert (mean, low, high) == pytest.approx((0.8056, 0.7790, 0.8322), abs=1e-6)


@pytest.mark.parametrize(("successes", "low", "high"), [(0, 0.0, 0.27753), (5, 0.23659, 0.76341), (10, 0.72247, 1.0)])
def test_wilson_interval_against_tabled_values(successes, low, high):
    assert metrics.wilson_interval(successes, 10) == pytest.approx((low, high), abs=1e-5)


def test_bootstrap_over_single_rows_agrees_with_the_normal_approximation():
    values = np.random.default_rng(1).normal(3, 2, size=400)
    mean, low, high = metrics.bootstrap_mean(values, range(400), seed=0)
    error = values.std() / 20
    assert mean == pytest.approx(values.mean())
    assert (low, high) == pytest.approx((mean - 1.96 * error, mean + 1.96 * error), abs=0.25 * error)


def test_bootstrap_resamples_patients_not_images():
    """Ten copies of each of 40 patients carry no more information than one: the interval must not shrink."""
    values = np.random.default_rng(2).normal(size=40)
    _, low, high = metrics.bootstrap_mean(values, range(40), seed=0)
    _, low_of_copies, high_of_copies = metrics.bootstrap_mean(np.repeat(values, 10), np.repeat(range(40), 10), seed=0)
    assert (low_of_copies, high_of_copies) == pytest.approx((low, high))
    _, naive_low, naive_high = metrics.bootstrap_mean(np.repeat(values, 10), range(400), seed=0)
    assert naive_high - naive_low < 0.5 * (high - low)


def test_bootstrap_is_seeded_and_leaves_out_nan():
    values = np.random.default_rng(5).normal(size=30)
    values[7] = np.nan
    first, again, other = (metrics.bootstrap_mean(values, range(30), seed=seed) for seed in (3, 3, 4))
    assert first == again != other
    assert first[0] == pytest.approx(np.nanmean(values))


def test_bootstrap_needs_two_clusters():
    with pytest.raises(InputError, match="at least two"):
        metrics.cluster_bootstrap(lambda rows: 0.0, ["one"] * 3, seed=0)
    mean, low, high = metrics.bootstrap_mean([1, 2, 3], ["one"] * 3, seed=0)
    assert mean == 2 and np.isnan(low) and np.isnan(high)


def test_both_readings_of_a_score_image_by_image():
    truth = np.zeros((4, 5), bool)
    truth[:2] = True  # 10 of 20 pixels
    half = truth.copy()
    half[1] = False  # 5 of them
    empty = np.zeros((4, 5), bool)
    scores = metrics.score_masks([half, half, empty], [truth, empty, empty], list("abc"), list("xxy"), "half")
    assert scores.iou[0] == 0.5 and scores.iou[1:].isna().all()
    assert scores.agreement.tolist() == [15 / 25, 15 / 25, 1.0]
    assert np.isnan(scores.false_alarm[0]) and scores.false_alarm[1:].tolist() == [1, 0]
    assert scores.lesion.tolist() == [True, False, False] and scores.share.tolist() == [0.25, 0.25, 0]
    assert scores.case.tolist() == list("abc") and scores.patient.tolist() == list("xxy") and set(scores.by) == {"half"}


def test_a_paired_difference_sees_what_an_unpaired_one_would_not():
    rng = np.random.default_rng(0)
    images = rng.normal(0, 10, 60)
    first, second = images + rng.normal(1, 0.5, 60), images
    first[3] = np.nan
    mean, low, high, p = metrics.paired_difference(first, second, np.arange(60) // 2, seed=0)
    assert low < mean < high and low > 0.8 and high < 1.2 and p < 1e-10
    assert mean == pytest.approx(np.nanmean(first - second))
    with pytest.raises(InputError, match="as many values as clusters"):
        metrics.paired_difference(first, second[:59], np.arange(60), seed=0)
    same = metrics.paired_difference(second, second, np.arange(60), seed=0)
    assert same[:3] == (0, 0, 0) and np.isnan(same[3])


def test_a_summary_counts_images_once_however_often_they_were_scored():
    rng = np.random.default_rng(0)
    truth = [rng.random((20, 20)) < share for share in (0.1, 0.3, 0.5, 0.0)]
    guesses = [[mask & (rng.random(mask.shape) < 0.8) for mask in truth] for _ in range(2)]
    names, patients = list("abcd"), list("ppqq")
    repeats = pd.concat([metrics.score_masks(guess, truth, names, patients, "model") for guess in guesses])
    nothing = metrics.score_masks([np.zeros_like(mask) for mask in truth], truth, names, patients, "nothing")
    summary = metrics.overlap_summary(pd.concat([repeats, nothing]), seed=0)
    assert summary.index.tolist() == ["model", "nothing"] and summary.images.tolist() == [4, 4]
    model = summary.loc["model"]
    assert model.iou == pytest.approx(repeats.iou.mean()) and model.iou_n == 3 and model.agreement_n == 4
    assert model.iou_low <= model.iou <= model.iou_high
    by_image = repeats.groupby("case").agreement.mean()
    assert model.agreement_margin == pytest.approx(by_image.mean() - metrics.t_interval(by_image)[1])
    assert summary.loc["nothing"].iou == 0 and model.false_alarms == 0 and model.without_lesion == 1
    healthy = metrics.overlap_summary(repeats[~repeats.lesion], seed=0).loc["model"]
    none = healthy[["iou", "iou_low", "iou_margin"]].astype(float)
    assert np.isnan(none).all() and healthy.iou_n == 0 and healthy.agreement > 0


# ---- readings of one set of probabilities ------------------------------------------------------------------------------


def sums(probabilities, truths, patients=None) -> pd.DataFrame:
    rows = [metrics.overlap_sums(p, t) for p, t in zip(probabilities, truths, strict=True)]
    return pd.DataFrame(rows).assign(patient=patients or [str(i) for i in range(len(rows))])


def readings(table, batch_size=2) -> dict[tuple[str, str], float]:
    found = metrics.overlap_readings(table, batch_size=batch_size, seed=0)
    return {(row.score, row.reading): row.value for row in found.itertuples()}


@pytest.fixture
def guesses():
    """Seven images, three of them empty, one of these predicted as empty."""
    random = np.random.default_rng(3)
    truths = random.random((7, 12, 10)) < 0.3
    truths[[1, 4, 5]] = False
    probabilities = np.clip(random.random((7, 12, 10)) * 0.6 + 0.3 * truths, 0, 1).astype(np.float32)
    probabilities[4] *= 0.01
    return probabilities, truths


@pytest.mark.parametrize("batch_size", [1, 2, 7])
def test_the_soft_reading_is_that_of_segmentation_models(guesses, segmentation_models, batch_size):
    probabilities, truths = guesses
    batches = [slice(start, start + batch_size) for start in range(0, 7, batch_size)]
    found = readings(sums(*guesses), batch_size)
    for name, theirs in (("IoU", segmentation_models.metrics.iou_score), ("F1", segmentation_models.metrics.f1_score)):
        values = [float(theirs(truths[b][..., None].astype("float32"), probabilities[b][..., None])) for b in batches]
        assert found[name, "soft"] == pytest.approx(np.mean(values), rel=1e-5)


def test_hard_readings_are_means_over_images_by_their_rule(guesses):
    probabilities, truths = guesses
    found = readings(sums(*guesses))
    masks = probabilities >= 0.5
    for name, score in (("IoU", metrics.iou), ("F1", metrics.dice)):
        for reading, rule in (("both empty = 1", "one"), ("skip empty", "skip")):
            values = [score(mask, truth, empty=rule) for mask, truth in zip(masks, truths, strict=True)]
            assert found[name, reading] == pytest.approx(np.nanmean(values))
        assert found[name, "pooled"] == pytest.approx(score(masks.reshape(7, -1), truths.reshape(7, -1), empty="skip"))
    table = metrics.overlap_readings(sums(*guesses), batch_size=2, seed=0).set_index(["score", "reading"])
    assert table.n["IoU", "soft"] == 4 and table.n["IoU", "both empty = 1"] == 7 and table.n["IoU", "skip empty"] == 6
    assert ((0 <= table.low) & (table.low <= table.value) & (table.value <= table.high) & (table.high <= 1)).all()
    alone = metrics.overlap_readings(sums(*guesses).iloc[:2], batch_size=2, seed=0).set_index(["score", "reading"])
    assert np.isnan(alone.low["IoU", "soft"])  # one batch


def test_2_4e_10_is_probability_left_on_images_without_opacity():
    """Nothing above one half anywhere: right by every hard rule, next to zero by the soft one, as 1e-5 over what is left."""
    truth = np.zeros((320, 320), bool)
    left = 1e-5 / 2.4e-10 / (2 * 320 * 320)
    assert left < 0.5
    found = readings(sums([np.full((320, 320), left)] * 4, [truth] * 4))
    assert found["IoU", "soft"] == pytest.approx(2.4e-10, rel=1e-6)
    assert found["IoU", "both empty = 1"] == 1 and np.isnan(found["IoU", "skip empty"]) and np.isnan(found["IoU", "pooled"])
    silent = readings(sums([np.zeros((320, 320))] * 4, [truth] * 4))
    assert silent["IoU", "soft"] == 1


def test_an_image_of_a_perfect_prediction_scores_one_by_every_reading():
    truth = np.zeros((3, 8, 8), bool)
    truth[:, 2:5, 2:5] = True
    assert set(readings(sums(truth.astype(np.float32), truth)).values()) == {1.0}


def test_a_share_of_all_or_none_keeps_an_interval_over_clusters():
    clusters = np.repeat(np.arange(10), 3)
    assert metrics.bootstrap_share(np.ones(30, bool), clusters, seed=0) == (1.0, *metrics.wilson_interval(10, 10))
    assert metrics.bootstrap_share(np.zeros(30, bool), clusters, seed=0) == (0.0, *metrics.wilson_interval(0, 10))
    right = np.arange(30) % 4 > 0
    assert metrics.bootstrap_share(right, clusters, seed=0) == metrics.bootstrap_mean(right, clusters, seed=0)
    one = metrics.bootstrap_share(right, np.zeros(30), seed=0)
    assert one[0] == right.mean() and np.isnan(one[1:]).all()


def test_the_difference_of_two_groups_is_that_of_their_means():
    rng = np.random.default_rng(5)
    clusters, group = np.repeat(np.arange(20), 2), np.repeat(np.arange(20) < 8, 2)
    values = np.where(group, 3.0, 1.0) + 0.1 * rng.normal(size=40)
    values[[0, 39]] = np.nan
    difference, low, high = metrics.group_difference(values, group, clusters, seed=1)
    assert difference == pytest.approx(np.nanmean(values[group]) - np.nanmean(values[~group]))
    assert low < difference < high and high - low < 0.2
    assert metrics.group_difference(values, ~group, clusters, seed=1) == pytest.approx((-difference, -high, -low))
    # Two groups of one cluster each: every resample that holds both gives the same.
    assert metrics.group_difference([1.0, 5.0], [True, False], ["a", "b"], seed=0) == (-4.0, -4.0, -4.0)
    alone = metrics.group_difference([1.0, 5.0], [True, False], ["a", "a"], seed=0)
    assert alone == pytest.approx((-4, np.nan, np.nan), nan_ok=True)
    with pytest.raises(InputError, match="0 of 38 finite values are in the group"):
        metrics.group_difference(values, np.zeros(40, bool), clusters, seed=1)
