"""A profile's folder as finished stages leave it, written through the recorder that notebooks use, for tests of the report."""

import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from covidcxr import results

RUN = {
    "why": "", "how": "", "seed": 0, "started": "2026-01-02T03:04:05+00:00", "seconds": 61.5, "peak_memory_mb": 812,
    "git": {"commit": "0123abcd" * 5, "dirty": False}, "versions": {"python": "3.11.9", "numpy": "1.26.4"},
    "hardware": {"cpu": "Some CPU", "cores": 2, "memory_gb": 24, "gpu": []}, "upstream": {}, "datasets": [],
    "fingerprint": {"code": {}, "parameters": {}, "data": {}}, "parameters": {"data": "real", "seed": 0},
}
MANIFEST = {
    "name": "general_blockchain_cxr", "root": "somewhere", "files": 690, "bytes": 53_000_000, "sha256": "ab" * 32,
    "licence": "CC BY 4.0 (annotations)", "source": "https://github.com/GeneralBlockchain/covid-19-chest-xray-segmentations-dataset",
}


def finish(folder: Path, **changes) -> None:
    """Write the completion record of a stage."""
    content = {**RUN, "stage": folder.name, "profile": folder.parent.name, "status": "done", **changes}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.json").write_text(json.dumps(content))


def open_stage(profile: Path, name: str, data: str = "real"):
    return results.open_stage(name, str(profile / name), data=data, seed=0)


def add_manifest(stage) -> None:
    """Note a data set without reading one."""
    stage._put("datasets", "name", MANIFEST)


def chart():
    figure, axis = plt.subplots(figsize=(5, 3))
    axis.plot(np.linspace(0, 1, 50), np.linspace(0, 1, 50) ** 0.3)
    axis.set_xlabel("false positive rate")
    axis.set_ylabel("true positive rate")
    return figure


def picture():
    figure, axis = plt.subplots(figsize=(3, 3))
    y, x = np.mgrid[-1:1:96j, -1:1:96j]
    axis.imshow(np.exp(-4 * (x**2 + y**2)), cmap="gray")
    axis.set_axis_off()
    return figure


def write(profile: Path, data: str = "real") -> Path:
    """Finished stages with every kind of record, one without data, one failed; the rest not run."""
    stage = open_stage(profile, "start_here", data)
    add_manifest(stage)
    stage.record("ramesh2021.data.cxr_total", 100, n=100)
    stage.record("ramesh2021.data.ct_total", 4, n=4, n_unit="volumes", comparable=False, why="4 of the 241 volumes are here.")
    stage.record("ramesh2021.data.cxr_covid_positive", 0.65, ci=(0.55, 0.74), ci_method="Wilson", n=100)
    stage.number("agreement_nothing", 0.781, what="Pixel agreement of finding nothing", n=100, unit="pixel agreement",
                 ci=(0.76, 0.80), ci_method="bootstrap over patients")
    stage.save_table("cohort", pd.DataFrame({"finding": ["COVID-19", "SARS"], "images": [65, 10], "share": [0.65, 0.1]}),
                     caption="Findings of the 100 X-rays.")
    stage.save_figure("roc", chart(), caption="A curve.", alt="A curve that rises from 0 to 1.")
    stage.finish()
    finish(profile / "start_here", data=stage.kind)

    stage = open_stage(profile, "ct_projection", data)
    stage.record("ramesh2021.equation1", 0, n=4, n_unit="volumes")
    stage.save_figure("conversion", picture(), caption="A volume and its projection.", alt="A bright blob.", kind="image",
                      reproduces="ramesh2021.figure1")
    stage.finish()
    finish(profile / "ct_projection", data=stage.kind)
    (profile / "ct_projection" / "notebook.html").write_text("<p>executed</p>")

    finish(profile / "label_generation", status="no-data", why="No CT volumes.", how="python -m covidcxr data fetch", data="real")

    folder = profile / "diagnosis"
    stage = open_stage(profile, "diagnosis", data)
    stage.record("zhang2020.diagnosis.accuracy.validation", 0.9601, ci=(0.951, 0.969), ci_method="bootstrap over patients",
                 n=1919, trivial={"majority class": 0.9312}, seeds=[0, 1, 2])
    stage.record("zhang2020.diagnosis.auc.validation", 0.95, ci=(0.94, 0.96), ci_method="bootstrap over patients", n=1919,
                 trivial={"source collection": 0.991})
    stage.record("zhang2020.setting.diagnosis.epochs", 4, n=1, n_unit="trainings")
    stage.save_figure("roc", chart(), caption="ROC of the diagnosis.", alt="A ROC curve.", reproduces="zhang2020.figure8")
    stage.finish()
    finish(folder, data=stage.kind)

    failed = profile / "lung_segmentation"
    failed.mkdir(parents=True)
    (failed / "failure.json").write_text(json.dumps({
        "stage": "lung_segmentation", "status": "failed", "cell": "cell 12", "heading": "section “Training”",
        "error": "MemoryError: no", "traceback": "line 1\nline 2", "command": "python -m covidcxr run demo lung_segmentation",
    }))
    plt.close("all")
    return profile
