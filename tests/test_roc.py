"""ROC statistics against published examples, brute force, peers' outputs and properties."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import average_precision_score, roc_auc_score

from covidcxr import metrics, roc
from covidcxr.errors import InputError

# Ratings 1 to 5 of 58 normal and 51 abnormal CT images: Hanley and McNeil 1982, Table I.
NORMAL, ABNORMAL = (33, 6, 6, 11, 2), (3, 2, 2, 11, 33)
RATINGS = np.concatenate([np.repeat(range(1, 6), NORMAL), np.repeat(range(1, 6), ABNORMAL)])
ABNORMAL_IMAGES = np.repeat([False, True], [58, 51])


@pytest.fixture(scope="module")
def cohort():
    """80 cases of 30 patients: truth, two related scores with ties, patients."""
    random = np.random.default_rng(0)
    truth = random.random(80) < 0.4
    first = np.round(truth + random.normal(size=80), 1)
    second = np.round(0.5 * truth + 0.6 * first + random.normal(size=80), 1)
    return truth, first, second, random.integers(0, 30, 80)


def pairs(truth, scores):
    """(positives, negatives): 1 where the positive scores higher, one half for a tie."""
    over, under = scores[truth][:, None], scores[~truth][None]
    return (over > under) + 0.5 * (over == under)


# ---- areas and their intervals ----------------------------------------------------------------------------------------------


def test_the_example_of_hanley_and_mcneil():
    """The area is 0.893 in the paper; Stata's manual ([R] roctab, DeLong) prints 0.8932, error 0.0307, 0.83295 to 0.95339."""
    found = roc.delong(ABNORMAL_IMAGES, RATINGS)
    assert found.value == pytest.approx(0.8932, abs=5e-5)
    assert found.interval == pytest.approx((0.83295, 0.95339), abs=5e-6)
    assert (found.high - found.low) / 2 / stats.norm.ppf(0.975) == pytest.approx(0.0307, abs=5e-5)
    assert roc.hanley_mcneil_error(0.893, 51, 58) == pytest.approx(0.032, abs=1e-3)
    assert str(found) == "AUC 0.893 [0.833, 0.953] (109 cases, 51 positive; DeLong)"


def test_the_error_that_the_claims_work_out_for_ten_deaths():
    """tang2020.problem.roc_unit: half the interval of an AUC of 0.80 with 10 of 104 events is 0.17."""
    assert 1.96 * roc.hanley_mcneil_error(0.8, 10, 94) == pytest.approx(0.17, abs=0.005)


CASES = st.lists(st.tuples(st.booleans(), st.integers(-3, 3)), min_size=2, max_size=40)


@given(CASES.filter(lambda cases: len({truth for truth, _ in cases}) == 2))
def test_the_area_is_the_share_of_pairs_in_order(cases):
    truth, scores = np.array([t for t, _ in cases]), np.array([s for _, s in cases], float)
    assert roc.auc(truth, scores) == pytest.approx(pairs(truth, scores).mean())
    assert roc.auc(truth, scores) == pytest.approx(roc_auc_score(truth, scores))
    assert roc.auc(truth, -scores) == pytest.approx(1 - roc.auc(truth, scores))
    curve = roc.curve(truth, scores)
    assert np.trapezoid(curve.true_positive_rate, curve.false_positive_rate) == pytest.approx(roc.auc(truth, scores))


def test_delong_is_the_variance_of_placements_over_all_pairs(cohort):
    truth, first, second, patients = cohort
    placed = [pairs(truth, scores) for scores in (first, second)]
    brute = np.cov([p.mean(axis=1) for p in placed]) / truth.sum() + np.cov([p.mean(axis=0) for p in placed]) / (~truth).sum()
    low, high = roc.delong(truth, first).interval
    assert (high - low) / 2 == pytest.approx(stats.norm.ppf(0.975) * np.sqrt(brute[0, 0]))
    difference = roc.compare(truth, first, second, range(80), seed=0)
    z = difference.value / np.sqrt(brute[0, 0] + brute[1, 1] - 2 * brute[0, 1])
    assert difference.p == pytest.approx(2 * stats.norm.sf(abs(z)))
    # what the packages confidenceinterval 1.0.5 (variance) and MLstatkit 0.1.91 (areas, p) give for the same cases
    assert brute[0, 0] == pytest.approx(0.002363262676642881)
    assert (difference.first, difference.second) == pytest.approx((0.8341013824884793, 0.784726793943384))
    assert difference.p == pytest.approx(0.4237335385682722)


