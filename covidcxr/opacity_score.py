"""Cohen's severity scores of a radiograph, computed by TorchXRayVision where it is installed: the comparator of tang2020.

    table = opacity_score.of_dataset(rural, rural.cases().case)     # case, geographic_mean, opacity_mean

Cohen et al. (arXiv 2005.11856) drew a straight line through one output of a network, the log odds of "Lung Opacity", to three
raters' mean scores of 94 images. `LINES` are those of scripts/covid-severity/predict_severity.py in TorchXRayVision's repository;
the network, "densenet121-res224-all", had been trained on other collections. On the 94 images themselves the line is fitted.

The file of weights is a pickle, which can run anything: it is taken by its hash only. TorchXRayVision needs PyTorch; both come
with the extra `opacity-score`, and nothing else here needs them.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import numpy as np

from covidcxr import paths
from covidcxr.downloads import download
from covidcxr.errors import DataMissing

if TYPE_CHECKING:
    import pandas as pd

    from covidcxr.datasets.base import Dataset

WEIGHTS = "densenet121-res224-all"
URL = (
    "https://github.com/mlmed/torchxrayvision/releases/download/v1/"
    "nih-pc-chex-mimic_ch-google-openi-kaggle-densenet121-d121-tw-lr001-rot45-tr15-sc15-seed0-best.pt"
)
SHA256 = "56524913dd16a906422e8d8b66a7a5c46be1d82eb7ac012d8103776f1aa68899"
"""Of the file at `URL`, as published with its copy at huggingface.co/torchxrayvision/densenet121-res224-all (28,382,008 bytes,
Apache-2.0)."""

HOW = 'pip install -e ".[opacity-score]"'
LINES = {"geographic_mean": (0.8705248236656189, 3.4137437, 8.0), "opacity_mean": (0.5484423041343689, 2.5535977, 6.0)}
"""Score -> slope and intercept of the line, and the end of the scale, which begins at 0."""

Network = Callable[[np.ndarray], np.ndarray]


def of_dataset(dataset: Dataset, cases: Iterable[str], log_odds: Network | None = None) -> pd.DataFrame:
    """Scores of images of a data set.

    Args:
        log_odds: from an image, float32 (H, W) in [0, 1], to the log odds of "Lung Opacity"; None: `network`, made once.

    Returns:
        One row per image: `case` and the columns of `LINES`.

    Raises:
        DataMissing: TorchXRayVision or its weights are not at hand; the message holds the line that gets them.
    """
    import pandas as pd

    log_odds = log_odds or network()
    names = list(cases)
    odds = np.array([float(log_odds(dataset.image(name))) for name in names])
    return pd.DataFrame({"case": names, **scores(odds)})


def scores(log_odds: np.ndarray) -> dict[str, np.ndarray]:
    """Both scores (N,) from log odds (N,): on the line, but not beyond the ends of the scale."""
    return {name: np.clip(slope * log_odds + shift, 0, end) for name, (slope, shift, end) in LINES.items()}


def network() -> Network:
    """TorchXRayVision's network with its published weights, which are fetched and checked by their hash."""
    if importlib.util.find_spec("torchxrayvision") is None:
        raise DataMissing(
            f"Cohen's scores are computed by TorchXRayVision, which is not installed. To get it: {HOW}", "torchxrayvision", HOW
        )
    import torch
    import torchxrayvision

    folder = paths.cache_dir() / "weights"
    folder.mkdir(parents=True, exist_ok=True)
    download(URL, folder, SHA256, "torchxrayvision", how=f"download {URL} to {folder}")
    model = torchxrayvision.models.DenseNet(weights=WEIGHTS, cache_dir=str(folder))
    model.op_threshs = None  # log odds, not probabilities stretched about a threshold
    output = model.targets.index("Lung Opacity")
    crop, resize = torchxrayvision.datasets.XRayCenterCrop(), torchxrayvision.datasets.XRayResizer(224)

    def log_odds(image: np.ndarray) -> np.ndarray:
        pixels = resize(crop(torchxrayvision.utils.normalize(image, 1)[None]))
        with torch.no_grad():
            return model(torch.from_numpy(pixels)[None])[0, output].numpy()

    return log_odds
