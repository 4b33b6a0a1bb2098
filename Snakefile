# One generated rule per stage that has to run. `python -m covidcxr run PROFILE` is the way in: it decides what has to run, writes
# that to `.partial/todo.json` in the profile's folder, and calls Snakemake on this file from there.
import json
import os
import shlex
import sys
from pathlib import Path

from covidcxr import paths

todo = json.loads(Path(".partial/todo.json").read_text(encoding="utf-8"))
# Stages import this very package, also from a checkout that is not the installed one, and stop when this process is gone.
checkout = str(Path(paths.__file__).resolve().parent.parent)
search_path = os.pathsep.join(filter(None, [checkout, os.environ.get("PYTHONPATH")]))
settings = {"PYTHONPATH": search_path, "COVIDCXR_HOME": str(paths.project_root()), "COVIDCXR_ENGINE_PROCESS": str(os.getpid())}
execute = ["env", *(f"{name}={value}" for name, value in settings.items()), sys.executable, "-m", "covidcxr", "execute"]
options = [word for text in todo["overrides"] for word in ("--set", text)]


rule all:
    input:
        [f".partial/{stage}.ended" for stage in todo["stages"]],


for stage, entry in todo["stages"].items():
    command = shlex.join([*execute, todo["profile"], stage, *options])

    rule:
        name:
            stage
        input:
            [f".partial/{name}.ended" for name in entry["before"]],
        output:
            touch(f".partial/{stage}.ended"),
        # Values travel through params: a name in the shell command would be looked up when the loop is over. The function keeps
        # Snakemake from reading braces in a value.
        params:
            command=lambda wildcards, command=command: command,
        threads: entry["threads"]
        resources:
            gpu=int(entry["gpu"]),
        # exec: the stage's parent is then the engine itself.
        shell:
            "exec {params.command}"
