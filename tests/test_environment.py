"""The environment: one list of dependencies, the locks made from it, conda's file, the Makefile, and what an import costs."""

import ast
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import venv
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import covidcxr

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
MACHINES = [
    {"sys_platform": "linux", "platform_machine": "x86_64", "platform_system": "Linux", "os_name": "posix"},
    {"sys_platform": "linux", "platform_machine": "aarch64", "platform_system": "Linux", "os_name": "posix"},
    {"sys_platform": "darwin", "platform_machine": "arm64", "platform_system": "Darwin", "os_name": "posix"},
    {"sys_platform": "win32", "platform_machine": "AMD64", "platform_system": "Windows", "os_name": "nt"},
]
PYTHONS = [{"python_version": v, "python_full_version": f"{v}.2"} for v in ("3.11", "3.12", "3.13")]
ENVIRONMENTS = [{**machine, **python} for machine in MACHINES for python in PYTHONS]


def lock_lines(name: str) -> list[Requirement]:
    """The pins of a lock, without their hashes and remarks."""
    text = (ROOT / "locks" / f"{name}.txt").read_text(encoding="utf-8")
    return [Requirement(line.rstrip(" \\")) for line in text.splitlines() if line[:1].isalnum()]


def pins(name: str, environment: dict[str, str]) -> dict[str, Version]:
    """Package name -> version that a lock gives in an environment; two versions of one package are an error."""
    found: dict[str, Version] = {}
    for line in lock_lines(name):
        if line.marker is None or line.marker.evaluate(environment):
            (pin,) = line.specifier
            assert pin.operator == "==" and not pin.version.endswith("*"), f"locks/{name}.txt: {line} is no exact version"
            assert canonicalize_name(line.name) not in found, f"locks/{name}.txt holds {line.name} twice in {environment}"
            found[canonicalize_name(line.name)] = Version(pin.version)
    return found


def wanted(extras: list[str], environment: dict[str, str]) -> list[Requirement]:
    """What pyproject.toml asks for in an environment."""
    lines = [Requirement(line) for line in PROJECT["dependencies"] + [line for extra in extras for line in EXTRAS[extra]]]
    return [line for line in lines if line.marker is None or line.marker.evaluate(environment)]


def pip_section() -> list[str]:
    conda = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    (section,) = [part["pip"] for part in conda["dependencies"] if isinstance(part, dict)]
    return section


def uv(*arguments: str, **options) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "uv", *arguments], capture_output=True, text=True, cwd=ROOT, **options)


def would_install(python: Path, *arguments: str) -> dict[str, Version]:
    """Packages that the resolver would put beside the project into the virtual environment of `python`."""
    answer = uv("pip", "install", "--no-config", "--dry-run", "--python", str(python), *arguments)
    assert answer.returncode == 0, answer.stderr
    assert "+ covidcxr @ " in answer.stderr
    return {canonicalize_name(n): Version(v) for n, v in re.findall(r"^ \+ (\S+)==([^\s(]+)", answer.stderr, re.MULTILINE)}


@pytest.fixture(scope="module")
def plain_python(tmp_path_factory) -> Path:
    """Python of a new virtual environment that holds nothing but pip."""
    folder = tmp_path_factory.mktemp("plain") / "venv"
    venv.create(folder, with_pip=True)
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


@pytest.fixture(scope="module")
def package_index() -> None:
    """Skips where the package index can't be reached: a resolver has nothing to resolve from there."""
    env = {**os.environ, "UV_HTTP_TIMEOUT": "20"}
    probe = uv("pip", "compile", "--no-config", "--no-cache", "--quiet", "-", input="six\n", env=env)
    if probe.returncode != 0:
        pytest.skip(f"the package index is out of reach: {probe.stderr.strip().splitlines()[-1:]}")


# --- conda's file ---------------------------------------------------------------------------------------------------------------


def test_conda_brings_only_python_and_pip():
    conda = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    assert conda["name"] == "covidcxr"
    assert conda["channels"] == ["conda-forge"]
    names = [re.split(r"[ =<>]", part)[0] for part in conda["dependencies"] if isinstance(part, str)]
    assert names == ["python", "pip"]
    assert any(line.endswith(" .[gpu]") for line in pip_section()), "the pip section installs the project with its extra gpu"


