"""Where the study lies on disk: project root, parameters, notebooks, outputs, data.

Everything is found from the package itself, so that a notebook runs from any working directory.
"""

import errno
import fcntl
import json
import os
import platform
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from covidcxr.errors import CovidcxrError, InputError

DISK_TROUBLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EIO)
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
DEEPEST_YAML = 50
MOST_YAML = 1_000_000  # values, each alias counted with all that it stands for


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
    """`params/` of the project."""
    return project_root() / "params"


def notebooks_dir() -> Path:
    """`notebooks/` of the project."""
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


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def read_json(path: Path, what: str) -> Any:
    """Content of a JSON file, as plain data.

    Args:
        what: name of such a file in messages: "labelme file".

    Raises:
        InputError: it is missing or can't be read.
    """
    try:
        return parse_json(path.read_bytes())
    except FileNotFoundError:
        raise InputError(f"{path}: the {what} is missing") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a readable {what} ({type(error).__name__}: {error})") from error


def json_mapping(path: Path) -> dict[str, Any]:
    """The mapping in a JSON file; empty where there is no file, it can't be read, or it holds something else."""
    try:
        content = parse_json(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def parse_json(content: bytes) -> Any:
    """JSON as plain data.

    Raises:
        ValueError: it is none, is nested too deeply, or a text in it holds half a character, which no other file could take up.
    """
    try:
        text = content.decode(json.detect_encoding(content))
        found = json.loads(text)
        if "\\ud" in text.lower():
            json.dumps(found, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    return found


def read_yaml(path: Path) -> Any:
    """Content of a YAML file, as plain data.

    Raises:
        InputError: it can't be read, or is none for `parse_yaml`.
    """
    try:
        return parse_yaml(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} can't be read as YAML: {' '.join(str(error).split())}") from None


def parse_yaml(text: str) -> Any:
    """YAML as plain data.

    Raises:
        ValueError: it is none, a key stands twice in a mapping, of which readers of YAML silently take the last, it is nested
            too deeply, or its aliases stand for too many values.
    """
    import yaml

    class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
        def construct_mapping(self, node, deep=False):
            seen = set()
            for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
                if key.value in seen:
                    why = f"the key {key.value!r} stands here twice"
                    raise yaml.constructor.ConstructorError(None, None, why, key.start_mark)
                seen.add(key.value)
            return super().construct_mapping(node, deep)

    try:
        depth = 0
        for event in yaml.parse(text, Loader=Loader):  # without recursion, of which too much ends the process
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > DEEPEST_YAML:
                raise ValueError(f"it is nested more than {DEEPEST_YAML} deep")
        loader = Loader(text)
        node = loader.get_single_node()
        if _values(node, {}) > MOST_YAML:
            raise ValueError("its aliases stand for too many values")
        return None if node is None else loader.construct_document(node)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None
    except (ArithmeticError, AttributeError, LookupError, TypeError) as error:  # of a tag on a value that it does not fit
        raise ValueError(f"a value can't be read ({type(error).__name__}: {error})") from None


def _values(node: Any, known: dict[int, float]) -> float:
    """How many values a node of YAML holds, with all that its aliases stand for; infinity where it holds itself."""
    if id(node) not in known:
        known[id(node)] = float("inf")  # until it is counted
        inner = node.value if node is not None and not isinstance(node.value, str) else ()
        parts = [part for entry in inner for part in (entry if isinstance(entry, tuple) else (entry,))]
        known[id(node)] = 1 + sum(_values(part, known) for part in parts)
    return known[id(node)]


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


@contextmanager
def hold_lock(path: Path, what: str) -> Iterator[None]:
    """Hold a lock file while the block runs. The system frees it when this process ends, however it ends.

    On a file system without locks (some that clusters share) a line says so, and the block runs.

    Args:
        what: whose lock it is, for the message: "Profile demo".

    Raises:
        CovidcxrError: another process holds it; the message names that process.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CovidcxrError(f"{what} is being run already by {lock_holder(path)}. Wait for it, or stop it.") from None
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            print(f"{path.parent} is on a file system without locks: let nothing else run {what.lower()}.", file=sys.stderr)
        lock.truncate(0)
        lock.write(f"process {os.getpid()} on {platform.node()}")
        lock.flush()
        yield


def lock_holder(path: Path) -> str:
    """Who holds the lock file, as "process 12 on host"; empty when nobody does."""
    try:
        with open(path, encoding="utf-8") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return lock.read().strip() or "another process"
            except OSError:
                return ""
    except OSError:
        return ""
    return ""