def test_copies_of_a_patients_cases_tell_nothing_new(cohort):
    """Three copies of each case leave the clustered interval as it is and shrink the naive one by the root of three."""
    truth, scores, _, _ = cohort
    once = roc.delong(truth, scores)
    copies = roc.delong(np.tile(truth, 3), np.tile(scores, 3), np.tile(np.arange(80), 3))
    naive = roc.delong(np.tile(truth, 3), np.tile(scores, 3))
    assert roc.delong(truth, scores, range(80)).interval == pytest.approx(once.interval)
    assert copies.interval == pytest.approx(once.interval)
    assert naive.high - naive.low < 0.6 * (once.high - once.low)


def test_the_clustered_interval_agrees_with_the_bootstrap_over_patients():
    random = np.random.default_rng(3)
    patients = np.repeat(np.arange(200), 2)
    truth = random.random(400) < 0.5  # both classes within a patient, too
    scores = truth + random.normal(size=200)[patients] + random.normal(size=400)
    clustered, resampled = roc.delong(truth, scores, patients), roc.bootstrap_auc(truth, scores, patients, seed=0)
    assert clustered.interval == pytest.approx(resampled.interval, abs=0.006)


def test_delong_covers_the_true_area():
    """Scores N(1, 1) against N(0, 1) have the area Φ(1 / √2); 20 positives and 40 negatives, 500 times."""
    random, truth = np.random.default_rng(5), np.repeat([True, False], [20, 40])
    area, inside = stats.norm.cdf(np.sqrt(0.5)), {"linear": 0, "logit": 0}
    for _ in range(500):
        scores = truth + random.normal(size=60)
        for scale in inside:
            low, high = roc.delong(truth, scores, scale=scale).interval
            inside[scale] += low <= area <= high
    assert 0.91 * 500 <= inside["linear"] <= 0.98 * 500
    assert 0.93 * 500 <= inside["logit"] <= 0.985 * 500


def test_the_logit_scale_stays_inside():
    truth, scores = [0, 0, 0, 0, 1, 1, 1], [0, 1, 2, 4, 3, 5, 6]
    assert roc.delong(truth, scores).high == 1
    low, high = roc.delong(truth, scores, scale="logit").interval
    assert 0 < low < 11 / 12 < high < 1


def test_separated_classes_are_no_certainty():
    truth, scores, patients = [0] * 8 + [1] * 4, range(12), range(12)
    assert np.isnan(roc.delong(truth, scores).interval).all()
    assert "(no interval)" in str(roc.delong(truth, scores))
    found = roc.bootstrap_auc(truth, scores, patients, seed=0)
    assert found.interval == roc.newcombe_interval(1.0, 4, 8)
    assert found.method.startswith("Newcombe over 12 patients") and found.value == found.high == 1 and 0.5 < found.low < 0.8


@pytest.mark.parametrize("area", [0.0, 0.3, 0.5, 0.893, 1.0])
def test_newcombes_ends_are_as_far_away_as_their_own_error_allows(area):
    low, high = roc.newcombe_interval(area, 51, 58)
    mean = (51 + 58) / 2 - 1
    ends = {end for end in (low, high) if end not in (0.0, 1.0)}
    assert ends and low <= area <= high
    for end in ends:
        error = np.sqrt(end * (1 - end) * (1 + mean * (1 - end) / (2 - end) + mean * end / (1 + end)) / (51 * 58))
        assert abs(end - area) == pytest.approx(stats.norm.ppf(0.975) * error)
    assert roc.newcombe_interval(1 - area, 58, 51) == pytest.approx((1 - high, 1 - low))


