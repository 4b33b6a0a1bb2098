"""What counts as the code of a stage, and what counts as a change of it."""

import pytest
from conftest import write_notebook

from covidcxr import fingerprint

CELLS = [("parameters", "seed: int = 0"), "from covidcxr import projection\nprint(projection)"]


@pytest.fixture
def notebook(tmp_path):
    def write(*cells):
        write_notebook(tmp_path / "lesson.ipynb", list(cells))
        return fingerprint.code_parts(tmp_path / "lesson.ipynb")

    return write


def test_modules_are_followed_through_imports(notebook):
    parts = notebook(*CELLS)
    assert {"lesson.ipynb", "covidcxr.projection", "covidcxr.volumes", "covidcxr.errors"} <= set(parts)
    assert "covidcxr.report" not in parts


def test_the_phantom_is_data_and_no_code(notebook):
    parts = notebook(*CELLS, "from covidcxr import datasets, phantom")
    assert "covidcxr.datasets" in parts and not [name for name in parts if name.startswith("covidcxr.phantom")]


@pytest.mark.parametrize("same", [
    "from covidcxr import projection  # a comment\n\nprint( projection )",
    "from covidcxr import projection\nprint(projection)\n",
])
def test_comments_and_blanks_change_nothing(notebook, same):
    assert notebook(*CELLS) == notebook(CELLS[0], same)


def test_prose_and_defaults_of_parameters_change_nothing(notebook):
    """Defaults travel as resolved parameters, so that they are not counted twice."""
    assert notebook(*CELLS) == notebook("## Prose", ("parameters", "seed: int = 1"), CELLS[1])


@pytest.mark.parametrize("other", ["from covidcxr import projection\nprint(projection, 1)", "from covidcxr import projection"])
def test_code_changes_the_notebook_and_nothing_else(notebook, other):
    then, now = notebook(*CELLS), notebook(CELLS[0], other)
    assert {name for name in then if then[name] != now[name]} == {"lesson.ipynb"}


def test_docstrings_of_modules_change_nothing(tmp_path):
    forms = set()
    for text in ("Say one thing.", "Say another."):
        path = tmp_path / f"module{len(text)}.py"
        path.write_text(f'def f():\n    """{text}"""\n    return 1\n')
        forms.add(fingerprint._module_facts("covidcxr.module", path, 0)[0])
    assert len(forms) == 1


@pytest.mark.parametrize(("settings", "chosen", "backend"), [
    ('{"backend": "torch"}', "jax", "jax"), ('{"backend": "torch"}', "", "torch"), ("{}", "", "tensorflow"),
    ("{", "", "tensorflow"), (None, "", "tensorflow"),
])  # fmt: skip
def test_the_backend_is_the_one_that_keras_takes(tmp_path, monkeypatch, settings, chosen, backend):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setenv("KERAS_BACKEND", chosen)
    if settings is not None:
        (tmp_path / "keras.json").write_text(settings)
    assert fingerprint.keras_backend() == backend
