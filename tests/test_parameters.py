"""The parameters cell as the only schema: what is read, what is refused, and how the refusal helps."""

import pytest
from conftest import write_notebook

from covidcxr import study
from covidcxr.errors import ParameterError
from covidcxr.parameters import check_names, read_parameters

CELL = """
    from typing import Literal
    data: str = "phantom:demo"  # where the images come from
    epochs: int = 3
    rate: float = 1e-3  # learning rate
    flip: bool = True
    modes: list[str] = ["sum", "mean"]
    sizes: list[float] = [1, 2.5]
    view: Literal["frontal", "lateral"] = "frontal"
"""


@pytest.fixture
def parameters(tmp_path):
    write_notebook(tmp_path / "lesson.ipynb", [("parameters", CELL), "print(epochs)"])
    return read_parameters(tmp_path / "lesson.ipynb")


def test_names_types_defaults_and_comments_are_read(parameters):
    assert {name: parameter.default for name, parameter in parameters.items()} == {
        "data": "phantom:demo", "epochs": 3, "rate": 1e-3, "flip": True, "modes": ["sum", "mean"], "sizes": [1.0, 2.5],
        "view": "frontal",
    }
    assert parameters["rate"].comment == "learning rate"
    assert parameters["view"].annotation == "Literal['frontal', 'lateral']"


@pytest.mark.parametrize(("name", "value", "kept"), [
    ("epochs", 5, 5), ("rate", 1, 1.0), ("flip", False, False), ("modes", [], []), ("sizes", [3], [3.0]),
    ("view", "lateral", "lateral"),
])
def test_values_of_the_right_type_are_kept(parameters, name, value, kept):
    checked = parameters[name].check(value, "here")
    assert checked == kept and type(checked) is type(kept)


@pytest.mark.parametrize(("name", "value"), [
    ("epochs", 5.0), ("epochs", True), ("epochs", "5"), ("rate", "fast"), ("rate", False), ("flip", 1), ("flip", "yes"),
    ("data", 3), ("data", None), ("modes", "sum"), ("modes", [1]), ("sizes", ["a"]), ("view", "fronta"), ("view", 1),
])
def test_values_of_another_type_are_refused_by_name(parameters, name, value):
    with pytest.raises(ParameterError, match=rf"^here: {name} must be .*got"):
        parameters[name].check(value, "here")


def test_a_number_that_yaml_takes_for_text_is_explained(parameters):
    with pytest.raises(ParameterError, match=r"write it with a dot, as in 1\.0e-03"):
        parameters["rate"].check("1e-3", "params/demo.yaml")


@pytest.mark.parametrize(("name", "text", "value"), [
    ("rate", "1e-4", 1e-4), ("epochs", "7", 7), ("flip", "false", False), ("modes", "[mean]", ["mean"]), ("data", "1234", "1234"),
    ("view", "lateral", "lateral"),
])
def test_texts_of_the_command_line_are_parsed(parameters, name, text, value):
    assert parameters[name].parse(text, "--set") == value


@pytest.mark.parametrize(("name", "text"), [
    ("rate", "fast"), ("epochs", "1.5"), ("flip", "maybe"), ("modes", "[a"), ("view", "top"),
])
def test_texts_that_do_not_fit_are_refused(parameters, name, text):
    with pytest.raises(ParameterError, match=f"--set: {name} must be"):
        parameters[name].parse(text, "--set")


def test_a_mistyped_name_gets_a_suggestion():
    with pytest.raises(ParameterError, match="unknown parameter 'epoch'. Did you mean 'epochs'"):
        check_names(["epoch"], ["epochs", "rate"], "parameter", "demo.yaml")


@pytest.mark.parametrize(("cells", "message"), [
    (["print(1)"], "has 0 cells tagged"),
    ([("parameters", "a: int = 1"), ("parameters", "b: int = 1")], "has 2 cells tagged"),
    ([("parameters", "a = 1")], r"line 1: expected `name: type = constant`, found `a = 1`"),
    ([("parameters", "a: int = 1\nb: int = a")], "line 2: the default `a` is not a constant"),
    ([("parameters", "a: dict = {}")], "type dict is not among"),
    ([("parameters", "a: int = 'x'")], "a must be int, got 'x'"),
    ([("parameters", "a: int =")], "is not Python"),
])
def test_a_parameters_cell_that_is_no_schema_is_refused(tmp_path, cells, message):
    write_notebook(tmp_path / "lesson.ipynb", cells)
    with pytest.raises(ParameterError, match=message):
        read_parameters(tmp_path / "lesson.ipynb")


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"cells": 3}', "no json"])
def test_a_file_that_is_no_notebook_is_refused_by_name(tmp_path, content):
    (tmp_path / "lesson.ipynb").write_text(content)
    with pytest.raises(ParameterError, match="lesson.ipynb is no notebook"):
        read_parameters(tmp_path / "lesson.ipynb")


def test_the_profiles_of_the_kit_are_those_that_it_describes():
    """And no other file of params/ passes for one."""
    assert list(study.describe_profiles()) == list(study.PROFILES)
    assert not [line for line in study.describe_profiles().values() if "unknown key" in line]
