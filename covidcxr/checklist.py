"""What the papers say of each item of CLAIM, the Checklist for Artificial Intelligence in Medical Imaging (Mongan 2020).

table = checklist.read()
print(checklist.counts(table))
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from covidcxr import entries, paths
from covidcxr.errors import InputError

if TYPE_CHECKING:
    from pandas import DataFrame

JUDGED = ("met", "partly", "not", "-")
"""How an item may be judged; "-": it does not apply."""
ITEMS = 42
FILE = "claim_checklist.yaml"


@dataclass(frozen=True)
class _File:
    items: dict[int, list]
    papers: dict[str, dict]


def read(path: Path | None = None) -> DataFrame:
    """The checklist of every paper, one row per paper and item.

    Args:
        path: None: `params/claim_checklist.yaml`.

    Returns:
        `paper`, `item` (1 to 42), `section`, `asks` (the item, shortly), `judged` (of `JUDGED`), `place` in the paper, `says`.

    Raises:
        InputError: an item is missing, or is judged by another word, or is met without a place.
    """
    import pandas as pd

    path = path or paths.params_dir() / FILE
    checklist = entries.build(_File, paths.read_yaml(path), str(path))
    if list(checklist.items) != list(range(1, ITEMS + 1)) or not checklist.papers:
        raise InputError(f"{path}: items 1 to {ITEMS} in order, and papers, are expected; found items {list(checklist.items)}.")
    rows = []
    for paper, answers in checklist.papers.items():
        if list(answers) != list(checklist.items):
            raise InputError(f"{path}: {paper} must answer the items 1 to {ITEMS} in order; it has {list(answers)}.")
        for item, answer in answers.items():
            judged, place, says = _texts(answer, 3, f"{path}: {paper}, item {item}")
            if judged not in JUDGED:
                raise InputError(f"{path}: {paper}, item {item}: judged {judged!r}; one of {', '.join(JUDGED)} is expected.")
            if (judged in ("met", "partly")) != (place != "–"):
                raise InputError(f"{path}: {paper}, item {item}: what is met has a place in the paper, what is not has –.")
            section, asks = _texts(checklist.items[item], 2, f"{path}: item {item}")
            rows.append((paper, item, section, asks, judged, place, says))
    return pd.DataFrame(rows, columns=["paper", "item", "section", "asks", "judged", "place", "says"])


def _texts(value: object, count: int, where: str) -> list[str]:
    if not (isinstance(value, list) and len(value) == count and all(isinstance(text, str) for text in value)):
        raise InputError(f"{where}: a list of {count} texts is expected, found {value!r}.")
    return value


def counts(table: DataFrame) -> DataFrame:
    """How many items of each paper are judged how: one row per paper, one column per word of `JUDGED`."""
    import pandas as pd

    found = pd.crosstab(table.paper, table.judged).reindex(columns=list(JUDGED), fill_value=0)
    return found.reindex(table.paper.unique())
