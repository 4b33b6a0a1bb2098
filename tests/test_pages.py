"""What the pages say must hold: links lead somewhere, commands are understood, tables name what is there."""

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
import yaml
from nbconvert.nbconvertapp import NbConvertApp

from covidcxr import __main__ as command_line
from covidcxr import claims, datasets, phantom
from covidcxr.parameters import read_parameters
from covidcxr.study import Plan

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
MAIN, COURSE = ROOT / "README.md", ROOT / "notebooks" / "README.md"
PAGES = [MAIN, COURSE, *sorted((ROOT / "tests").glob("*/*.md")), *NOTEBOOKS]
OWN_PROFILE = "mine"  # the profile that the course page writes


def prose(path: Path) -> str:
    """The text of a page, or of a notebook's text cells."""
    if path.suffix == ".md":
        return path.read_text()
    cells = json.loads(path.read_text())["cells"]
    return "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")


def headings(path: Path) -> list[str]:
    return re.findall(r"^#+ (.+)$", re.sub(r"^ *```.*?^ *```", "", prose(path), flags=re.MULTILINE | re.DOTALL), re.MULTILINE)


def blocks(path: Path, language: str) -> list[str]:
    """Fenced blocks of a language, without the indent of a list."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^ *```", prose(path), flags=re.MULTILINE | re.DOTALL)
    return [re.sub(rf"^{indent}", "", text, flags=re.MULTILINE) for indent, text in found]


def rows(path: Path, heading: str) -> list[list[str]]:
    """The cells of the first table below a heading, without its head."""
    below = prose(path).partition(f"# {heading}\n")[2]
    table = re.search(r"(?:^\|.*\n)+", below, flags=re.MULTILINE)[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table]


def commands(path: Path) -> list[str]:
    """Every command line of a page, in blocks and in the text."""
    shell = "\n".join(blocks(path, "sh")).replace("\\\n", " ")
    return [*shell.splitlines(), *re.findall(r"`((?:python -m covidcxr|make|papermill) [^`]*)`", prose(path))]


def words(line: str) -> list[str]:
    return shlex.split(line, comments=True)


@pytest.fixture
def study_with_own_profile(tmp_path, monkeypatch):
    """The study, and in its params/ the profile that the course page tells to write."""
    shutil.copytree(ROOT / "params", tmp_path / "params")
    (tmp_path / "notebooks").symlink_to(ROOT / "notebooks")
    (text,) = blocks(COURSE, "yaml")
    (tmp_path / "params" / f"{OWN_PROFILE}.yaml").write_text(text)
    monkeypatch.setenv("COVIDCXR_HOME", str(tmp_path))


@pytest.mark.parametrize("path", PAGES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(path)):
        if not re.match(r"[a-z]+:", target):
            file, _, anchor = target.partition("#")
            there = (path.parent / file).resolve() if file else path
            assert there.exists(), target
            slugs = [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings(there)] if anchor else []
            assert anchor in ["", *slugs], target


@pytest.mark.parametrize("path", PAGES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_commands_are_understood(path, study_with_own_profile):
    """By the real parsers, against the real study; nothing is run."""
    targets = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1].split()
    for line in commands(path):
        match words(line):
            case ["python", "-m", "covidcxr", *rest]:
                own = rest[: rest.index("--")] if "--" in rest else rest
                understand(command_line._parser().parse_args([datasets.NAMES[0] if word == "NAME" else word for word in own]))
            case ["make", target, *settings]:
                assert target in targets and all(re.fullmatch(r"[A-Z]+=.+", setting) for setting in settings), line
            case ["papermill", notebook, _, *options]:
                known = read_parameters(ROOT / notebook)
                assert all(options[k + 1] in known for k, word in enumerate(options) if word == "-p"), line
    for override in re.findall(r"`--set ([^`]+)`", prose(path)):
        Plan.load("demo", shlex.split(override))


def understand(parsed):
    if parsed.command == "data":
        assert all(datasets.check_name(name) for name in parsed.names)
    else:
        plan = Plan.load(parsed.profile, getattr(parsed, "overrides", []))
        assert all(plan.stage(name) for name in [*getattr(parsed, "stages", []), *getattr(parsed, "force", [])])


@pytest.mark.parametrize(("page", "heading"), [(MAIN, "Read it"), (COURSE, "The notebooks, in order")])
def test_a_page_lists_every_notebook_with_its_question(page, heading):
    listed = [(re.sub(r"\[(\d\d)\].*", r"\1", row[0])[:2], row[1]) for row in rows(page, heading)]
    assert listed == [(path.stem[:2], headings(path)[0]) for path in NOTEBOOKS]


def test_the_course_says_what_the_notebooks_say_of_their_time_and_what_they_need():
    plan = Plan.load("paper")
    number_of = {stage.name: stage.notebook.stem[:2] for stage in plan.stages}
    for path, (link, _, _, time, after) in zip(NOTEBOOKS, rows(COURSE, "The notebooks, in order"), strict=True):
        own = [stage for stage in plan.stages if stage.notebook.name == path.name]
        needed = {number_of[name] for stage in own for name in stage.needs} - {path.stem[:2]}
        assert path.name in link
        assert re.search(r"\*\*Takes\*\* \| (.*) \|", prose(path))[1].startswith(time), path.name
        assert after == (", ".join(sorted(needed)) or "–"), path.name


def test_the_readme_lists_every_public_data_set_as_the_parameters_describe_it():
    entries = yaml.safe_load((ROOT / "params" / "datasets.yaml").read_text())["datasets"]
    public = {name: entry for name, entry in entries.items() if entry["access"] != "own"}
    stages, listed = Plan.load("paper").stages, rows(MAIN, "Real data")
    assert [name for name, *_ in listed] == [f"`{name}`" for name in public]
    for (_, what, source, licence, way, used), (name, entry) in zip(listed, public.items(), strict=True):
        cloned = re.fullmatch(rf"git clone \S+ data/{name}", entry["how"].strip())
        ways = {"open": "`data fetch`", "registration": "registration", "manual": "`git clone`" if cloned else "by hand"}
        users = {stage.notebook.stem[:2] for stage in stages if name in stage.datasets + stage.optional_datasets}
        assert (what, licence, way) == (entry["title"], entry["licence"], ways[entry["access"]]), name
        assert re.findall(r"\((\S+)\)", source) == re.findall(r"https?://[^\s;]+", entry["source"]), name
        assert users >= {"00"} and used == ", ".join(sorted(users - {"00"})), name


@pytest.mark.parametrize("heading", ["Learning goals", "Exercises"])
def test_the_teacher_finds_every_notebook(heading):
    assert [row[0] for row in rows(COURSE, heading)] == [f"[{path.stem[:2]}]({path.name})" for path in NOTEBOOKS]


def test_plans_name_notebooks_that_exist_and_the_semester_has_all_of_them():
    there = {path.stem[:2] for path in NOTEBOOKS}
    assert {row[1] for row in rows(COURSE, "A semester")} - {"–"} == there
    assert {number for row in rows(COURSE, "Shorter ways") for number in re.findall(r"\b\d\d\b", row[1])} <= there


def test_mistakes_are_known_ones_and_are_shown_where_the_page_says():
    known = {problem.id for paper in claims.load().papers.values() for problem in paper.inconsistencies}
    for _, names, places in rows(COURSE, "Mistakes worth teaching"):
        assert names and set(re.findall(r"`([^`]+)`", names)) <= known, names
        for place in places.split("; "):
            number, sections = place[:2], place[3:]
            (path,) = (path for path in NOTEBOOKS if path.stem.startswith(number))
            assert sections.startswith("*") and sections.endswith("*"), place
            for section in sections.strip("*").split("*, *"):
                assert section in headings(path), f"{path.name}: {section}"


def test_what_is_handed_out_has_no_solutions(tmp_path):
    (line,) = [line for line in commands(COURSE) if "nbconvert" in line]
    options = words(line)[2 : words(line).index("--output-dir")]
    converter = NbConvertApp()
    converter.initialize([*options, "--output-dir", str(tmp_path), str(NOTEBOOKS[0])])
    converter.start()
    before, after = (json.loads(path.read_text())["cells"] for path in (NOTEBOOKS[0], tmp_path / NOTEBOOKS[0].name))
    assert len(before) - len(after) == 3
    assert not [cell for cell in after if "solution" in cell["metadata"].get("tags", [])]


def test_python_of_the_course_page_does_what_it_says(tmp_path, monkeypatch, capsys):
    cohort, compare = sorted(blocks(COURSE, "python"), key=lambda text: "json" in text)
    made = []
    monkeypatch.setattr(phantom, "write_cohort", lambda folder, spec: made.append(spec))
    exec(cohort, {})
    assert phantom.CohortSpec.from_dict(made[0].as_dict()) == made[0] != phantom.SIZES["smoke"]
    monkeypatch.chdir(tmp_path)
    for folder, value in (("theirs", 1), ("outputs/interactive/ct_projection", 2)):
        Path(folder).mkdir(parents=True)
        Path(folder, "results.json").write_text(json.dumps({"numbers": [{"name": "one", "value": value}]}))
    exec(compare, {})
    assert capsys.readouterr().out == "{'one': (1, 2)}\n"
