"""Which images train and which test: splits by case, saved as files, and what leaks through them.

    table = datasets.open("general_blockchain_cxr", "real").cases()
    split = splits.ramesh2021(table, "patient_grouped", seed=0)
    train = split.case[split.role == "train"]
    splits.write(split, folder / "split.csv")

A split is a pandas.DataFrame of one row per case, sorted by case:
    case, patient   as in the data set's table
    role            "train", "test" (zhang2020's validation), or "unused" (in neither)
    ten             bool, in ramesh2021's splits only: the X-rays that the mixed training set keeps; never one of the test

A split depends on the cases, on their patients and on the seed, not on the order of rows in the table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from covidcxr import paths
from covidcxr.datasets.near_duplicates import Fingerprint, near_duplicates
from covidcxr.datasets.tables_of_cases import read_csv
from covidcxr.errors import InputError, ParameterError, did_you_mean

if TYPE_CHECKING:
    from pandas import DataFrame

ROLES = ("train", "test", "unused")
Protocol = Literal["printed", "released", "covid_only", "patient_grouped"]
TEST_SHARE = 40 / 100  # ramesh2021, section 2.4, as the next
TEN_SHARE = 10 / 60  # of the training X-rays
RELEASED = "ramesh2021_released_split.csv"
Session = Literal["lung", "lung_500", "diagnosis"]
VALIDATION_SHARE = 30 / 100  # zhang2020, section 4.2
NON_COVID = 5957  # zhang2020, Table 1, with masks; the earlier session of section 4.4 trained on 500 of them
NON_COVID_500 = 500
SLICE_SHARE = 30 / 100  # gaikwad2020 prints none
_DRAWS = 200
_SHOWN = 5  # names in a message


def ramesh2021(cases: DataFrame, protocol: Protocol, *, seed: int) -> DataFrame:
    """Training, test and "the ten" of ramesh2021, section 2.4: 60 X-rays train, 40 test, ten of the 60 train with 50 projections.

    A set of another size is split in the same proportions.

    Args:
        cases: the data set's table (`Dataset.cases()`): case, patient, covid.
        protocol:
            "printed": images drawn at random, as the paper says. Images of a patient may be on both sides, and the test
                images are not all of COVID-19 patients, as the paper says they are: 65 of the 100 are.
            "covid_only": the same, with test images drawn among those of COVID-19 patients.
            "patient_grouped": drawn by patient, with the share of COVID-19 alike on both sides.
            "released": the lists of the authors' repository (https://github.com/rvignav/CT2Xray), which depend on no seed. The
                training list has 56 names, not 60; the test images are 40, alphabetically early ones, 35 of them of COVID-19
                patients, with all five X-rays that have no lesion among them. Of the four X-rays in neither list three are
                among the mixed set's ten; which of the four are the paper's missing training images is not known, so their
                role is "unused", and three images of the ten are not among the 56.
        seed: of the draws.

    Raises:
        InputError: the set can't be split so: too few images, or without the released names.
    """
    if protocol not in get_args(Protocol):
        raise ParameterError(
            f"No protocol is called {protocol!r}.{did_you_mean(protocol, get_args(Protocol))} "
            f"There are: {', '.join(get_args(Protocol))}."
        )
    table = _sorted(cases, "covid")
    if protocol == "released":
        return _released(table)
    random = np.random.default_rng(seed)
    count = _at_least_one(TEST_SHARE * len(table))
    if protocol == "patient_grouped":
        test = _draw_groups(table, count, random, "patient", "covid")
    else:
        allowed = table.covid.fillna(False).to_numpy(bool) if protocol == "covid_only" else np.ones(len(table), bool)
        test = _draw(allowed, count, random, "COVID-19 images" if protocol == "covid_only" else "images")
    split = _split(table, np.where(test, "test", "train"))
    split["ten"] = _draw(~test, _at_least_one(TEN_SHARE * np.count_nonzero(~test)), random, "training images")
    return check(split)


def zhang2020(
    cases: DataFrame, session: Session, protocol: Literal["printed", "patient_grouped"] = "printed", *, seed: int
) -> DataFrame:
    """Training and validation images of zhang2020, Tables 2 to 5 and section 4.4; those of validation have the role "test".

    Of 439 COVID-19 and 5957 other images, "printed" gives exactly the paper's numbers: 307 and 4170 train. "lung" tests on the
    132 COVID-19 images that remain and leaves 1787 others unused; "diagnosis" tests on both; "lung_500" trains on 500 others
    and leaves the rest unused. A set of another size is split in the same proportions. Sessions share the drawing: with the
    same seed the same images train in "lung" and in "diagnosis", and the 500 are among them.

    Args:
        cases: images with masks: case, patient, covid; where the table has a column `excluded`, it must be empty.
        session: which network.
        protocol: "printed": images are drawn at random in each class, so that images of a patient may be on both sides.
            "patient_grouped": patients are drawn, with about 30 % of the images and the share of COVID-19 alike on both sides;
            here the lung networks are tested on both classes, since one that is to serve for all images should be.
        seed: of the draws.

    Raises:
        InputError: an image is excluded or its finding not known, there is one class only, or a class has too few images.
    """
    known = {"session": (session, get_args(Session)), "protocol": (protocol, ("printed", "patient_grouped"))}
    for name, (value, allowed) in known.items():
        if value not in allowed:
            raise ParameterError(f"No {name} is called {value!r}.{did_you_mean(value, allowed)} There are: {', '.join(allowed)}.")
    table = _sorted(cases, "covid")
    _check_usable(table)
    covid = table.covid.to_numpy(bool)
    random = np.random.default_rng(seed)
    if protocol == "patient_grouped":
        test = _draw_groups(table, _at_least_one(VALIDATION_SHARE * len(table)), random, "patient", "covid")
    else:
        test = np.zeros(len(table), bool)
        for members, what in ((covid, "COVID-19 images"), (~covid, "other images")):
            count = min(round((1 - VALIDATION_SHARE) * members.sum()), members.sum() - 1)
            train = _draw(members, count, random, what)
            test |= members & ~train
    unused = np.zeros(len(table), bool)
    if session == "lung_500":
        count = _at_least_one(NON_COVID_500 / NON_COVID * np.count_nonzero(~covid))
        unused = ~covid & ~test & ~_draw(~covid & ~test, count, random, "other training images")
    if session != "diagnosis" and protocol == "printed":
        unused |= ~covid & test
    return check(_split(table, np.where(unused, "unused", np.where(test, "test", "train"))))


def gaikwad2020(slices: DataFrame, protocol: Literal["slice", "volume"], *, seed: int) -> DataFrame:
    """Training and test slices of CT for gaikwad2020, which prints no split: about 30 % of the slices test.

    Args:
        slices: `ct_slices.table`: case (a slice), patient.
        protocol: "slice": slices are drawn, as a paper that counts "images" must have done: the neighbours of a test slice, a
            few millimetres away, train. "volume": whole patients are drawn.
        seed: of the draws.

    Raises:
        InputError: fewer than two patients, or two slices.
    """
    if protocol not in ("slice", "volume"):
        raise ParameterError(f'protocol must be "slice" or "volume"; it is {protocol!r}.')
    return grouped(slices, SLICE_SHARE, seed=seed, group="case" if protocol == "slice" else "patient")


def _check_usable(table: DataFrame) -> None:
    if "excluded" in table and table.excluded.notna().any():
        names = _some(table.case[table.excluded.notna()])
        count = table.excluded.notna().sum()
        raise InputError(f"{count} images are excluded, such as CT slices: {names}. Leave them out first.")
    if table.covid.isna().any():
        names = _some(table.case[table.covid.isna()])
        count = table.covid.isna().sum()
        raise InputError(f"Of {count} images it is not known whether they show COVID-19: {names}. Tag them, or leave them out.")
    if table.covid.nunique() < 2:
        which = "COVID-19" if table.covid.all() else "other"
        raise InputError(f"zhang2020 trains on COVID-19 and other images; these {len(table)} are all {which} images.")
    if table.covid.value_counts().min() < 2:
        raise InputError("Of each class one image trains and one is tested, at least; one class has a single image.")


def grouped(
    cases: DataFrame, test_share: float, *, seed: int, stratify: str | None = None, group: str = "patient"
) -> DataFrame:
    """A random split that keeps each patient on one side.

    Of many random orders of the patients, the first ones of an order test: those that come nearest to `test_share` of the images
    and, among these, to `test_share` of each stratum. scikit-learn's StratifiedGroupKFold balances as well, but for shares that
    are one of k folds, with at least k patients, and without choosing by chance among unlike patients; its GroupShuffleSplit
    takes a share of the patients, not of the images, and has no strata.

    Args:
        cases: the data set's table: case, patient, and the columns named here.
        test_share: share of the images that test: 0.3 for the 7 : 3 of tang2020 and zhang2020.
        stratify: column whose values shall be as frequent among the test images as among all; missing values count as one.
        group: column that must not be torn apart, where it is not the patient.

    Raises:
        InputError: fewer than two groups, or a column is missing.
    """
    if not 0 < test_share < 1:
        raise ParameterError(f"test_share lies between 0 and 1; found {test_share!r}.")
    table = _sorted(cases, group, *(() if stratify is None else (stratify,)))
    test = _draw_groups(table, _at_least_one(test_share * len(table)), np.random.default_rng(seed), group, stratify)
    return check(_split(table, np.where(test, "test", "train")))


@dataclass(frozen=True)
class Leakage:
    """What training images give away of test images.

    Attributes:
        patients: patients on both sides.
        near_duplicates: (training case, test case, correlation of their thumbnails) of nearly the same image on both sides.
        affected: test cases of these patients or pairs.
        tests: number of test images.
    """

    patients: tuple[str, ...]
    near_duplicates: tuple[tuple[str, str, float], ...]
    affected: tuple[str, ...]
    tests: int

    @property
    def share(self) -> float:
        """Share of the test images that are affected."""
        return len(self.affected) / self.tests

    def __str__(self) -> str:
        return (
            f"{len(self.patients)} patients and {len(self.near_duplicates)} pairs of near-duplicate images on both sides: "
            f"{len(self.affected)} of {self.tests} test images affected"
        )


def leakage(split: DataFrame, fingerprints: Mapping[str, Fingerprint]) -> Leakage:
    """Patients and near-duplicate images on both sides of a split. The ten count as training images whatever their role.

    Args:
        split: of any protocol.
        fingerprints: of each case's image: `{case: fingerprint(dataset.image(case)) for case in split.case}`, with
            `covidcxr.datasets.near_duplicates.fingerprint`.
    """
    check(split)
    test = (split.role == "test").to_numpy()
    train = (split.role == "train").to_numpy() | (split["ten"].to_numpy() if "ten" in split else False)
    both = set(split.patient[train]) & set(split.patient[test])
    cases = split.case[train | test].tolist()
    unknown = [case for case in cases if case not in fingerprints]
    if unknown:
        raise InputError(f"No fingerprint is given of {_some(unknown)}: near-duplicates can't be looked for.")
    testing = set(split.case[test])
    pairs = []
    for i, j, _, correlation in near_duplicates([fingerprints[case] for case in cases]):
        one, other = sorted((cases[i], cases[j]), key=testing.__contains__)
        if one not in testing and other in testing:
            pairs.append((one, other, correlation))
    affected = set(split.case[test & split.patient.isin(both).to_numpy()]) | {other for _, other, _ in pairs}
    return Leakage(tuple(sorted(both)), tuple(pairs), tuple(sorted(affected)), int(np.count_nonzero(test)))


# ---- files -----------------------------------------------------------------------------------------------------------


def write(split: DataFrame, path: Path) -> None:
    """Save a split as CSV, at once or not at all."""
    paths.write_atomically(path, check(split, str(path)).to_csv(index=False))


def read(path: Path, cases: DataFrame) -> DataFrame:
    """Read a split of these cases back.

    Args:
        cases: the data set's table.

    Raises:
        InputError: it is no split, or one of other cases or patients than the table's.
    """
    split = read_csv(path, ("case", "patient", "role"))
    if "ten" in split:
        if not split["ten"].isin(("True", "False")).all():
            raise InputError(f"{path}: column ten holds True or False; found {_some(split['ten'])}.")
        split["ten"] = split["ten"] == "True"
    split, table = check(split, str(path)), _sorted(cases)
    for absent, where in ((set(split.case) - set(table.case), "data set"), (set(table.case) - set(split.case), "split")):
        if absent:
            names = _some(sorted(absent))
            raise InputError(f"{path}: {len(absent)} cases are not in the {where}: {names}. Make the split again.")
    moved = split.case[split.patient != table.patient]
    if len(moved):
        raise InputError(f"{path}: the data set gives other patients for {_some(moved)}. Make the split again.")
    return split


def check(split: DataFrame, where: str = "split") -> DataFrame:
    """The split, sorted by case, if it is one.

    Raises:
        InputError: cases come twice, a role is unknown, a side is empty, or one of the ten tests.
    """
    columns = ["case", "patient", "role", *(["ten"] if "ten" in split else [])]
    if list(split.columns) != columns:
        found = _some(split.columns)
        raise InputError(f"{where}: the columns of a split are case, patient, role and perhaps ten; found {found}.")
    unknown = split.role[~split.role.isin(ROLES)]
    if len(unknown):
        raise InputError(f"{where}: a role is {', '.join(ROLES)}; found {_some(unknown)}.")
    for role in ("train", "test"):
        if not (split.role == role).any():
            raise InputError(f"{where}: no image has the role {role}.")
    if "ten" in split:
        if split["ten"].dtype != bool:
            raise InputError(f"{where}: the column ten is bool; found {split['ten'].dtype}.")
        testing = split.case[split["ten"] & (split.role == "test")]
        if len(testing):
            raise InputError(f"{where}: {_some(testing)} belong to the ten training X-rays and to the test images.")
    return _sorted(split, where=where)


# ---- drawing ---------------------------------------------------------------------------------------------------------


def _released(table: DataFrame) -> DataFrame:
    """The split of the released lists; images that they don't know are unused."""
    path = paths.params_dir() / RELEASED
    known = read_csv(path, ("case", "role", "ten")).set_index("case")
    missing = known.index.difference(table.case)
    if len(missing):
        raise InputError(
            f"The released lists of ramesh2021 name {len(known)} X-rays of general_blockchain_cxr; {len(missing)} of them are "
            f"not among these {len(table)} cases: {_some(missing)}. Take another protocol, or the complete real set."
        )
    split = _split(table, known.role.reindex(table.case).fillna("unused").to_numpy())
    split["ten"] = (known.ten.reindex(table.case) == "True").to_numpy()
    return check(split, str(path))