def test_the_bootstrap_is_that_of_metrics(cohort):
    """All resamples at once give the interval that one resample after the other gives."""
    truth, scores, other, patients = cohort

    def area(rows, values=scores):
        return roc_auc_score(truth[rows], values[rows]) if 0 < truth[rows].sum() < rows.size else np.nan

    slow = metrics.cluster_bootstrap(area, patients, seed=4, resamples=300)
    found = roc.bootstrap_auc(truth, scores, patients, seed=4, resamples=300)
    assert found.interval == pytest.approx(slow)
    assert found.method == f"bootstrap over {len(set(patients))} patients"
    slow = metrics.cluster_bootstrap(lambda rows: area(rows) - area(rows, other), patients, seed=4, resamples=300)
    difference = roc.compare(truth, scores, other, patients, seed=4, resamples=300)
    assert (difference.low, difference.high) == pytest.approx(slow)


def test_resamples_with_one_class_are_left_out():
    """With one positive patient of three many resamples lack it; the others still have an area."""
    found = roc.bootstrap_auc([1, 1, 0, 0, 0], [3, 1, 2, 0, 4], ["a", "a", "b", "b", "c"], seed=0)
    assert 0 <= found.low < found.high <= 1


def test_a_score_differs_from_itself_by_nothing(cohort):
    truth, scores, _, patients = cohort
    same = roc.compare(truth, scores, scores, patients, seed=0)
    assert (same.value, same.low, same.high) == (0, 0, 0) and np.isnan(same.p)


def test_few_patients_are_not_tested():
    """Two ill patients whose images differ alike have next to no variance, which is no proof."""
    truth, first = [1, 1, 1, 1, 0, 0, 0, 0, 0, 0], [9, 8, 9, 7, 1, 2, 3, 4, 5, 6]
    second, patients = [-score for score in first], [*"aabbcdefgh"]
    few = roc.compare(truth, first, second, patients, seed=0)
    assert few.value == 1 and np.isnan(few.p) and "p = nan" in str(few)
    more = [*"abmncdefgh"]
    noisy = [9, 1, 9, 5, 1, 2, 8, 4, 5, 6]
    assert np.isnan(roc.compare(truth, noisy, second, more, seed=0).p)
    assert 0 < roc.compare([*truth, 1], [*noisy, 7], [*second, 3], [*more, "o"], seed=0).p < 1


# ---- precision and recall ---------------------------------------------------------------------------------------------------


def test_average_precision_is_scikit_learns(cohort):
    truth, scores, _, patients = cohort
    found = roc.precision_recall(truth, scores)
    assert found.average_precision == pytest.approx(average_precision_score(truth, scores))
    assert found.prevalence == pytest.approx(truth.mean())
    assert found.recall[-1] == 1 and found.precision[-1] == pytest.approx(truth.mean())

    def precision(rows):
        return average_precision_score(truth[rows], scores[rows]) if truth[rows].any() else np.nan

    slow = metrics.cluster_bootstrap(precision, patients, seed=1, resamples=200)
    assert roc.bootstrap_average_precision(truth, scores, patients, seed=1, resamples=200).interval == pytest.approx(slow)


def test_a_weight_stands_for_as_many_cases(cohort):
    truth, scores, _, patients = cohort
    weights = np.random.default_rng(1).integers(1, 5, 80)
    many = [np.repeat(values, weights) for values in (truth, scores, patients)]
    expected = roc.bootstrap_average_precision(*many, seed=2, resamples=100)
    assert roc.bootstrap_average_precision(truth, scores, patients, weights=weights, seed=2, resamples=100) == expected
    assert roc.precision_recall(truth, scores, weights).prevalence == pytest.approx(many[0].mean())


# ---- operating points -------------------------------------------------------------------------------------------------------


def test_a_threshold_does_what_it_says(cohort):
    truth, scores, _, patients = cohort
    found = roc.at_threshold(truth, scores, 0.5, patients, seed=0)
    called = scores >= 0.5
    counts = (found.true_positives, found.false_positives, found.true_negatives, found.false_negatives)
    assert counts == ((truth & called).sum(), (~truth & called).sum(), (~truth & ~called).sum(), (truth & ~called).sum())
    expected = {"sensitivity": called[truth].mean(), "specificity": (~called[~truth]).mean(), "PPV": truth[called].mean(),
                "NPV": (~truth[~called]).mean()}
    for name, (value, low, high) in found.shares().items():
        assert value == pytest.approx(expected[name]) and low < value < high
    slow = metrics.cluster_bootstrap(lambda rows: called[rows][truth[rows]].mean(), patients, seed=0)
    assert found.sensitivity[1:] == pytest.approx(slow)
    again = roc.predictive_values(found.sensitivity[0], found.specificity[0], truth.mean())
    assert again == pytest.approx((found.ppv[0], found.npv[0]))
    assert str(found).startswith("fixed: score >= 0.5: sensitivity 0.")


