"""Probabilities of an outcome: made from a score, and whether they can be taken at their word."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from covidcxr import metrics
from covidcxr.errors import InputError
from covidcxr.roc.areas import auc
from covidcxr.roc.cases import Values, checked, named, patients_of

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Calibration:
    """Whether probabilities can be taken at their word.

    Attributes:
        intercept: to be added to all log odds so that as many events are expected as happened; 0 is right, below 0: too high.
        slope: of the log odds; 1 is right, below 1: too extreme. NaN where the probabilities separate the outcome.
        brier: mean squared error. brier_of_prevalence: of saying the observed share for everybody.
    """

    intercept: float
    slope: float
    brier: float
    brier_of_prevalence: float
    cases: int
    positives: int

    def __str__(self) -> str:
        return (
            f"intercept {self.intercept:+.2f}, slope {self.slope:.2f}, Brier {self.brier:.3f} (saying the share for everybody: "
            f"{self.brier_of_prevalence:.3f}; {self.cases} cases, {self.positives} positive)"
        )


def cross_validated_risk(truth: Values, scores: Values, patients: Values, *, folds: int, seed: int) -> np.ndarray:
    """Probability of the outcome for each case by a logistic model of the score that never saw the case's patient.

    scikit-learn's logistic regression of the standardised score with its ridge penalty (C = 1), which keeps a separated sample
    finite; folds are stratified by the outcome and grouped by patient.

    Returns:
        (N,) in (0, 1).

    Raises:
        InputError: a class has fewer patients than there are folds.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    positive, values = checked(truth, scores)
    groups = named(patients, values.size)
    fewest = min(patients_of(positive, groups))
    if not 2 <= folds <= fewest:
        raise InputError(f"{folds} folds need at least two, and as many patients of each class; the rarer class has {fewest}.")
    model = make_pipeline(StandardScaler(), LogisticRegression())
    split = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    return cross_val_predict(model, values[:, None], positive, groups=groups, cv=split, method="predict_proba")[:, 1]


def calibration(truth: Values, probabilities: Values) -> Calibration:
    """Calibration in the large, slope and Brier score of predicted probabilities, which must lie inside (0, 1)."""
    from scipy import optimize, special
    from sklearn.linear_model import LogisticRegression

    positive, risk = checked(truth, probabilities)
    if risk.min() <= 0 or risk.max() >= 1:
        raise InputError(f"Probabilities must lie inside (0, 1), got {risk.min():g} to {risk.max():g}.")
    odds, share = special.logit(risk), positive.mean()
    reach = np.abs(odds).max() + abs(special.logit(share)) + 1
    intercept = optimize.brentq(lambda shift: special.expit(odds + shift).mean() - share, -reach, reach)
    separated = auc(positive, risk) in (0.0, 1.0)
    fit = None if separated or np.ptp(odds) == 0 else LogisticRegression(C=np.inf, max_iter=1000).fit(odds[:, None], positive)
    slope = np.nan if fit is None else float(fit.coef_[0, 0])
    brier = float(np.mean((risk - positive) ** 2))
    return Calibration(float(intercept), slope, brier, float(share * (1 - share)), risk.size, int(positive.sum()))


def reliability(truth: Values, probabilities: Values, bins: int = 5) -> pd.DataFrame:
    """Predicted and observed shares in bins of equally many cases.

    Returns:
        One row per bin: `predicted` (mean probability), `observed` (share of positives), `low`, `high` (Wilson, over cases),
        `cases`. Equal probabilities share a bin, so that there may be fewer bins.
    """
    import pandas as pd

    positive, risk = checked(truth, probabilities)
    inner = np.quantile(risk, np.linspace(0, 1, bins + 1)[1:-1])
    number = np.searchsorted(inner, risk, side="right")
    rows = []
    for k in np.unique(number):
        inside = number == k
        low, high = metrics.wilson_interval(int(positive[inside].sum()), int(inside.sum()))
        rows.append({"predicted": risk[inside].mean(), "observed": positive[inside].mean(), "low": low, "high": high,
                     "cases": int(inside.sum())})
    return pd.DataFrame(rows)
