"""Errors whose message is written for the user: what was expected, what was found, where, and what to do.

The command line prints these without a traceback and exits with 2; a stage that meets `DataMissing` ends as `no-data`.
"""


import difflib
from collections.abc import Iterable


class CovidcxrError(Exception):
    """Base of the errors that a user can mend."""


class InputError(CovidcxrError, ValueError):
    """A file, table, image or value is not what is needed; the message names it."""


class ParameterError(CovidcxrError, ValueError):
    """A parameter, stage or profile has an unknown name or a value of the wrong type."""


class DataMissing(CovidcxrError, FileNotFoundError):
    """A data set is not where it should be.

    Args:
        dataset: name of the data set.
        how: one line that gets it (a command or an address).
    """

    def __init__(self, message: str, dataset: str, how: str):
        super().__init__(message)
        self.dataset = dataset
        self.how = how

    def __str__(self) -> str:
        return self.args[0]


def did_you_mean(name: object, known: Iterable[object]) -> str:
    """The words " Did you mean 'x'?" with the nearest of the known names, or nothing: to be put behind "unknown name …"."""
    close = difflib.get_close_matches(str(name), list(map(str, known)), n=1, cutoff=0.5)
    return f" Did you mean {close[0]!r}?" if close else ""
