"""What the tests of damaged and hostile files (test_fuzzed_*.py) share: how much is tried, what is watched, how reading ends.

No file, however damaged or hostile, ends otherwise than in a valid result or in an error that names it. Each test damages a small
sound file in many ways (`mutations`) and reads it as a user would. Seeds are fixed. To look longer and elsewhere, multiply the
number of examples; seeds are then drawn anew, and hypothesis prints what repeats a failure:

    COVIDCXR_FUZZ=50 python -m pytest -p no:xdist tests/test_fuzzed_*.py

While a file is read, the memory of the process may grow by `MEMORY`, and no file of the folder `outside`, beside the one that is
read, may be opened. A test file imports the fixtures `watched`, which does that, and `root_folder`. A reader that has not ended
after `PATIENCE` fails.
"""

import faulthandler
import os
import resource
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from mutations import OUTSIDE
from test_datasets_labelme import picture

from covidcxr.errors import CovidcxrError

MEMORY = 3 << 30  # bytes
PATIENCE = 60.0  # seconds for one file; most take milliseconds
SIZE = (40, 60)  # of the pictures, as in the tests whose files are borrowed
TIMES = int(os.environ.get("COVIDCXR_FUZZ", "1"))


def examples(number: int):
    """`settings` for so many examples; the same ones every time, unless more are asked for."""
    return settings(
        max_examples=number * TIMES,
        derandomize=TIMES == 1,
        database=None,
        deadline=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.explicit, Phase.generate, Phase.shrink),
    )


# ---- what is watched -------------------------------------------------------------------------------------------------

STATM = Path("/proc/self/statm")  # on Linux; elsewhere memory is not bounded
OPENED: list[str] = []
WATCHING = False


def watch(event: str, details: tuple) -> None:
    if WATCHING and event == "open" and isinstance(details[0], (str, bytes)):
        OPENED.append(os.fsdecode(details[0]))


sys.addaudithook(watch)  # it can't be taken away, but can sleep


@pytest.fixture(scope="module", autouse=True)
def watched(tmp_path_factory):
    """Bounds the memory, has Python tell of every file that is opened, and gives the tests caches of their own."""
    global WATCHING
    before = resource.getrlimit(resource.RLIMIT_AS)
    if STATM.is_file():
        taken = int(STATM.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY, before[1]))
    WATCHING = True
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COVIDCXR_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
    WATCHING = False
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.fixture(scope="module", name="root")
def root_folder(tmp_path_factory) -> Path:
    """A folder for the files of a test file, and beside it what they must not lead to."""
    base = tmp_path_factory.mktemp("fuzz")
    (base / "data").mkdir()
    (base / OUTSIDE).mkdir()
    picture(base / OUTSIDE / "one.png")
    (base / OUTSIDE / "one.json").write_text("{}")
    return base / "data"


class Alarm(BaseException):
    """Time is up; none of the errors that a reader may catch."""


def ring(number: int, frame: object) -> None:
    raise Alarm


@contextmanager
def alarm() -> Iterator[None]:
    """Fail when the block takes longer than PATIENCE. C code that hangs lets no alarm through: it ends the process of tests."""
    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, PATIENCE)
    faulthandler.dump_traceback_later(2 * PATIENCE, exit=True, file=sys.__stderr__)
    try:
        yield
    except Alarm as rung:
        raise AssertionError(f"reading has not ended after {PATIENCE:g} s") from rung
    finally:
        faulthandler.cancel_dump_traceback_later()
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def ends_well(read, *names: str):
    """The result, or None where there is an error that a user can understand, which names the file or one of `names`."""
    OPENED.clear()
    try:
        with alarm():
            result = read()
    except CovidcxrError as error:
        text = str(error)
        assert any(name in text for name in names), f"{text!r} names none of {names}"
        assert len(text) > 20 and text.encode(), text
        result = None
    assert not [name for name in OPENED if f"/{OUTSIDE}/" in os.path.abspath(name)]
    return result


def write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def read_damaged(number: int, contents: st.SearchStrategy[bytes], path: Path, read, *names: str) -> None:
    """Write so many contents into a file, one after the other, and read each."""

    @examples(number)
    @given(contents)
    def check(content):
        write(path, content)
        ends_well(read, *names)

    check()


def is_mask(mask, size=SIZE) -> bool:
    return mask.dtype == bool and mask.shape == size
