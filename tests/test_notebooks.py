"""The notebooks keep to one form: what a reader of one knows holds for the next."""

import ast
import json
import re
from pathlib import Path

import pytest

from covidcxr.parameters import read_parameters

NOTEBOOKS = sorted((Path(__file__).resolve().parent.parent / "notebooks").glob("*.ipynb"))
OPENING = ("You will learn", "You need", "Takes", "Regenerates")


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def cells(request):
    return json.loads(request.param.read_text())["cells"]


def code(cells):
    return [cell for cell in cells if cell["cell_type"] == "code"]


def source(cell) -> str:
    return "".join(cell["source"])


def tags(cell) -> list[str]:
    return cell["metadata"].get("tags", [])


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_parameters_are_typed_and_each_says_what_it_is(path):
    parameters = read_parameters(path)
    assert {"data", "seed", "stage_dir"} <= set(parameters)
    assert all(parameter.comment for parameter in parameters.values())


def test_outputs_are_stripped_and_cells_have_ids(cells):
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code(cells))
    assert len({cell["id"] for cell in cells}) == len(cells)


def test_the_opening_is_always_the_same(cells):
    title, opening = source(cells[0]).partition("\n")[::2]
    assert title.startswith("# ") and title.endswith("?"), "the title is a question"
    assert all(f"**{phrase}**" in opening for phrase in OPENING)
    assert "parameters" in tags(code(cells)[0]), "parameters come first"
    assert "results.open_stage(" in source(code(cells)[1]), "then one cell of imports, which opens the stage"


def test_all_imports_stand_in_one_cell(cells):
    for cell in code(cells)[2:]:
        if "solution" not in tags(cell):
            assert not [node for node in ast.walk(ast.parse(source(cell))) if isinstance(node, (ast.Import, ast.ImportFrom))]


def test_cells_are_short_and_prose_balances_code(cells):
    assert 30 <= len(cells) <= 45
    lists, steps = code(cells)[:2], code(cells)[2:]  # parameters and imports are looked up, not read
    assert max(len(source(cell).splitlines()) for cell in lists) <= 30
    assert max(len(source(cell).splitlines()) for cell in steps) <= 25
    assert 0.7 <= (len(cells) - len(code(cells))) / len(code(cells)) <= 2


def test_the_end_holds_exercises_with_folded_solutions_a_summary_and_the_way_on(cells):
    prose = "\n".join(source(cell) for cell in cells if cell["cell_type"] == "markdown")
    exercises = prose.partition("## Exercises")[2].partition("## ")[0]
    assert len(re.findall(r"^[123]\. ", exercises, flags=re.MULTILINE)) == 3
    solutions = [cell for cell in code(cells) if "solution" in tags(cell)]
    assert len(solutions) == 3 and all(cell["metadata"]["jupyter"]["source_hidden"] for cell in solutions)
    assert "## Summary" in prose and "Read next" in prose
    assert source(code(cells)[-1]).strip().startswith("stage.finish()")


def test_every_figure_is_recorded_with_alt_text(cells):
    for cell in code(cells):
        assert "plt.show()" not in source(cell)
        for call in [node for node in ast.walk(ast.parse(source(cell))) if isinstance(node, ast.Call)]:
            if isinstance(call.func, ast.Attribute) and call.func.attr == "save_figure":
                assert {"caption", "alt"} <= {keyword.arg for keyword in call.keywords}
