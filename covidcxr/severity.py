"""Opacity percentages beside what became of the patients: joined, counted, image by image and patient by patient (tang2020, 2.7).

    table = severity.with_outcomes(severity.read_percentages(file), {"rural_covid_cxr": rural.cases()})
    print(severity.without(table, "icu", "manual_percentage"))      # what a ROC has to leave out, and why
    print(severity.areas(table, ["manual_percentage", "predicted_percentage"], seed=0))

tang2020 does not say whether its ROC curves count images or patients. Here they count both: each image as it comes, and each
patient once, by the largest, the last, or the mean percentage of the patient's images.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from covidcxr import roc
from covidcxr.datasets.images import stem
from covidcxr.datasets.tables_of_cases import read_csv
from covidcxr.errors import InputError, did_you_mean

if TYPE_CHECKING:
    import pandas as pd

OUTCOMES = {"icu": "ICU admission", "death": "death"}
RULES = ("maximum", "last", "mean")
COLUMNS = ("case", "data_set", "patient", "role", "lungs", "manual_percentage", "predicted_percentage")
SCORES = {"geographic_mean": "extent (0-8)", "opacity_mean": "opacity score (0-6)"}
_PERCENTAGES = ("manual_percentage", "predicted_percentage")


def read_percentages(path: Path) -> pd.DataFrame:
    """The table that the stage `unet_opacity` leaves: one row per image, `COLUMNS`; percentages 0 to 100 of the lungs' area, NaN
    where nothing was drawn.

    Raises:
        InputError: a column is missing, an image is listed twice, or a percentage is none.
    """
    import pandas as pd

    table = read_csv(path, COLUMNS)
    twice = table[table.duplicated(["data_set", "case"])]
    if len(twice):
        raise InputError(f"{path}: {twice.case.iloc[0]} of {twice.data_set.iloc[0]} is listed twice.")
    for column in _PERCENTAGES:
        text = table[column]
        values = pd.to_numeric(text, errors="coerce")
        wrong = (values.isna() & (text.str.strip() != "")) | ~(values.isna() | values.between(0, 100))
        if wrong.any():
            row = table[wrong].iloc[0]
            raise InputError(f"{path}: {column} of {row.case} is {row[column]!r}; it must lie in 0 to 100, or be empty.")
        table[column] = values
    return table


def with_outcomes(percentages: pd.DataFrame, cases: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Each image beside its patient's outcome.

    Args:
        percentages: of `read_percentages`.
        cases: name of a data set -> its table (`Dataset.cases()`), for every data set of `percentages`.

    Returns:
        `percentages` and `covid`, `icu`, `death` (boolean, missing where not known), `age`, `order` (of a patient's images in
        time; NaN where not known), `xrays` (how many images of the patient are in the table) and `any_opacity` (1.0 where some is
        drawn).

    Raises:
        InputError: a data set is missing, or has no such image, or gives it to another patient.
    """
    import pandas as pd

    parts = []
    for name, rows in percentages.groupby("data_set", sort=False):
        if name not in cases:
            raise InputError(f"There are percentages of {name}, but no table of its cases.{did_you_mean(name, cases)}")
        known = cases[name].set_index("case")
        unknown = rows.case[~rows.case.isin(known.index)]
        if len(unknown):
            raise InputError(
                f"{name} has no image {unknown.iloc[0]!r} ({len(unknown)} of {len(rows)} are unknown). The percentages were made "
                "from other data: run unet_opacity again."
            )
        known = known.loc[rows.case]
        moved = rows[rows.patient.to_numpy() != known.patient.to_numpy()]
        if len(moved):
            there = known.patient[moved.case.iloc[0]]
            raise InputError(
                f"{name}: image {moved.case.iloc[0]} is of patient {moved.patient.iloc[0]} in the table of percentages, and of "
                f"{there} in the data set. Run unet_opacity again."
            )
        about = known[["covid", "icu", "death", "age"]].assign(order=in_time(known))
        parts.append(pd.concat([rows.reset_index(drop=True), about.reset_index(drop=True)], axis=1))
    table = pd.concat(parts, ignore_index=True)
    table["xrays"] = table.groupby(["data_set", "patient"]).case.transform("size").astype(float)
    table["any_opacity"] = (table.manual_percentage > 0).astype(float).where(table.manual_percentage.notna())
    return table


def in_time(cases: pd.DataFrame) -> np.ndarray:
    """A number by which the images of a patient stand in order of time, (N,): the date in the image's name, as in the rural
    cohort, whose dates are shifted alike for all images of a patient; else the column `day`; NaN where neither is known.

    Args:
        cases: a data set's table by case.
    """
    import pandas as pd

    dates = pd.Series(cases.index, dtype=str).str.extract(r"_(\d\d-\d\d-\d{4})", expand=False)
    days = pd.to_datetime(dates, format="%m-%d-%Y", errors="coerce")
    number = (days - pd.Timestamp("1970-01-01")).dt.days.to_numpy(float)
    stated = pd.to_numeric(cases["day"], errors="coerce").to_numpy(float) if "day" in cases else np.full(len(cases), np.nan)
    return np.where(np.isnan(number), stated, number)


