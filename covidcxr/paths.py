"""Where the study lies on disk: project root, parameters, notebooks, outputs, data.

Everything is found from the package itself, so that a notebook runs from any working directory.
"""

import os
import secrets
from pathlib import Path

from covidcxr.errors import InputError


def project_root() -> Path:
    """Folder that holds `params/` and `notebooks/`: the checkout this package was installed from (pip install -e).

    `$COVIDCXR_HOME` overrides it.
    """
    root = Path(os.environ.get("COVIDCXR_HOME") or Path(__file__).resolve().parent.parent)
    if not (root / "params" / "study.yaml").is_file():
        raise InputError(
            f"No study in {root}: params/study.yaml is not there. Install the package from its checkout with "
            "`pip install -e .`, or point COVIDCXR_HOME at the checkout."
        )
    return root


def params_dir() -> Path:
    return project_root() / "params"


def notebooks_dir() -> Path:
    return project_root() / "notebooks"


def outputs_dir() -> Path:
    """`outputs/` of the project, or `$COVIDCXR_OUTPUTS`."""
    return Path(os.environ.get("COVIDCXR_OUTPUTS") or project_root() / "outputs").resolve()


def data_dir() -> Path:
    """Folder of the real data sets, one folder each: `$COVIDCXR_DATA`, else `data/` of the project."""
    return Path(os.environ.get("COVIDCXR_DATA") or project_root() / "data").resolve()


def cache_dir() -> Path:
    """Folder for what can be made again, such as phantom cohorts: `$COVIDCXR_CACHE`, else `.cache/` of the project."""
    return Path(os.environ.get("COVIDCXR_CACHE") or project_root() / ".cache").resolve()


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file aside, flush it to disk and rename it, so that readers see the old content or the new, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        with open(aside, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
