"""What a notebook may record, and what is refused."""

import json
import shlex

import matplotlib
import numpy as np
import pandas as pd
import pytest

from covidcxr import datasets, results
from covidcxr.errors import CovidcxrError, InputError

matplotlib.use("Agg")
CLAIM = "ramesh2021.data.cxr_total"


@pytest.fixture
def stage(tmp_path):
    return results.open_stage("start_here", str(tmp_path / "demo" / "start_here"), data="phantom:smoke", seed=7)


def content(stage) -> dict:
    return json.loads((stage.folder / "results.json").read_text())


def figure():
    import matplotlib.pyplot as plt

    drawn, axis = plt.subplots()
    axis.plot([0, 1], label="a line")
    axis.legend()
    return drawn


def test_a_claim_is_recorded_with_all_that_stands_behind_it(stage):
    stage.record(CLAIM, np.int64(8), ci=(7, np.float32(9)), ci_method="bootstrap", n=8, trivial={"none": 0.5}, comparable=False,
                 why="few")
    assert content(stage)["claims"] == [{
        "id": CLAIM, "value": 8, "ci": [7, 9.0], "ci_method": "bootstrap", "n": 8, "n_unit": "images", "seeds": [7],
        "comparable": False, "why": "few", "trivial": {"none": 0.5},
    }]
    assert content(stage)["data"] == "phantom"


def test_a_number_names_the_seeds_behind_it(stage):
    stage.number("one", 0.1, what="of one training", n=3)
    stage.number("mean", 0.1, what="a mean over two trainings", n=3, seeds=[7, 8])
    assert [entry["seeds"] for entry in content(stage)["numbers"]] == [[7], [7, 8]]


def test_a_cell_run_twice_records_once_and_only_finish_completes(stage):
    stage.number("share", 0.1, what="a share", n=3)
    stage.finish()
    assert content(stage)["finished"]
    stage.number("share", 0.2, what="a share", n=3)
    assert [entry["value"] for entry in content(stage)["numbers"]] == [0.2]
    assert not content(stage)["finished"]


@pytest.mark.parametrize(("arguments", "message"), [
    ({"claim_id": "ramesh2021.data.cxr_totle"}, "Did you mean ramesh2021.data.cxr_total"),
    ({"value": float("nan")}, "not a finite number"),
    ({"value": "eight"}, "not a finite number"),
    ({"value": None}, "needs a reason"),
    ({"comparable": False}, "needs a reason"),
    ({"ci": (9, 7), "ci_method": "bootstrap"}, "low <= high"),
    ({"ci": (7, 9)}, "needs `ci_method`"),
    ({"trivial": {"none": float("inf")}}, "not a finite number"),
])
def test_what_could_mislead_is_refused(stage, arguments, message):
    with pytest.raises(InputError, match=message):
        stage.record(**{"claim_id": CLAIM, "value": 8, "n": 8, **arguments})
    assert content(stage)["claims"] == []


@pytest.mark.parametrize("name", ["", "Upper", "a b", "../up", "a/b"])
def test_names_of_files_are_plain(stage, name):
    with pytest.raises(InputError, match="can't name a result"):
        stage.save_table(name, pd.DataFrame({"a": [1]}), caption="a table")


def test_figures_carry_where_they_came_from_and_are_the_same_file_again(stage):
    def save():
        stage.save_figure("line", figure(), caption="A line.", alt="A line that rises.", reproduces="ramesh2021.figure1")
        return (stage.folder / "figures" / "line.svg").read_bytes()

    first = save()
    assert first == save()
    assert b"A line that rises. Stage start_here, data phantom:smoke, seed 7." in first
    entry = {"name": "line", "file": "figures/line.svg", "caption": "A line.", "alt": "A line that rises.", "kind": "chart",
             "reproduces": "ramesh2021.figure1"}
    assert content(stage)["figures"] == [entry]


def test_images_are_png_with_a_description(stage):
    from PIL import Image

    stage.save_figure("grid", figure(), caption="A grid.", alt="Grey images.", kind="image")
    with Image.open(stage.folder / "figures" / "grid.png") as picture:
        assert picture.info["Description"].startswith("Grey images. Stage start_here")


@pytest.mark.parametrize("text", [{"alt": " "}, {"caption": ""}])
def test_a_figure_without_words_is_refused(stage, text):
    with pytest.raises(InputError, match="must both say something"):
        stage.save_figure("line", figure(), **{"caption": "A line.", "alt": "A line.", **text})


def test_tables_are_read_back_as_they_were(stage):
    table = pd.DataFrame({"name": ["a, b", 'c "d"'], "value": [0.1, 2.0]})
    stage.save_table("scores", table, caption="Scores.")
    pd.testing.assert_frame_equal(pd.read_csv(stage.folder / "tables" / "scores.csv"), table)