def test_youden_is_the_best_threshold_and_is_sought_anew_in_each_resample(cohort):
    truth, scores, _, patients = cohort

    def best(rows):
        t, s = truth[rows], scores[rows]
        if t.all() or not t.any():
            return np.nan, np.nan
        candidates = [np.inf, *np.unique(s)[::-1]]
        sums = [(s[t] >= c).mean() + (s[~t] < c).mean() for c in candidates]
        threshold = candidates[int(np.argmax(np.round(sums, 12)))]
        return threshold, (s[t] >= threshold).mean()

    found = roc.youden(truth, scores, patients, seed=3)
    assert (found.threshold, found.sensitivity[0]) == pytest.approx(best(np.arange(80)))
    slow = metrics.cluster_bootstrap(lambda rows: best(rows)[1], patients, seed=3)
    assert found.sensitivity[1:] == pytest.approx(slow, abs=0.02)  # ties of the sum are rounded apart


@pytest.mark.parametrize("wanted", [0.0, 0.6, 0.9, 1.0])
def test_sensitivity_at_a_specificity(cohort, wanted):
    truth, scores, _, patients = cohort
    found = roc.at_specificity(truth, scores, wanted, patients, seed=0)
    allowed = [c for c in [np.inf, *np.unique(scores)] if (scores[~truth] < c).mean() >= wanted]
    assert found.threshold == min(allowed)
    assert found.specificity[0] >= wanted and found.rule == f"specificity {wanted:g}"


def test_where_nothing_is_called_positive_there_is_no_ppv(cohort):
    truth, scores, _, patients = cohort
    found = roc.at_threshold(truth, scores, 99.0, patients, seed=0)
    assert np.isnan(found.ppv).all() and found.npv[0] == pytest.approx((~truth).mean())
    number = len(set(patients[truth]))
    assert found.sensitivity == (0.0, *metrics.wilson_interval(0, number)), "Wilson over patients: the bootstrap has no spread"


def test_predictive_values_follow_the_prevalence():
    assert roc.predictive_values(0.9, 0.9, 0.5) == pytest.approx((0.9, 0.9))
    assert roc.predictive_values(0.9, 0.9, 0.01)[0] == pytest.approx(0.009 / (0.009 + 0.099))
    assert np.isnan(roc.predictive_values(0.0, 1.0, 0.2)[0])


# ---- calibration ------------------------------------------------------------------------------------------------------------


def test_calibration_finds_what_was_done_to_the_odds():
    random = np.random.default_rng(0)
    odds = random.normal(-0.5, 1.5, 40_000)
    truth = random.random(odds.size) < 1 / (1 + np.exp(-odds))
    right = roc.calibration(truth, 1 / (1 + np.exp(-odds)))
    assert (right.intercept, right.slope) == pytest.approx((0, 1), abs=0.04)
    assert right.brier < right.brier_of_prevalence == pytest.approx(truth.mean() * (1 - truth.mean()))
    extreme = roc.calibration(truth, 1 / (1 + np.exp(-2 * odds)))
    assert extreme.slope == pytest.approx(right.slope / 2, abs=1e-3)
    high = roc.calibration(truth, 1 / (1 + np.exp(-(odds + 1))))
    assert high.intercept == pytest.approx(right.intercept - 1, abs=1e-6)
    assert high.slope == pytest.approx(right.slope, abs=1e-3)


def test_calibration_of_a_separated_or_constant_prediction_has_no_slope():
    assert np.isnan(roc.calibration([0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9]).slope)
    constant = roc.calibration([0, 0, 0, 1], [0.25] * 4)
    assert np.isnan(constant.slope) and constant.intercept == pytest.approx(0)
    assert constant.brier == pytest.approx(constant.brier_of_prevalence)


