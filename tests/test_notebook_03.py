"""What notebook 03 does with its splits, with weights of an earlier run and with earlier stages that do not fit: its cells, run
on the smallest phantom with networks that learn next to nothing."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

pytest.importorskip("keras")

from covidcxr import datasets, paths, results, splits  # noqa: E402
from covidcxr.errors import InputError  # noqa: E402
from covidcxr.maskrcnn import inference  # noqa: E402
from covidcxr.study import Plan  # noqa: E402

STAGE, X_RAYS = "mask_rcnn_xrays", "general_blockchain_cxr"
CELLS = json.loads((paths.notebooks_dir() / "03_mask_rcnn_cxr.ipynb").read_text())["cells"]
CODE = ["".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "code" and not cell["metadata"].get("tags")]
TINY = {"start": "random", "split": "patient_grouped", "batch_size": 2, "steps": 1}


def run(folder: Path, until: str = "", **parameters) -> dict:
    """What the cells have named, all of them or up to the one that names `until`."""
    names = {**Plan.load("smoke").stage(STAGE).parameters, **TINY, "stage_dir": str(folder), **parameters}
    with plt.rc_context():
        for source in CODE:
            exec(source, names)
            plt.close("all")
            if until in names:
                break
    return names


@pytest.fixture(scope="module")
def earlier(tmp_path_factory) -> dict:
    """A run to the end, finished as the runner would: other stages may take from it."""
    folder = tmp_path_factory.mktemp("study") / STAGE
    names = run(folder)
    (folder / "run.json").write_text(json.dumps({"status": "done", "parameters": {"data": names["data"]}}))
    return names


def test_patients_stay_on_one_side_and_the_papers_numbers_are_then_not_comparable(earlier):
    table, folder = earlier["table"], earlier["stage"].folder
    sides = table[table.role != "unused"].groupby("patient").role.nunique()
    assert (sides == 1).all() and set(table.role) == {"train", "test"}
    assert splits.read(folder / "split.csv", earlier["cases"]).equals(table)
    written = json.loads((folder / "results.json").read_text())
    assert written["finished"]
    numbers = {entry["name"]: entry for entry in written["numbers"]}
    assert numbers["leaking_test_images"]["value"] == 0 and numbers["leaking_test_images"]["n"] == (table.role == "test").sum()
    assert {"iou_others", "lead_others"} <= numbers.keys()
    assert not {"iou_leaking", "lead_leaking", "lead_leaking_minus_others"} & numbers.keys()
    (claim,) = [entry for entry in written["claims"] if entry["id"] == "ramesh2021.iou.mask_rcnn.xrays_only"]
    assert not claim["comparable"] and "split patient_grouped for printed" in claim["why"]
    scores = pd.read_csv(folder / "scores.csv", dtype={"case": str})
    assert set(scores.case) == set(table.case[table.role == "test"])


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_only_images_of_covid_19_are_tested_where_that_is_asked_for(tmp_path, seed):
    names = run(tmp_path / STAGE, "leak", split="covid_only", seed=seed)
    covid = names["cases"].set_index("case").covid
    tested = names["table"].case[names["table"].role == "test"]
    assert len(tested) and covid[tested].all() and not covid.all()
    assert names["counts"]["test"] == len(tested)


def test_who_teaches_lungs_is_no_test_patient_and_they_are_no_more_than_wanted(earlier):
    """Also where patients leak: one is tested here that has another image in training."""
    train = earlier["train"]
    leaking = next(one for one in train if sum(one.patient == other.patient for other in train) > 1)
    test = [*earlier["test"], leaking]
    (cell,) = [source for source in CODE if "def lung_pictures(" in source]
    taught = {}
    for most in (500, 6):
        names = {**earlier, "test": test, "lung_images": most}
        exec(cell, names)
        taught[most] = names["lung_pictures"]()
        assert {picture.patient for picture in test}.isdisjoint(picture.patient for picture in taught[most])
    of_v7 = {picture.name for picture in taught[500]} - set(earlier["table"].case)
    assert of_v7 and 0 < len(taught[6]) <= 6 < len(taught[500])


def test_leaking_images_and_the_others_are_scored_apart(earlier, tmp_path):
    """Whichever leak: the two groups are all images with a lesion, and their means are those of the table of all."""
    (cell,) = [source for source in CODE if "lead_leaking_minus_others" in source]
    with_lesion = earlier["both"].dropna()
    leaking = with_lesion.iloc[: max(1, len(with_lesion) // 3)]
    stage = results.open_stage(STAGE, str(tmp_path / STAGE), data=earlier["data"], seed=earlier["seed"])
    exec(cell, {**earlier, "stage": stage, "leak": replace(earlier["leak"], affected=tuple(leaking.case))})
    table = pd.read_csv(stage.folder / "tables" / "leaking.csv", index_col="images")
    assert table.n.to_dict() == {"leaking": len(leaking), "others": len(with_lesion) - len(leaking)}
    assert np.isclose(table.whole_lung["leaking"], leaking["whole lung"].mean())
    for column, mean in (("iou", earlier["model_row"].iou), ("whole_lung", earlier["lung"].iou), ("lead", earlier["ahead"])):
        assert np.isclose(np.average(table[column], weights=table.n), mean)
    numbers = {entry["name"]: entry for entry in json.loads((stage.folder / "results.json").read_text())["numbers"]}
    difference = numbers["lead_leaking_minus_others"]
    assert np.isclose(difference["value"], table.lead["leaking"] - table.lead["others"])
    assert (difference["ci"] is None) == (with_lesion.patient.nunique() == 1)


def test_weights_of_an_earlier_run_are_where_another_begins(earlier, tmp_path):
    file = earlier["stage"].folder / "checkpoints" / f"xrays_{earlier['seed']}.weights.h5"
    names = run(tmp_path / STAGE, "found", start=str(file))
    of_file, of_earlier = (inference.find(model, names["test"], names["shape"]) for model in (names["model"], earlier["model"]))
    assert sum(len(one.boxes) for one in of_earlier)
    for one, other in zip(of_file, of_earlier, strict=True):
        np.testing.assert_allclose(one.boxes, other.boxes, atol=1e-3)
        np.testing.assert_allclose(one.scores, other.scores, atol=1e-5)


def test_a_lesson_on_lungs_is_not_taken_from_a_stage_that_had_none(earlier):
    folder = earlier["stage"].folder.parent / "mask_rcnn_ten_xrays"
    with pytest.raises(InputError, match="mask_rcnn_xrays has not learned lungs with these seeds"):
        run(folder, "found", training_set="ten_xrays", start="lungs", lungs_from=STAGE)


@pytest.mark.parametrize("named", [{"lungs_from": STAGE}, {"compare_with": [STAGE]}, {"training_set": "mixed"}])
def test_an_earlier_stage_must_have_been_split_alike(earlier, named):
    folder = earlier["stage"].folder.parent / "mask_rcnn_ten_xrays"
    chosen = {"training_set": "ten_xrays", **named}
    assert run(folder, "leak", **chosen)["table"].equals(earlier["table"])
    with pytest.raises(InputError, match="mask_rcnn_xrays was trained and tested on other images"):
        run(folder, "leak", **chosen, seed=earlier["seed"] + 1)


def test_test_images_without_any_lesion_are_refused_before_anything_is_trained(tmp_path, phantom_smoke):
    folder = tmp_path / "data" / X_RAYS
    shutil.copytree(phantom_smoke / X_RAYS, folder)
    cases = datasets.open(X_RAYS, tmp_path / "data").cases()
    split = splits.ramesh2021(cases, TINY["split"], seed=0)
    tested = cases.set_index("case").image[split.case[split.role == "test"]].map(lambda file: Path(file).name)
    annotations = pd.read_csv(folder / "structure.csv", dtype=str)
    lesion = annotations["Template Name"].str.contains("Ground Glass|Consolidation")
    annotations[~(lesion & annotations.Filename.isin(tested))].to_csv(folder / "structure.csv", index=False)
    with pytest.raises(InputError, match=f"None of {len(tested)} test X-rays has a lesion"):
        run(tmp_path / STAGE, data=str(tmp_path / "data"))
    assert not (tmp_path / STAGE / "checkpoints").exists()