def test_pip_reads_the_pip_section(tmp_path, plain_python, package_index):
    """pip itself takes the section, as conda hands it over: a requirements file beside environment.yml."""
    file = ROOT / f".condaenv.{tmp_path.name}.{os.getpid()}.requirements.txt"
    file.write_text("\n".join(pip_section()) + "\n", encoding="utf-8")
    try:
        # Without --no-deps, pip's dry run downloads every wheel in full, 3.5 GB here; the next test resolves them.
        command = [str(plain_python), "-m", "pip", "install", "--dry-run", "--no-deps", "-r", str(file)]
        answer = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    finally:
        file.unlink()
    assert answer.returncode == 0, answer.stderr
    assert f"Would install covidcxr-{covidcxr.__version__}" in answer.stdout


def test_the_pip_section_resolves_to_the_gpu_lock(tmp_path, plain_python, package_index):
    """Resolved into a plain environment with uv, which reads the metadata of wheels only."""
    file = tmp_path / "requirements.txt"
    file.write_text("\n".join(pip_section()).replace("locks/", f"{ROOT}/locks/") + "\n", encoding="utf-8")
    packages = would_install(plain_python, "-r", str(file))
    assert packages.items() <= pins("gpu", {}).items()
    assert {"tensorflow", "keras", "jupyterlab", "snakemake"} <= packages.keys()


INSTALLS = re.findall(r"pip install (-c locks/constraints\.txt -e [^`\n]+)", (ROOT / "README.md").read_text(encoding="utf-8"))
BRINGS = ["jax-cuda12-plugin", "snakemake-executor-plugin-slurm"]


@pytest.mark.parametrize(("line", "brings"), list(zip(INSTALLS, BRINGS, strict=True)))
def test_what_the_readme_tells_to_install_resolves_to_the_lock(line, brings, plain_python, package_index):
    """What the lock has is taken at its version; CUDA for JAX is not in it."""
    packages, locked = would_install(plain_python, *shlex.split(line)), pins("constraints", {})
    assert {brings, "keras", "snakemake"} <= packages.keys()
    assert {name: version for name, version in packages.items() if locked.get(name, version) != version} == {}


# --- locks ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("extra", ["cpu", "gpu", "jax"])
def test_a_lock_holds_the_whole_environment(extra, plain_python, package_index):
    """What the resolver would install for the project and its tests is what the lock holds, no more and no less."""
    packages = would_install(plain_python, "-c", "locks/constraints.txt", f".[{extra},test]")
    assert packages == pins(extra, {})


@pytest.mark.parametrize(
    ("lock", "extras"),
    [
        ("cpu", ["cpu", "test"]),
        ("gpu", ["gpu", "test"]),
        ("jax", ["jax", "test"]),
        ("constraints", ["cpu", "gpu", "jax", "test", "dev", "bench", "slurm"]),
    ],
)
def test_a_lock_meets_every_requirement_everywhere(lock, extras):
    for environment in ENVIRONMENTS:
        locked = pins(lock, environment)
        for line in wanted(extras, environment):
            version = locked.get(canonicalize_name(line.name))
            assert version is not None, f"locks/{lock}.txt lacks {line} in {environment}: run make lock"
            assert line.specifier.contains(version), f"locks/{lock}.txt has {version} for {line}: run make lock"


def test_locks_agree():
    for environment in ENVIRONMENTS:
        everything = pins("constraints", environment)
        for lock in ("cpu", "gpu", "jax"):
            assert pins(lock, environment).items() <= everything.items()


@pytest.mark.parametrize("lock", ["cpu", "gpu", "jax"])
def test_installed_files_are_checked_by_hash(lock):
    text = (ROOT / "locks" / f"{lock}.txt").read_text(encoding="utf-8")
    blocks = re.split(r"\n(?=[a-z0-9])", text)[1:]
    assert len(blocks) == len(lock_lines(lock)) > 100
    for block in blocks:
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", block), f"no hash: {block[:80]}"