def without(table: pd.DataFrame, outcome: str, score: str) -> dict[str, list[str]]:
    """Which images a ROC has to leave out: reason -> cases. The rest has both outcome and score."""
    no_outcome, no_score = table[outcome].isna(), table[score].isna()
    reasons = {f"{OUTCOMES.get(outcome, outcome)} not known": no_outcome, f"no {score}": no_score & ~no_outcome}
    return {reason: table.case[rows].tolist() for reason, rows in reasons.items() if rows.any()}


def per_patient(table: pd.DataFrame, score: str, outcome: str, rule: str) -> pd.DataFrame:
    """One row per patient, `patient`, `outcome` and `score`, from the images that have both.

    Args:
        rule: of `RULES`. For `last`, patients with several images of which one has no known time are left out.

    An outcome is the patient's: it counts where any of the patient's images has it.
    """
    kept = table.dropna(subset=[outcome, score])
    if rule not in RULES:
        raise InputError(f"No rule is called {rule!r}.{did_you_mean(rule, RULES)} There are: {', '.join(RULES)}.")
    if rule == "last":
        orders = kept.groupby("patient").order
        kept = kept[(orders.transform("size") == 1) | (orders.transform("size") == orders.transform("count"))]
    pick = {"maximum": "max", "mean": "mean", "last": "last"}[rule]
    kept = kept.sort_values("order", kind="stable").assign(**{outcome: lambda rows: rows[outcome].astype(bool)})
    return kept.groupby("patient", as_index=False).agg(**{outcome: (outcome, "max"), score: (score, pick)})


def areas(
    table: pd.DataFrame, scores: Sequence[str], *, seed: int, outcomes: Sequence[str] = tuple(OUTCOMES),
    rules: Sequence[str] = RULES,
) -> pd.DataFrame:
    """AUC of every score for every outcome, by image and by patient, in one cohort.

    Args:
        table: one row per image: `case`, `patient`, `order`, the scores and the outcomes.

    Returns:
        One row per outcome, score and unit ("image", "patient, maximum", …): `n` (images or patients), `positives`, `patients`,
        `auc`, `low`, `high` and `method` (bootstrap over patients), `delong_low` and `delong_high` (logit scale, patients as
        clusters), `why` (empty, or why there is no AUC, such as that one class is missing; the numbers are NaN then).
    """
    import pandas as pd

    rows = []
    for outcome in outcomes:
        for score in scores:
            kept = table.dropna(subset=[outcome, score])
            units = {"image": kept} | {f"patient, {rule}": per_patient(kept, score, outcome, rule) for rule in rules}
            for unit, cases in units.items():
                rows.append({
                    "outcome": outcome, "score": score, "unit": unit, "n": len(cases), "positives": int(cases[outcome].sum()),
                    "patients": cases.patient.nunique(), **_area(cases[outcome], cases[score], cases.patient, seed),
                })
    return pd.DataFrame(rows)


def _area(truth, score, patients, seed: int) -> dict[str, object]:
    try:
        area = roc.bootstrap_auc(truth, score, patients, seed=seed)
    except InputError as error:
        numbers = dict.fromkeys(("auc", "low", "high", "delong_low", "delong_high"), np.nan)
        return {**numbers, "method": "", "why": str(error)}
    low, high = roc.delong(truth, score, patients, scale="logit").interval
    return {"auc": area.value, "low": area.low, "high": area.high, "delong_low": low, "delong_high": high, "method": area.method,
            "why": ""}


def scored_images(open_set: Callable[[str], pd.DataFrame | None]) -> pd.DataFrame:
    """The radiographs of Cohen's collection that three raters scored (arXiv 2005.11856), with what is known of their patients.

    The scores stand in the collection, or in a table without images; patients and outcomes in the collection, or in the sets that
    hold images of it. What is not at hand is done without.

    Args:
        open_set: name of a data set -> its cases, or None where it is not at hand.

    Returns:
        `image` (file name without suffix), `patient`, `icu`, `death`, `order` and the columns of `SCORES`; no rows where no score
        is at hand. Images of which nothing but the score is known are left out.
    """
    import pandas as pd

    scores, known = [], []
    for name in ("cohen_cxr", "tables", "general_blockchain_cxr", "v7_cxr"):
        cases = open_set(name)
        if cases is None:
            continue
        files = name == "tables" and "filename" in cases  # where there are no images, cases are rows of a table
        names = cases.filename.map(stem, na_action="ignore") if files else cases.case.str.rpartition("/")[2]
        named = cases.assign(image=names)
        if set(SCORES) <= set(cases):
            scores.append(named.dropna(subset=list(SCORES))[["image", *SCORES]])
        if name != "tables":
            known.append(named.assign(order=in_time(cases.set_index("case")))[["image", "patient", "icu", "death", "order"]])
    if not scores or not known:
        return pd.DataFrame(columns=["image", "patient", "icu", "death", "order", *SCORES])
    people, rated = (pd.concat(parts, ignore_index=True).drop_duplicates("image") for parts in (known, scores))
    return people.merge(rated, on="image")
