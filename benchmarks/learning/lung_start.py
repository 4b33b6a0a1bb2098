"""Does a first lesson on lungs help a Mask R-CNN that then learns lesions?

Runs the study's own stage `mask_rcnn_xrays` with the same splits and seeds from three starts:

    random          random weights
    random, longer  random weights, and as many more epochs as the lesson on lungs would have taken
    lungs           the lesson on lungs first

and compares true IoU, image by image. Each difference has two intervals: over seeds (Student t of the seeds' means; split and
start are drawn anew with each) and over patients (bootstrap, all seeds' images together). A seed is one training, whatever
`repeats` the profile has: those of neighbouring seeds would share their starts.

    python benchmarks/learning/lung_start.py demo                        # phantom
    python benchmarks/learning/lung_start.py demo --data real            # the data at hand, at the demo's scale

Takes (seeds x 3) runs of the stage: on two cores and with the demo's scale about two minutes each.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd

from covidcxr import metrics
from covidcxr.study import Plan

STAGE = "mask_rcnn_xrays"


def overrides(profile: str, given: dict[str, object], start: str) -> dict[str, object]:
    """Parameters of a start, those that were given among them."""
    given = {"repeats": 1, **given}
    if start != "random, longer":
        return {**given, "start": start}
    parameters = Plan.load(profile, [f"{STAGE}.{name}={value}" for name, value in given.items()]).stage(STAGE).parameters
    return {**given, "start": "random", "epochs": parameters["epochs"] + parameters["lung_epochs"]}


def run(profile: str, outputs: Path, values: dict[str, object]) -> pd.DataFrame:
    """Scores of the network, image by image, of one run of the stage."""
    words = [text for name, value in values.items() for text in ("--set", f"{STAGE}.{name}={value}")]
    environment = {**os.environ, "COVIDCXR_OUTPUTS": str(outputs)}
    subprocess.run([sys.executable, "-m", "covidcxr", "run", profile, STAGE, *words], check=True, env=environment)
    scores = pd.read_csv(outputs / profile / STAGE / "scores.csv", dtype={"case": str, "patient": str})
    return scores[scores.by == "xrays"]


def differences(table: pd.DataFrame) -> list[str]:
    """What the lesson on lungs adds to each other start, a line each.

    Args:
        table: seed, start, case, patient, iou; rows of one seed, start and case, such as repeats, are averaged first.
    """
    iou = table.pivot_table(index=["seed", "case", "patient"], columns="start", values="iou").reset_index()
    lines = []
    for start in (name for name in table.start.unique() if name != "lungs"):
        difference = iou["lungs"] - iou[start]
        mean, low, high = metrics.bootstrap_mean(difference, iou.patient, seed=0)
        lines.append(f"lungs - {start}: {mean:+.3f}, over patients [{low:+.3f}, {high:+.3f}]")
        if iou.seed.nunique() > 1:
            _, low, high = metrics.t_interval(difference.groupby(iou.seed).mean())
            lines[-1] += f", over {iou.seed.nunique()} seeds [{low:+.3f}, {high:+.3f}]"
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("profile", help="profile whose scale is taken, such as demo or pilot")
    parser.add_argument("--data", default="", help="data instead of the profile's")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="another parameter of the stage")
    options = parser.parse_args()
    given = dict(text.split("=", 1) for text in options.set) | ({"data": options.data} if options.data else {})

    parts = []
    for seed in range(options.seeds):
        for start in ("random", "random, longer", "lungs"):
            with tempfile.TemporaryDirectory() as folder:
                scores = run(options.profile, Path(folder), {**overrides(options.profile, given, start), "seed": seed})
            parts.append(scores.assign(seed=seed, start=start))
            print(f"seed {seed}, {start}: true IoU {scores.iou.mean():.3f}, agreement {scores.agreement.mean():.3f}", flush=True)
    table = pd.concat(parts)
    print(table.pivot_table(index="start", columns="seed", values="iou", sort=False).round(3).to_string())
    print(*differences(table), sep="\n")


if __name__ == "__main__":
    main()