def test_exactly_one_tensorflow():
    """tensorflow-cpu and tensorflow fill the same folder: with both, one is broken."""
    for environment in ENVIRONMENTS:
        for extra in ("cpu", "gpu"):
            assert len({"tensorflow", "tensorflow-cpu"} & pins(extra, environment).keys()) == 1, (extra, environment)
            asked = [line for line in wanted([extra], environment) if line.name.startswith("tensorflow")]
            assert len(asked) == 1, (extra, environment)
    assert any(name.startswith("nvidia-") for name in pins("gpu", ENVIRONMENTS[0]))
    assert not any(name.startswith("nvidia-") for environment in ENVIRONMENTS for name in pins("cpu", environment))


def test_jax_comes_without_tensorflow_and_the_others_without_jax():
    for environment in ENVIRONMENTS:
        assert {"jax", "jaxlib", "keras"} <= pins("jax", environment).keys()
        assert not {"tensorflow", "tensorflow-cpu"} & pins("jax", environment).keys()
        assert not {"jax", "jaxlib"} & (pins("cpu", environment).keys() | pins("gpu", environment).keys())


def test_one_version_number():
    assert PROJECT["version"] == covidcxr.__version__
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == covidcxr.__version__


def test_the_five_papers_are_cited():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    papers = yaml.safe_load((ROOT / "params" / "claims.yaml").read_text(encoding="utf-8"))["papers"]
    cited = {
        paper["title"]: (", ".join(f"{who['given-names']} {who['family-names']}" for who in paper["authors"]), paper["year"])
        for paper in citation["references"]
    }
    assert cited == {paper["title"]: (paper["authors"], paper["year"]) for paper in papers.values()}


# --- the package ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "forbidden"),
    [
        ("covidcxr", {"tensorflow", "keras", "numpy", "pandas", "matplotlib", "yaml"}),
        ("covidcxr.__main__", {"tensorflow", "keras", "pandas", "matplotlib", "scipy", "skimage", "shapely", "cv2", "nibabel"}),
    ],
)
def test_imports_stay_light(module, forbidden):
    code = f"import json, sys, {module}; print(json.dumps(sorted(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert not forbidden & set(json.loads(loaded))


def test_only_networks_import_keras():
    """A reader of data, a plot or the report need not wait for TensorFlow."""
    files = [file.relative_to(ROOT).with_suffix("") for file in (ROOT / "covidcxr").rglob("*.py") if file.name != "__main__.py"]
    networks = {"models", "maskrcnn", "decomposition", "gradcam", "training", "feeding"}
    files = [file for file in files if file.parts[1] not in networks]
    modules = [".".join(file.parts).removesuffix(".__init__") for file in files]
    assert len(modules) > 20
    code = f"import importlib, sys; [importlib.import_module(name) for name in {modules}]"
    code += "; print({'tensorflow', 'keras'} & set(sys.modules))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (answer.stdout.strip(), answer.returncode) == ("set()", 0), answer.stdout + answer.stderr


def imported_names(code: str) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.split(".")[0])
    return names


def test_everything_imported_is_declared():
    """What package, notebooks, tests and benchmarks import stands in pyproject.toml; that another package brings it is luck."""
    files = [file for part in ("covidcxr", "tests", "benchmarks") for file in (ROOT / part).rglob("*.py")]
    codes = {file: file.read_text(encoding="utf-8") for file in files}
    for file in (ROOT / "notebooks").glob("*.ipynb"):
        cells = json.loads(file.read_text(encoding="utf-8"))["cells"]
        codes[file] = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    declared = {canonicalize_name(Requirement(line).name) for line in sum(EXTRAS.values(), PROJECT["dependencies"])}
    providers = packages_distributions()
    own = {"covidcxr", *(file.stem for file in codes if file.suffix == ".py"), *(file.parent.name for file in codes)}
    undeclared = {
        f"{file.relative_to(ROOT)}: {name}"
        for file, code in codes.items()
        for name in imported_names(code) - own - sys.stdlib_module_names
        if not declared & {canonicalize_name(provider) for provider in providers.get(name, [name])}
    }
    assert undeclared == set()


def test_every_folder_of_the_package_is_a_package():
    """Else an installed copy would lack it, while the editable one works."""
    folders = {file.parent for file in (ROOT / "covidcxr").rglob("*.py")}
    assert [str(folder) for folder in sorted(folders) if not (folder / "__init__.py").is_file()] == []


