"""`python -m covidcxr.phantom SIZE [FOLDER]`: make an embedded cohort in the cache, or in a folder, and print where it is."""

import sys
from pathlib import Path

from covidcxr.errors import CovidcxrError
from covidcxr.phantom import SIZES, ensure_cohort, store, write_cohort


def main(arguments: list[str]) -> int:
    """Write a cohort, or do one part of it for `store`; returns the exit status."""
    if len(arguments) == 4 and arguments[0] == "work":
        store.work(Path(arguments[1]), int(arguments[2]), int(arguments[3]))
        return 0
    if len(arguments) not in (1, 2) or arguments[0] not in SIZES:
        print(f"usage: python -m covidcxr.phantom {{{','.join(SIZES)}}} [FOLDER]", file=sys.stderr)
        return 2
    try:
        size = arguments[0]
        print(ensure_cohort(size) if len(arguments) == 1 else write_cohort(Path(arguments[1]), SIZES[size]))
    except CovidcxrError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