def _draw(allowed: np.ndarray, count: int, random: np.random.Generator, what: str) -> np.ndarray:
    """`count` of the allowed rows, bool (N,)."""
    rows = np.flatnonzero(allowed)
    if len(rows) < count:
        raise InputError(f"{count} of {len(allowed)} images have to be drawn among the {what}, of which there are {len(rows)}.")
    drawn = np.zeros(len(allowed), bool)
    drawn[random.choice(rows, count, replace=False)] = True
    return drawn


def _draw_groups(table: DataFrame, count: int, random: np.random.Generator, group: str, stratify: str | None) -> np.ndarray:
    """Rows of whole groups, about `count` of them, with their due of each stratum: bool (N,)."""
    names, group_of_row = np.unique(table[group].astype(str).to_numpy(str), return_inverse=True)
    if len(names) < 2:
        raise InputError(f"A grouped split needs at least two values of {group}; these {len(table)} cases have {len(names)}.")
    strata = np.zeros(len(table)) if stratify is None else table[stratify].astype(str).to_numpy(str)
    values, stratum_of_row = np.unique(strata, return_inverse=True)
    images = np.zeros((len(names), len(values)), int)
    np.add.at(images, (group_of_row, stratum_of_row), 1)
    due = count * images.sum(axis=0) / len(table)
    found: list[tuple[float, float]] = []
    chosen: list[np.ndarray] = []
    for _ in range(_DRAWS):
        order = random.permutation(len(names))
        taken = images[order].cumsum(axis=0)[:-1]  # by the first group, the first two, …; one is left to train
        size_off, strata_off = abs(taken.sum(axis=1) - count), abs(taken - due).sum(axis=1)
        best = np.lexsort((strata_off, size_off))[0]
        found.append((size_off[best], strata_off[best]))
        chosen.append(order[: best + 1])
    return np.isin(group_of_row, chosen[min(range(_DRAWS), key=found.__getitem__)])


def _sorted(table: DataFrame, *columns: str, where: str = "cases") -> DataFrame:
    """A table of cases, sorted by case, if it names each case once, with its patient, and has these columns too."""
    missing = [column for column in ("case", "patient", *columns) if column not in table]
    if missing:
        raise InputError(f"A table of cases has the columns case, patient, …; this one lacks {', '.join(missing)}.")
    for column in ("case", "patient"):
        empty = table[column].isna() | (table[column] == "")
        if empty.any():
            names = _some(table.case[empty])
            raise InputError(f"{where}: {np.count_nonzero(empty)} rows have no {column}; their cases: {names}.")
    twice = table.case[table.case.duplicated()]
    if len(twice):
        raise InputError(f"{where}: cases come more than once: {_some(twice)}.")
    table = table.assign(case=table.case.astype(str), patient=table.patient.astype(str))
    return table.sort_values("case", ignore_index=True)


def _split(table: DataFrame, roles: np.ndarray) -> DataFrame:
    return table[["case", "patient"]].assign(role=roles.astype(str))


def _at_least_one(number: float) -> int:
    return max(1, round(number))


def _some(names) -> str:
    """A few of many names, for a message."""
    names = [str(name) for name in names]
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
