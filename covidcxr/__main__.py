"""The command line: python -m covidcxr run | status | report | data."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from covidcxr import paths
from covidcxr.errors import CovidcxrError, ParameterError

EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130
ENVIRONMENT = (
    "Folders: COVIDCXR_DATA (data sets; else data/), COVIDCXR_OUTPUTS (results; else outputs/), COVIDCXR_CACHE (phantom cohorts; "
    "else .cache/). What follows -- goes to Snakemake."
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code: 0 well, 1 a stage failed, 2 wrong input, 130 interrupted."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    own, extra = (words[: words.index("--")], words[words.index("--") + 1 :]) if "--" in words else (words, [])
    parsed = _parse(own)
    if extra and parsed.command != "run":
        print("Only `run` takes Snakemake options after --.", file=sys.stderr)
        return EXIT_USAGE
    try:
        return parsed.run(parsed, extra)
    except ParameterError as error:
        print(error, file=sys.stderr)
        return EXIT_USAGE
    except CovidcxrError as error:
        print(error, file=sys.stderr)
        return EXIT_FAILED if parsed.command == "execute" else EXIT_USAGE
    except KeyboardInterrupt:
        print("Interrupted. The same command goes on where this one stopped.", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    except OSError as error:
        if error.errno not in paths.DISK_TROUBLE:
            raise
        where = f" ({error.filename})" if error.filename else ""
        print(f"{error.strerror}{where}. Free the disk, or choose another folder with COVIDCXR_OUTPUTS.", file=sys.stderr)
        return EXIT_USAGE


def _parse(words: list[str]) -> argparse.Namespace:
    """Names of stages are also taken after options, which argparse alone does not do within a command."""
    parser = _parser()
    parsed, left = parser.parse_known_args(words)
    if left and (parsed.command != "run" or any(word.startswith("-") for word in left)):
        parser.error(f"unrecognized arguments: {' '.join(left)}")
    if left:
        parsed.stages += left
    return parsed


def _parser() -> argparse.ArgumentParser:
    about = "A reproducible study kit for five papers on COVID-19 imaging."
    parser = argparse.ArgumentParser(prog="python -m covidcxr", description=about, epilog=ENVIRONMENT)
    commands = parser.add_subparsers(dest="command", required=True)

    run = commands.add_parser("run", help="run a profile, or some stages of it and what they need")
    run.add_argument("profile", help="smoke, demo, pilot, paper, or a file of your own in params/")
    run.add_argument("stages", nargs="*", metavar="STAGE", help="stages to run; all by default")
    run.add_argument("--cores", type=_core_number, help="cores to use at once (default: those of this machine)")
    run.add_argument("--set", dest="overrides", action="append", default=[], metavar="STAGE.NAME=VALUE", help="set a parameter")
    run.add_argument("--force", action="append", default=[], metavar="STAGE", help="run a stage again though it is up to date")
    run.add_argument("--keep-going", action="store_true", help="after a failure, go on with what does not need the failed stage")
    run.add_argument("--dry-run", action="store_true", help="say what would run and how long it may take, and run nothing")
    run.set_defaults(run=_run)

    status = commands.add_parser("status", help="say of each stage whether it is done, will run and why, lacks data, or failed")
    status.add_argument("profile", help="the profile to look at")
    status.add_argument("--set", dest="overrides", action="append", default=[], metavar="STAGE.NAME=VALUE", help="as for run")
    status.set_defaults(run=_status)

    report = commands.add_parser("report", help="build the report from whatever stages are done")
    report.add_argument("profile")
    report.add_argument("--reference", action="store_true", help="also keep its scores in the project's outputs/reference/")
    report.set_defaults(run=_report)

    execute = commands.add_parser("execute", help="run one stage by itself; what the engine calls")
    execute.add_argument("profile")
    execute.add_argument("stage")
    execute.add_argument("--set", dest="overrides", action="append", default=[], metavar="STAGE.NAME=VALUE")
    execute.set_defaults(run=_execute)

    data = commands.add_parser("data", help="show, fetch or check data sets")
    data.add_argument("action", choices=("status", "fetch", "verify"))
    data.add_argument("names", nargs="*", metavar="NAME", help="data sets; all of them by default, but for fetch")
    data.add_argument("--data", default="real", help="real (default), phantom:demo, phantom:smoke, or a folder")
    data.set_defaults(run=_data)
    return parser


def _run(parsed: argparse.Namespace, extra: list[str]) -> int:
    from covidcxr import durations, engine
    from covidcxr.study import Plan

    plan = Plan.load(parsed.profile, parsed.overrides)
    stages = plan.with_needs([*parsed.stages, *parsed.force] if parsed.stages else [])
    if parsed.dry_run:
        print(durations.forecast(plan, stages))
        return 0
    earlier = durations.records(plan, stages)
    well = engine.run(plan, parsed.stages, cores=parsed.cores, force=parsed.force, keep_going=parsed.keep_going, extra=extra)
    if engine.ONLY_PLANNING & set(extra):
        return 0 if well else EXIT_FAILED
    from covidcxr import report

    if ran := durations.shares(earlier, durations.records(plan, stages)):
        print(ran)
    print(f"Report: {report.build(plan.folder)}")
    if not well:
        print(f"Not every stage has ended: python -m covidcxr status {parsed.profile}", file=sys.stderr)
    return 0 if well else EXIT_FAILED


def _status(parsed: argparse.Namespace, extra: list[str]) -> int:
    from covidcxr.study import Plan

    plan = Plan.load(parsed.profile, parsed.overrides)
    width = max(len(stage.name) for stage in plan.stages)
    for stage in plan.stages:
        state = plan.state(stage)
        print(f"{stage.name:{width}}  {state.word:8}  {state.why}".rstrip())
    return 0


def _report(parsed: argparse.Namespace, extra: list[str]) -> int:
    from covidcxr import report
    from covidcxr.study import Plan

    plan = Plan.load(parsed.profile)
    print(report.build(plan.folder))
    if parsed.reference:
        from covidcxr import reference

        print(reference.write(plan.folder))
    return 0


def _execute(parsed: argparse.Namespace, extra: list[str]) -> int:
    from covidcxr.execution import execute, stop_when_orphaned, stop_when_told
    from covidcxr.study import Plan

    stop_when_orphaned()
    stop_when_told()
    plan = Plan.load(parsed.profile, parsed.overrides)
    execute(plan, plan.stage(parsed.stage))
    return 0


def _data(parsed: argparse.Namespace, extra: list[str]) -> int:
    from covidcxr import datasets

    for name in parsed.names:
        datasets.check_name(name)
    if parsed.action == "status":
        return _data_status(parsed.names, parsed.data)
    if parsed.action == "verify":
        return _data_verify(parsed.names or datasets.present(parsed.data), parsed.data)
    if not parsed.names:
        raise ParameterError(f"Name the data sets to fetch: {', '.join(datasets.NAMES)}.")
    for name in parsed.names:
        print(f"{name}: in {datasets.fetch(name, parsed.data)}")
    return 0


def _data_status(names: Sequence[str], data: str) -> int:
    from covidcxr import datasets

    print(f"Data sets in {datasets.data_root(data)}:")
    for row in datasets.status(data):
        if names and row["name"] not in names:
            continue
        state = f"{row['cases']} cases" if row["present"] else "not here"
        print(f"\n{row['name']}: {state}. {row['title']}. Licence: {row['licence']}.")
        if not row["present"]:
            print(f"  To get it: {row['how']}")
        if row["note"]:
            print(f"  {row['note']}")
    return 0


def _data_verify(names: Sequence[str], data: str) -> int:
    from covidcxr import datasets

    if not names:
        print(f"No data set in {datasets.data_root(data)}. How to get one: python -m covidcxr data status", file=sys.stderr)
        return EXIT_FAILED
    checks = []
    for name in names:
        checks.append(datasets.open(name, data).verify())
        print(checks[-1], end="\n\n", flush=True)
    return 0 if all(check.ok for check in checks) else EXIT_FAILED


def _core_number(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of cores: give 1 or more")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