def test_opening_again_removes_what_an_earlier_run_left(stage):
    stage.save_figure("line", figure(), caption="A line.", alt="A line.")
    again = results.open_stage("start_here", str(stage.folder), data="phantom:smoke", seed=7)
    assert content(again)["figures"] == [] and not (again.folder / "figures").exists()


def test_an_upstream_stage_must_be_finished(stage):
    first = stage.profile_dir / "ct_projection"
    with pytest.raises(CovidcxrError, match="python -m covidcxr run demo ct_projection"):
        stage.upstream("ct_projection")
    first.mkdir()
    (first / "run.json").write_text('{"status": "no-data"}')
    with pytest.raises(CovidcxrError, match="has not finished"):
        stage.upstream("ct_projection")
    (first / "run.json").write_text('{"status": "done", "parameters": {"data": "phantom:smoke"}}')
    assert stage.upstream("ct_projection") == first


def test_a_command_reaches_a_shell_as_it_is_meant():
    values = ["first.text=it's $HOME `f` \"q\" ; #", "first.number=2"]
    words = shlex.split(results.run_command("demo", "first", values))
    assert words == ["python", "-m", "covidcxr", "run", "demo", "first", "--set", values[0], "--set", values[1]]


def test_an_upstream_stage_of_other_data_is_refused(stage):
    first = stage.profile_dir / "ct_projection"
    first.mkdir()
    (first / "run.json").write_text('{"status": "done", "parameters": {"data": "real"}}')
    with pytest.raises(CovidcxrError, match="works on phantom:smoke, but .* was made from real"):
        stage.upstream("ct_projection")


def test_finished_results_are_not_opened_again(stage):
    (stage.folder / "run.json").write_text('{"status": "done"}')
    with pytest.raises(InputError, match="would be lost"):
        results.open_stage("start_here", str(stage.folder), data="phantom:smoke", seed=7)


def test_an_interval_that_can_not_be_had_is_none(stage):
    stage.number("share", 0.1, what="a share", n=1, ci=(float("nan"), float("nan")), ci_method="bootstrap")
    assert content(stage)["numbers"][0]["ci"] is None


def test_a_running_stage_finds_its_upstream_beside_the_finished_ones(tmp_path):
    running = results.open_stage("second", str(tmp_path / "demo" / ".partial" / "second"), data="real", seed=0)
    assert running.profile_dir == tmp_path / "demo"


def test_an_interactive_stage_takes_the_demo_for_upstream(tmp_path, monkeypatch):
    monkeypatch.setenv("COVIDCXR_OUTPUTS", str(tmp_path))
    interactive = results.open_stage("label_generation", data="phantom:demo", seed=0)
    assert interactive.folder == tmp_path / "interactive" / "label_generation"
    done = tmp_path / "demo" / "ct_projection"
    done.mkdir(parents=True)
    (done / "run.json").write_text('{"status": "done", "parameters": {"data": "phantom:demo"}}')
    assert interactive.upstream("ct_projection") == done
    by_hand = results.open_stage("ct_projection", data="phantom:demo", seed=0)
    assert interactive.upstream("ct_projection") == done, "not before its end"
    by_hand.finish()
    assert interactive.upstream("ct_projection") == by_hand.folder


def test_a_folder_that_holds_a_phantom_is_a_phantom(tmp_path, phantom_smoke, monkeypatch):
    assert results.data_kind("phantom:demo") == results.data_kind(str(phantom_smoke)) == "phantom"
    assert results.data_kind("real") == results.data_kind(str(tmp_path)) == "real"
    assert datasets.manifest("general_blockchain_cxr", str(phantom_smoke))["data"] == "phantom", "every record says the same"
    monkeypatch.setenv("COVIDCXR_DATA", str(phantom_smoke))
    assert results.data_kind("real") == datasets.manifest("general_blockchain_cxr", "real")["data"] == "phantom"


def test_a_folder_that_can_not_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="can't write to .*file/start_here"):
        results.open_stage("start_here", str(tmp_path / "file" / "start_here"), data="real", seed=0)


def test_settings_stand_beside_the_papers(stage):
    table = stage.record_settings(
        "ramesh2021.setting", {"epochs": 30, "anchor_ratios": (0.5, 1.0), "momentum": None, "batch_size": 4},
        {"momentum": "no such thing here"}, "scaled down",
    )
    assert table.to_dict("records") == [
        {"setting": "epochs", "paper": "30", "here": "30", "same": "yes"},
        {"setting": "anchor_ratios", "paper": "0.5, 1, 2", "here": "0.5, 1", "same": "no"},
        {"setting": "momentum", "paper": "0.9", "here": "–", "same": "no"},
        {"setting": "batch_size", "paper": "2", "here": "4", "same": "no"},
    ]
    recorded = {entry["id"].rpartition(".")[2]: (entry["comparable"], entry["why"]) for entry in content(stage)["claims"]}
    assert recorded == {
        "epochs": (True, ""), "anchor_ratios": (False, "scaled down"), "momentum": (False, "no such thing here"),
        "batch_size": (False, "scaled down"),
    }