def test_reliability_has_every_case_in_one_bin(cohort):
    truth, scores, _, _ = cohort
    risk = 1 / (1 + np.exp(-scores))
    table = roc.reliability(truth, risk, bins=4)
    assert table.cases.sum() == 80 and table.predicted.is_monotonic_increasing
    assert np.average(table.observed, weights=table.cases) == pytest.approx(truth.mean())
    assert ((table.low <= table.observed) & (table.observed <= table.high)).all()
    assert len(roc.reliability(truth, np.full(80, 0.3))) == 1


def test_the_risk_of_a_patient_comes_from_other_patients():
    """One model speaks of all images of a patient, and a score that has nothing to do with the outcome earns nothing."""
    patients = np.repeat(np.arange(40), 2)
    scores = np.random.default_rng(0).normal(size=40)[patients]
    truth = scores + np.random.default_rng(1).normal(size=40)[patients] > 0
    risk = roc.cross_validated_risk(truth, scores, patients, folds=5, seed=0)
    assert ((0 < risk) & (risk < 1)).all()
    assert np.array_equal(risk[::2], risk[1::2])
    noise = np.random.default_rng(2).permutation(40)[patients].astype(float)
    unrelated = roc.cross_validated_risk(truth, noise, patients, folds=5, seed=0)
    assert roc.auc(truth, unrelated) < 0.6 < roc.auc(truth, risk)


# ---- bad input --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("truth", "scores", "message"), [
    ([0, 1, 1], [0.1, 0.2], r"one length, got shapes \(3,\) and \(2,\)"),
    ([0, 1, 1], [0.1, np.nan, 0.2], "1 of 3 scores are not finite"),
    ([0, 1, None], [0.1, 0.3, 0.2], "outcome of 1 of 3 cases is missing"),
    (pd.array([True, pd.NA, False], dtype="boolean"), [0.1, 0.3, 0.2], "outcome of 1 of 3 cases is missing"),
    ([0.0, 1.0, np.nan], [0.1, 0.3, 0.2], "outcome of 1 of 3 cases is missing"),
    ([0, 1, 2], [0.1, 0.3, 0.2], "true or false .* got 2"),
    ([0, 0, 0], [0.1, 0.3, 0.2], "both classes; all 3 cases are negative"),
    ([True, True], [0.1, 0.3], "both classes; all 2 cases are positive"),
    ([], [], "both classes; all 0 cases"),
])
def test_what_is_no_roc_is_said(truth, scores, message):
    for function in (roc.auc, roc.curve, roc.delong, roc.precision_recall):
        with pytest.raises(InputError, match=message):
            function(truth, scores)


def test_outcomes_of_a_table_are_taken_as_they_are():
    """The nullable booleans of a data set's table, complete ones, are outcomes like any other."""
    assert roc.auc(pd.array([False, True, True], dtype="boolean"), pd.Series([1.0, 2.0, 3.0], index=[7, 8, 9])) == 1


@pytest.mark.parametrize(("patients", "message"), [
    (["a", None, "b"], "patient of 1 of 3 cases is missing"),
    (["a", "b"], "3 cases, but 2 patients' names"),
    (["a", "a", "a"], "at least two of them, got 1"),
])
def test_patients_must_be_known(patients, message):
    with pytest.raises(InputError, match=message):
        roc.bootstrap_auc([0, 1, 1], [0.1, 0.3, 0.2], patients, seed=0)


@pytest.mark.parametrize(("call", "message"), [
    (lambda: roc.cross_validated_risk([0, 0, 0, 1], [1, 2, 3, 4], range(4), folds=2, seed=0), "the rarer class has 1"),
    (lambda: roc.cross_validated_risk([0, 0, 1, 1], [1, 2, 3, 4], range(4), folds=3, seed=0), "3 folds need .* class has 2"),
    (lambda: roc.calibration([0, 1], [0.0, 0.5]), r"inside \(0, 1\), got 0 to 0.5"),
    (lambda: roc.at_specificity([0, 1], [1, 2], 90, range(2), seed=0), "specificity lies in"),
    (lambda: roc.predictive_values(1.2, 0.5, 0.5), r"Shares lie in \[0, 1\]"),
    (lambda: roc.newcombe_interval(0.7, 0, 5), "cases of both classes"),
])
def test_impossible_wishes_are_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()
