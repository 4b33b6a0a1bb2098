# One generated rule per stage of params/study.yaml. `python -m covidcxr run PROFILE` is the way in: it checks the parameters,
# decides which stages are out of date, and calls Snakemake on this file from the profile's folder in outputs/.
import shlex
import sys

from covidcxr.study import Plan

plan = Plan.load(config["profile"], config.get("overrides") or [])
execute = shlex.join([sys.executable, "-m", "covidcxr", "execute", plan.profile])
options = shlex.join(word for text in plan.overrides for word in ("--set", text))


rule all:
    input:
        [f"{stage.name}/run.json" for stage in plan.stages],


for stage in plan.stages:

    rule:
        name:
            stage.name
        input:
            [f"{name}/run.json" for name in stage.before],
        output:
            f"{stage.name}/run.json",
        # Values travel through params: a name in the shell command would be looked up when the loop is over.
        params:
            command=f"{execute} {stage.name} {options}",
        threads: stage.threads
        resources:
            gpu=int(stage.gpu),
        # exec: the stage's parent is then the engine itself, and it stops when the engine is gone.
        shell:
            "exec {params.command}"