def test_the_python3_kernel_is_this_environments(tmp_path):
    """Also where the user has a kernel of that name of their own."""
    if sys.prefix == sys.base_prefix and "CONDA_PREFIX" not in os.environ:
        pytest.skip("this Python is no virtual environment")
    own = tmp_path / ".local/share/jupyter/kernels/python3"
    own.mkdir(parents=True)
    spec = {"argv": ["/nowhere/python", "-m", "ipykernel", "-f", "{connection_file}"], "display_name": "mine"}
    (own / "kernel.json").write_text(json.dumps(spec))
    code = (
        "import sys; from jupyter_client.manager import KernelManager; kernel = KernelManager(kernel_name='python3');"
        "folder = kernel.kernel_spec.resource_dir; assert folder.startswith(sys.prefix), folder;"
        "assert kernel.format_kernel_cmd()[0] == sys.executable"
    )
    env = {k: v for k, v in os.environ.items() if not k.startswith(("JUPYTER", "XDG_"))} | {"HOME": str(tmp_path)}
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert answer.returncode == 0, answer.stderr


# --- the Makefile ---------------------------------------------------------------------------------------------------------------

needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="GNU make is not here")


def make(*arguments: str, accelerator: str | None = "cpu", path: str = "") -> subprocess.CompletedProcess:
    # Under `make test` the outer make hands its own settings down; they are not meant for this one.
    env = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "ACCELERATOR")}
    env["PATH"] = path + env["PATH"]
    choice = [] if accelerator is None else [f"ACCELERATOR={accelerator}"]
    return subprocess.run(["make", *choice, *arguments], capture_output=True, text=True, cwd=ROOT, env=env)


def script(path: Path, body: str) -> Path:
    path.write_text("#!/bin/sh\n" + body, encoding="utf-8")
    path.chmod(0o755)
    return path


@needs_make
def test_make_alone_lists_the_commands():
    listed = re.findall(r"^  make ([a-z-]+)", make().stdout, re.MULTILINE)
    expected = "demo smoke pilot test test-jax campaign lab lint lock bench setup clean-env"
    assert set(expected.split()) <= set(listed)


@needs_make
def test_an_old_python_is_named_and_refused(tmp_path):
    old = script(tmp_path / "python", 'case "$1" in --version) echo Python 3.9.2;; *) exit 1;; esac\n')
    answer = make("demo", f"VENV={tmp_path / 'env'}", f"PYTHON={old}")
    assert answer.returncode != 0
    assert "needs Python 3.11, 3.12 or 3.13" in answer.stderr and f"{old}: Python 3.9.2" in answer.stderr
    assert not (tmp_path / "env").exists()


@needs_make
def test_a_python_without_venv_says_what_to_install(tmp_path):
    bare = script(tmp_path / "python", 'case "$2" in *ensurepip*) exit 1;; *) exit 0;; esac\n')
    answer = make("demo", f"VENV={tmp_path / 'env'}", f"PYTHON={bare}")
    assert answer.returncode != 0 and "apt install python3-venv" in answer.stderr


@needs_make
def test_a_folder_that_is_no_environment_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    for target in ("setup", "clean-env"):
        answer = make(target, f"VENV={tmp_path}", f"PYTHON={sys.executable}")
        assert answer.returncode != 0 and "no virtual environment" in answer.stderr
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


@needs_make
def test_a_half_made_environment_is_made_again_and_a_ready_one_is_kept(tmp_path):
    env = tmp_path / "env"
    failing = script(
        tmp_path / "python",
        f'[ "$2" = venv ] || exec "{sys.executable}" "$@"\n'
        'for folder; do :; done; mkdir -p "$folder/bin"; touch "$folder/pyvenv.cfg"\n'
        'echo "exit 1" > "$folder/bin/python"; chmod +x "$folder/bin/python"\n',
    )
    assert make("setup", f"VENV={env}", f"PYTHON={failing}").returncode != 0  # its pip fails
    assert (env / "pyvenv.cfg").exists()
    up_to_date = ("-q", "setup", f"VENV={env}")
    assert make(*up_to_date).returncode == 1

    (env / "bin" / "python").unlink()
    (env / "bin" / "python").symlink_to(sys.executable)
    (env / ".locked-cpu").touch()
    (env / ".project").write_text(f"{ROOT}\n")
    (env / ".ready").touch()
    assert make(*up_to_date).returncode == 0
    assert make("-W", "locks/cpu.txt", *up_to_date).returncode == 1
    assert make("-W", "pyproject.toml", *up_to_date).returncode == 1
    assert make(*up_to_date, accelerator="gpu").returncode == 1
    (env / ".project").write_text("/elsewhere\n")
    assert make(*up_to_date).returncode == 1


