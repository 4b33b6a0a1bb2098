"""What the functions of `covidcxr.roc` are given: outcomes, scores and patients, looked through."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from covidcxr.errors import InputError

Values = Sequence[Any] | np.ndarray


def checked(truth: Values, scores: Values) -> tuple[np.ndarray, np.ndarray]:
    """Truth as bool and scores as float, (N,) each, of both classes."""
    import pandas as pd

    values = np.asarray(scores, dtype=float)
    missing = int(np.sum(pd.isna(truth)))
    if missing:
        raise InputError(f"The outcome of {missing} of {len(truth)} cases is missing. Leave them out, and say how many they are.")
    outcome = np.asarray(truth)
    if values.ndim != 1 or outcome.shape != values.shape:
        raise InputError(f"Outcomes and scores must be two lists of one length, got shapes {outcome.shape} and {values.shape}.")
    if not np.isfinite(values).all():
        bad = np.count_nonzero(~np.isfinite(values))
        raise InputError(f"{bad} of {values.size} scores are not finite. Leave these cases out, and say how many they are.")
    positive = outcome.astype(bool)
    if not np.array_equal(outcome.astype(float), positive.astype(float)):
        odd = next(value for value in outcome.tolist() if value not in (0, 1))
        raise InputError(f"Outcomes must be true or false (1 or 0), got {odd!r}.")
    if positive.all() or not positive.any():
        kind = "positive" if positive.size and positive.all() else "negative"
        raise InputError(f"A ROC needs both classes; all {positive.size} cases are {kind}. Take more cases, or another outcome.")
    return positive, values


def named(patients: Values, size: int) -> np.ndarray:
    """Patients as text (N,)."""
    import pandas as pd

    if len(patients) != size:
        raise InputError(f"There are {size} cases, but {len(patients)} patients' names.")
    missing = int(np.sum(pd.isna(patients)))
    if missing:
        raise InputError(f"The patient of {missing} of {size} cases is missing. Leave them out, or name each for itself.")
    return np.asarray(patients).astype(str)


def count(patients: Values) -> int:
    """How many patients these are, each counted once."""
    return len(np.unique(np.asarray(patients).astype(str)))


def patients_of(positive: np.ndarray, patients: Values) -> tuple[int, int]:
    """How many patients have a positive case, and how many have none."""
    names = np.asarray(patients).astype(str)
    ill = np.unique(names[positive]).size
    return ill, np.unique(names).size - ill
