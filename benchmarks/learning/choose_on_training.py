"""Which thresholds, and how many epochs, for the Mask R-CNN of notebook 03? Asked of training patients alone.

The test images of a split must have no say in its parameters. So a third of the training X-rays, by patient, is held out; the
stage `mask_rcnn_xrays` learns from the rest with the profile's parameters and is scored on the third, by true IoU, over
thresholds of score and mask. Other parameters than the profile's are worth taking where the interval of the paired difference
holds only gains: the best of many is ahead by chance, too.

What learns and finds are the notebook's own cells, run until they have found what is scored. The tables of images that these
cells see lack the test images and, in V7, all images of their patients.

    python benchmarks/learning/choose_on_training.py pilot --epochs 20
    python benchmarks/learning/choose_on_training.py smoke --epochs 2 --set steps=1

Takes a training of the stage per number of epochs, times its repeats; the lesson on lungs is learned once.
"""

import argparse
import itertools
import json
import os
import tempfile
from pathlib import Path
from unittest import mock

os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import pandas as pd  # noqa: E402

from covidcxr import datasets, metrics, splits  # noqa: E402
from covidcxr.study import Plan, Stage  # noqa: E402

STAGE, X_RAYS = "mask_rcnn_xrays", "general_blockchain_cxr"
HELD_OUT = 1 / 3
THRESHOLDS = [0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]  # what the notebook finds scores at least the first
MASK_THRESHOLDS = [0.1, 0.2, 0.3, 0.4, 0.5]


def training_only(parameters: dict):
    """`datasets.open` whose tables lack the test images of the stage's split and their patients."""
    cases = datasets.open(X_RAYS, parameters["data"]).cases()
    split = splits.ramesh2021(cases, parameters["split"], seed=parameters["seed"])
    train, tested = split.case[split.role == "train"], split.patient[split.role == "test"]
    plain = datasets.open

    def open_without(name: str, data):
        dataset = plain(name, data)
        table = dataset.cases()
        kept = table[table.case.isin(train) if name == X_RAYS else ~table.patient.isin(tested)]
        dataset.cases = kept.reset_index(drop=True).copy
        return dataset

    return open_without


def hold_out(cases: pd.DataFrame, protocol: str, *, seed: int) -> pd.DataFrame:
    """In the place of `splits.ramesh2021`, whatever the protocol: a third of the training X-rays, by patient, is tested."""
    return splits.grouped(cases, HELD_OUT, seed=seed, stratify="covid").assign(ten=False)


def found(stage: Stage, folder: Path, epochs: int) -> dict:
    """What the notebook's cells have named once all its trainings have looked at the images held out."""
    names = {**stage.parameters, "epochs": epochs, "stage_dir": str(folder)}
    cells = json.loads(stage.notebook.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code" and not cell["metadata"].get("tags")]
    opened = training_only(stage.parameters)
    with mock.patch.object(datasets, "open", opened), mock.patch.object(splits, "ramesh2021", hold_out):
        for cell in code:
            exec("".join(cell["source"]), names)
            if "finds" in names:
                return names
    raise SystemExit(f"{stage.notebook} names no finds.")


def score(names: dict, thresholds: list[tuple[float, float]]) -> pd.DataFrame:
    """True IoU of each image with a lesion, the mean over trainings: a row per case and patient, a column per threshold of score
    and mask."""
    cases, patients = ([getattr(picture, key) for picture in names["test"]] for key in ("name", "patient"))
    columns = {}
    for threshold, mask_threshold in thresholds:
        unions = [[one.above(threshold).union(mask_threshold) for one in finds] for finds in names["finds"]]
        each = pd.concat([metrics.score_masks(union, names["truth"], cases, patients, STAGE) for union in unions])
        columns[threshold, mask_threshold] = each[each.lesion].groupby(["case", "patient"]).iou.mean()
    return pd.DataFrame(columns).rename_axis(columns=["threshold", "mask"])


def verdict(images: pd.DataFrame, own: tuple[int, float, float], seed: int) -> str:
    """The best of the columns (epochs, threshold, mask), and whether it is ahead of the stage's own, in pairs of images."""
    means = images.mean()
    best = means.idxmax()
    said = f"best: {best[0]} epochs, thresholds {best[1]:g} and {best[2]:g}: {means[best]:.3f}"
    if best == own:
        return f"{said}, which is what the profile has"
    patients = images.index.get_level_values("patient")
    ahead, low, high, _ = metrics.paired_difference(images[best], images[own], patients, seed=seed)
    shown = "Take it." if low > 0 else "Not shown to be better."
    return f"{said}, ahead of the profile's {own[0]}, {own[1]:g} and {own[2]:g} by {ahead:.3f} [{low:.3f}, {high:.3f}]. {shown}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("profile", help="profile whose parameters are taken, such as pilot")
    parser.add_argument("--epochs", type=int, nargs="+", default=[], help="others than the profile's")
    parser.add_argument("--thresholds", type=float, nargs="+", default=THRESHOLDS)
    parser.add_argument("--mask-thresholds", type=float, nargs="+", default=MASK_THRESHOLDS)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="another parameter of the stage")
    options = parser.parse_args()
    stage = Plan.load(options.profile, [f"{STAGE}.{text}" for text in options.set]).stage(STAGE)
    own = tuple(stage.parameters[name] for name in ("epochs", "score_threshold", "mask_threshold"))
    epochs, *thresholds = (sorted({*given, mine}) for given, mine in zip(
        (options.epochs, options.thresholds, options.mask_thresholds), own, strict=True))  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        tables = {
            count: score(found(stage, Path(folder) / STAGE, count), list(itertools.product(*thresholds))) for count in epochs
        }
    images = pd.concat(tables, axis=1, names=["epochs"])
    patients = images.index.get_level_values("patient").nunique()
    print(f"\ntrue IoU on {len(images)} images with a lesion of {patients} training patients held out, "
          f"mean of {stage.parameters['repeats']} trainings")  # fmt: skip
    print(images.mean().unstack("epochs").round(3).to_string())
    print(verdict(images, own, stage.parameters["seed"]))


if __name__ == "__main__":
    main()