@needs_make
@pytest.mark.skipif((sys.platform, platform.machine()) != ("linux", "x86_64"), reason="CUDA wheels exist for Linux x86-64")
@pytest.mark.parametrize(
    ("nvidia_smi", "lock"),
    [("echo 'GPU 0: NVIDIA A100'", "gpu"), ("echo 'No devices were found'", "cpu"), ("echo 'no driver' >&2; exit 9", "cpu")],
)
def test_cuda_wheels_where_a_gpu_is_found(tmp_path, nvidia_smi, lock):
    script(tmp_path / "nvidia-smi", nvidia_smi + "\n")
    plan = make("--dry-run", "setup", f"VENV={tmp_path / 'env'}", accelerator=None, path=f"{tmp_path}{os.pathsep}")
    assert f"--requirement locks/{lock}.txt" in plan.stdout


CALLED = {
    "demo": ["-m covidcxr run demo --cores "], "smoke": ["-m covidcxr run smoke --cores "], "test": ["-m pytest -n "],
    "campaign": ["-m pytest -m campaign "], "test-jax": ["KERAS_BACKEND=jax ", "-m pytest -n "],
    "lab": ["-m jupyterlab notebooks/00_start_here.ipynb"], "lint": ["-m ruff check .", "-m mypy"], "bench": ["benchmarks"],
    "setup": [],
}  # fmt: skip


@needs_make
def test_the_targets_that_pages_name_call_what_they_say(tmp_path):
    pages = "\n".join((ROOT / name / "README.md").read_text(encoding="utf-8") for name in ("", "notebooks", "outputs/reference"))
    assert set(re.findall(r"(?:^|`)make ([a-z-]+)", pages, re.MULTILINE)) == CALLED.keys()
    for target, calls in CALLED.items():
        plan = make("--dry-run", target, f"VENV={tmp_path / 'env'}")
        assert plan.returncode == 0 and "--requirement locks/" in plan.stdout, plan.stderr
        own = f'"{tmp_path}/env{"-jax" if target == "test-jax" else ""}/bin/python" '
        lines = [line for line in plan.stdout.replace("\\\n", "").splitlines() if own in line]
        for call in calls:
            assert any(call in line for line in lines), f"make {target} does not run {call}"
    assert not (tmp_path / "env").exists()


@needs_make
def test_jax_has_an_environment_of_its_own(tmp_path):
    """Also where TensorFlow's is for a GPU."""
    for accelerator in ("cpu", "gpu"):
        plan = make("--dry-run", "test-jax", f"VENV={tmp_path / 'env'}", accelerator=accelerator).stdout
        assert "--requirement locks/jax.txt" in plan and "locks/cpu.txt" not in plan and "locks/gpu.txt" not in plan
        assert f'"{tmp_path}/env-jax/bin/python" -m pytest' in plan and f'"{tmp_path}/env/bin/python"' not in plan


# --- what may not stand in the project ------------------------------------------------------------------------------------------


def tracked_texts() -> dict[str, str]:
    answer = subprocess.run(["git", "ls-files", "-z"], capture_output=True, cwd=ROOT)
    if answer.returncode != 0:
        pytest.skip("this is no git checkout")
    texts = {}
    for name in answer.stdout.decode().split("\0"):
        data = (ROOT / name).read_bytes() if name and (ROOT / name).is_file() else b""
        if b"\0" not in data:
            texts[name] = data.decode("utf-8")
    return texts


def test_no_package_host_and_no_path_of_a_machine():
    """Whoever sets up the study uses the index that their own pip is configured for."""
    hosts = re.compile(r"pypi\.org|pythonhosted\.org|anaconda\.org|(?:--|^)(?:extra-)?index-url|--find[-]links", re.MULTILINE)
    paths = re.compile(r"(?<![\w.~})>-])/(?:work|farm|tmp|root|home|Users|opt|mnt|var)/\w")
    found = []
    for name, text in tracked_texts().items():
        found += [f"{name}: {match.group()}" for rule in (hosts, paths) for match in rule.finditer(text)]
    assert found == []
