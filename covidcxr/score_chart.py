"""The chart of scores: what a paper prints, what was obtained here and what trivial predictors score, a row per score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

import numpy as np

from covidcxr import figures
from covidcxr.claims import Claim
from covidcxr.outcomes import Assessment

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GREY = "#7d868e"


@dataclass(frozen=True)
class Score:
    """One row of the chart.

    Attributes:
        claim: the printed score.
        here: the score obtained here, or None. `interval`: its 95 % interval, or None.
        trivial: scores of trivial predictors by name.
        real: whether `here` is of real data.
    """

    claim: Claim
    here: float | None = None
    interval: tuple[float, float] | None = None
    trivial: Mapping[str, float] = field(default_factory=dict)
    real: bool = False

    @classmethod
    def of(cls, one: Assessment, data: str | None) -> Score:
        """The row of an assessment whose stage has used `data`, real or phantom."""
        record = one.record or {}
        interval = tuple(record["ci"]) if record.get("ci") else None
        return cls(one.claim, record.get("value"), interval, one.trivial, data == "real")


def draw(scores: Sequence[Score], names: Sequence[str], row_height: float) -> Figure:
    """Printed scores as squares, those obtained here as circles, hollow for the phantom, trivial predictors as bars.

    Args:
        scores: whose claims have a number for a value; AP points are divided by 100.
        names: of the rows.
        row_height: in inches.
    """
    import matplotlib.pyplot as plt

    figure, ax = plt.subplots(figsize=(11, 0.9 + row_height * len(scores)))
    blue, red = figures.COLOURS["blue"], figures.COLOURS["vermilion"]
    for y, one in enumerate(scores):
        full = 100 if one.claim.unit == "AP points" else 1
        trivial = [score / full for score in one.trivial.values()]
        ax.scatter(trivial, [y] * len(trivial), marker="|", s=120, color=GREY, zorder=1)
        ax.plot(cast(float, one.claim.value) / full, y - 0.15, "s", markersize=5, color=blue)
        if one.claim.interval:
            ax.plot(np.array(one.claim.interval) / full, [y - 0.15] * 2, color=blue)
        if one.interval:
            ax.plot(np.array(one.interval) / full, [y + 0.2] * 2, color=red)
        if one.here is not None:
            ax.plot(one.here / full, y + 0.2, "o", markersize=5, markerfacecolor=red if one.real else "white", color=red)
    ax.set_yticks(range(len(scores)), names)
    for label, marker, colour in (("paper", "s", blue), ("here", "o", red), ("trivial predictor", "|", GREY)):
        ax.plot([], [], marker, color=colour, label=label)
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3)
    ax.set(xlim=(-0.02, 1.02), ylim=(len(scores) - 0.4, -0.6), xlabel="score (AP points divided by 100)")
    ax.grid(axis="x", alpha=0.3)
    return figure
