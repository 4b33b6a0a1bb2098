"""The notebooks keep to one form: what a reader of one knows holds for the next."""

import ast
import json
import re
from pathlib import Path

import pytest

from covidcxr.parameters import read_parameters

NOTEBOOKS = sorted((Path(__file__).resolve().parent.parent / "notebooks").glob("*.ipynb"))
OPENING = ("**You will learn**", "**You need**", "**Takes**", "**Regenerates**", "Nothing in this study is for clinical use.")
KINDS = ("Recall.", "Change something.", "Open.")
WITHOUT_SIDES = {"hulls", "targets"}  # a region by itself, and a picture that may be mirrored
UNIFORM = {"gray", "viridis", "inferno", "magma"}  # colour maps whose brightness rises evenly
UNITS = r"\b(HU|mm|mm²|cm|pixels|seconds|MB|voxels|points)\b|%"
COUNTED_OR_DIMENSIONLESS = (
    r"epoch|step|slice|regions|triangles|instances|projections|images|patients|claims|lungs|"
    r"\b(iou|dice|auc|ap50|ppv|fpr|tpr|brier)\b|loss|entropy|score|threshold|ratio|share|rate|risk|probability|recall|precision|"
    r"sensitivity|specificity|predictive value|grey value|interval|area under"
)


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
    places = [opening.find(phrase) for phrase in OPENING]
    assert -1 not in places and places == sorted(places)
    assert source(cells[1]).startswith("## Parameters") and cells[2] is code(cells)[0]
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
    assert re.findall(r"^[123]\. \*(.*?)\*", exercises, flags=re.MULTILINE) == list(KINDS)
    solutions = [cell for cell in code(cells) if "solution" in tags(cell)]
    assert len(solutions) == 3 and all(cell["metadata"]["jupyter"]["source_hidden"] for cell in solutions)
    assert "## Summary" in prose and "Read next" in prose
    assert source(code(cells)[-1]).strip().startswith("stage.finish()")


@pytest.mark.parametrize(
    ("path", "following"), list(zip(NOTEBOOKS, [*NOTEBOOKS[1:], None], strict=True)), ids=lambda path: path and path.stem
)
def test_each_leads_on_to_the_next(path, following):
    way_on = source(json.loads(path.read_text())["cells"][-1])
    assert way_on.startswith("**Read next:**")
    assert re.findall(r"\]\((.*?)\)", way_on)[0] == (following.name if following else "README.md")


def test_prose_is_never_far_from_code(cells):
    alone = 0
    for cell in cells:
        alone = alone + 1 if cell["cell_type"] == "code" and "solution" not in tags(cell) else 0
        assert alone <= 3, source(cell)[:100]
    text = "\n".join(source(cell) for cell in cells if cell["cell_type"] == "markdown")
    assert len(re.findall(r"\bexpect|what you see|look at|look for", text, flags=re.IGNORECASE)) >= 5


def test_every_figure_is_recorded_with_alt_text(cells):
    for cell in code(cells):
        assert "plt.show()" not in source(cell)
        for call in [node for node in ast.walk(ast.parse(source(cell))) if isinstance(node, ast.Call)]:
            if isinstance(call.func, ast.Attribute) and call.func.attr == "save_figure":
                named = {keyword.arg: keyword.value for keyword in call.keywords}
                assert {"caption", "alt"} <= set(named)
                assert ast.unparse(named["alt"]) != ast.unparse(named["caption"])
                assert len(ast.unparse(named["alt"]).split()) >= 5, "a description, not a name"
                if ast.unparse(call.args[0]).strip("'") not in WITHOUT_SIDES and "kind" in named:
                    assert shows_sides(source(cell)), f"{ast.unparse(call.args[0])}: which side is the patient's right?"


def shows_sides(text: str) -> bool:
    return "mark_sides(" in text or ("show_grid(" in text and "sides=False" not in text) or re.search(r"= panels\(", text)


def keywords(cells, *names):
    """Values of the keywords of these names in all calls of a notebook."""
    trees = [ast.walk(ast.parse(source(cell))) for cell in code(cells)]
    calls = [node for tree in trees for node in tree if isinstance(node, ast.Call)]
    return [keyword.value for call in calls for keyword in call.keywords if keyword.arg in names]


def strings(node) -> list[str]:
    return [part.value for part in ast.walk(node) if isinstance(part, ast.Constant) and isinstance(part.value, str)]


def test_axes_name_a_unit_or_what_has_none(cells):
    for label in keywords(cells, "xlabel", "ylabel"):
        text = "".join(strings(label))
        if isinstance(label, (ast.Constant, ast.JoinedStr)) and text:
            assert re.search(UNITS, text) or re.search(COUNTED_OR_DIMENSIONLESS, text.lower()), text


def test_colours_are_those_of_the_house(cells):
    for value in keywords(cells, "color", "colors", "facecolor", "edgecolor", "markerfacecolor"):
        if isinstance(value, ast.Constant):
            assert value.value in ("white", "black", "none") or neutral(value.value), value.value
    for value in keywords(cells, "cmap"):
        assert not isinstance(value, ast.Constant) or value.value in UNIFORM, value.value


def neutral(colour: str) -> bool:
    """Whether a colour is a grey, which no eye takes for another."""
    parts = [int(colour[k : k + 2], 16) for k in (1, 3, 5)]
    return max(parts) - min(parts) < 20
