# `make` lists the commands. Each one first sees to the environment: .venv, made with `python3 -m venv` and pip from the
# exact versions in locks/, with CUDA wheels where an NVIDIA GPU is found. Settings, for example `make demo CORES=4`:
#   PYTHON       a Python 3.11, 3.12 or 3.13             (default: the first such of those below)
#   ACCELERATOR  cpu, gpu, or jax (the networks on JAX instead of TensorFlow, on the CPU)
#                                                        (default: gpu on Linux x86-64 where nvidia-smi lists one, else cpu)
#   CORES        how many stages may run side by side    (default: the cores of this machine)
#   COVIDCXR_KILLS  how often `make campaign` kills the study (default: 50)
#   WORKERS      test processes; each may load TensorFlow, about 1 GB
#   TORCH        a Python that has torch and torchvision, peers in `make bench`; QUICK=1 makes it small, to try it
#   VENV         folder of the environment
PYTHON  ?= python3 python3.13 python3.12 python3.11
VENV    ?= .venv
WORKERS ?= 2
ifndef CORES
CORES := $(shell nproc 2>/dev/null || getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)
endif
ifndef ACCELERATOR
ACCELERATOR := $(shell [ "`uname -sm`" = "Linux x86_64" ] && nvidia-smi -L 2>/dev/null | grep -q GPU && echo gpu || echo cpu)
endif
ifeq ($(filter cpu gpu jax,$(ACCELERATOR)),)
$(error ACCELERATOR is "$(ACCELERATOR)"; it must be cpu, gpu or jax)
endif

# Modules of HPC systems set these for another Python; with them the locked versions would not be the ones imported.
unexport PYTHONPATH PYTHONHOME
export PIP_USER := 0
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# The kernel "python3" is this environment's, also where the user has one of that name.
export JUPYTER_PREFER_ENV_PATH := 1

RUN    := "$(VENV)/bin/python"
LOCKED := $(VENV)/.locked-$(ACCELERATOR)
READY  := $(VENV)/.ready
# An environment whose Python is gone, or that was made for a checkout at another place, is made anew.
STALE  := $(shell $(RUN) -c "" 2>/dev/null && [ "`cat '$(VENV)/.project' 2>/dev/null`" = "`pwd -P`" ] || echo stale)

.PHONY: help setup demo smoke pilot test campaign test-jax lab lint bench lock clean-env stale

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

setup: $(READY) ## make or update the environment, nothing else

demo: $(READY) ## run the whole study on the phantom, about half an hour, and say where the report is
	$(RUN) -m covidcxr run demo --cores $(CORES)

smoke: $(READY) ## the same, tiny: a few minutes
	$(RUN) -m covidcxr run smoke --cores $(CORES)

pilot: $(READY) ## run on the small open data sets, as far as they are here
	$(RUN) -m covidcxr run pilot --cores $(CORES)

test: $(READY) ## run the tests
	$(RUN) -m pytest -n $(WORKERS) --dist loadfile

campaign: $(READY) ## kill the smoke study, fill its disk and damage its files; its numbers must stay; over half an hour
	$(RUN) -m pytest -m campaign -s tests/test_campaign.py

# JAX compiles every shape once and keeps what took long; without the networks of full size this takes minutes, not an hour.
test-jax: ## run the tests of the networks on JAX, in an environment of its own without TensorFlow
	@$(MAKE) --no-print-directory setup ACCELERATOR=jax VENV="$(VENV)-jax"
	KERAS_BACKEND=jax JAX_COMPILATION_CACHE_DIR="$(VENV)-jax/.compiled" JAX_PERSISTENT_COMPILATION_CACHE_MIN_COMPILE_TIME_SECS=0 \
		"$(VENV)-jax/bin/python" -m pytest -n $(WORKERS) --dist loadfile -m "not large" \
		tests/test_maskrcnn_*.py tests/test_training.py tests/test_resnet.py tests/test_feeding.py tests/test_models_unet.py \
		tests/test_gradcam.py tests/test_decomposition.py tests/test_models_slice_classifier.py

lab: $(READY) ## open the notebooks in JupyterLab
	$(RUN) -m jupyterlab notebooks/00_start_here.ipynb

lint: $(VENV)/.extra-dev ## check style (ruff) and types (mypy)
	@$(RUN) -m ruff check .; ruff=$$?; $(RUN) -m mypy && exit $$ruff

bench: $(VENV)/.extra-bench ## measure speed against other tools, with one table of all ratios at the end
	$(RUN) benchmarks $(if $(TORCH),--torch "$(TORCH)") $(if $(filter-out 0,$(QUICK)),--quick)

# constraints.txt holds one version of everything; cpu.txt, gpu.txt and jax.txt are its hashed parts that `setup` installs.
# Versions stay as they are where pyproject.toml allows; `make lock UPGRADE=--upgrade` takes the newest.
COMPILE = $(RUN) -m uv pip compile pyproject.toml --quiet --no-config --universal --python-version 3.11 \
	--fork-strategy fewest --custom-compile-command "make lock"
lock: $(VENV)/.extra-dev ## write locks/ anew from pyproject.toml
	$(COMPILE) $(UPGRADE) --extra cpu --extra gpu --extra jax --extra test --extra dev --extra bench --extra slurm -o locks/constraints.txt
	$(COMPILE) -c locks/constraints.txt --generate-hashes --no-annotate --extra cpu --extra test -o locks/cpu.txt
	$(COMPILE) -c locks/constraints.txt --generate-hashes --no-annotate --extra gpu --extra test -o locks/gpu.txt
	$(COMPILE) -c locks/constraints.txt --generate-hashes --no-annotate --extra jax --extra test -o locks/jax.txt

clean-env: ## remove the environment
	@[ ! -e "$(VENV)" ] || [ -f "$(VENV)/pyvenv.cfg" ] || { echo "$(VENV) is no virtual environment; not removed." >&2; exit 2; }
	rm -rf "$(VENV)"

DOWNLOAD_cpu := 0.7
DOWNLOAD_gpu := 3.5
DOWNLOAD_jax := 0.5
# The environment. The stamps are written last, so one that was interrupted is made anew.
$(LOCKED): locks/$(ACCELERATOR).txt $(if $(STALE),stale)
	@python=; \
	for candidate in $(PYTHON); do \
		if "$$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null; \
		then python=$$candidate; break; fi; \
	done; \
	if [ -z "$$python" ]; then \
		echo "The study needs Python 3.11, 3.12 or 3.13. Tried here:" >&2; \
		for candidate in $(PYTHON); do echo "  $$candidate: `"$$candidate" --version 2>&1 | head -n 1`" >&2; done; \
		echo "Install one, or name it: make $(MAKECMDGOALS) PYTHON=/path/to/python3.12" >&2; exit 2; \
	fi; \
	if ! "$$python" -c 'import ensurepip, venv' 2>/dev/null; then \
		echo "$$python has no venv or ensurepip. On Debian and Ubuntu: apt install python3-venv (as root)." >&2; exit 2; \
	fi; \
	if [ -e "$(VENV)" ] && [ ! -f "$(VENV)/pyvenv.cfg" ]; then \
		echo "$(VENV) exists and is no virtual environment. Move it away, or choose another: make VENV=folder" >&2; exit 2; \
	fi; \
	echo "Making $(VENV) ($(ACCELERATOR), `"$$python" --version`). This downloads about $(DOWNLOAD_$(ACCELERATOR)) GB once and takes a few minutes."; \
	"$$python" -m venv --clear "$(VENV)"
	@$(RUN) -m pip install --quiet --no-deps --use-pep517 --requirement locks/$(ACCELERATOR).txt
	@touch "$@"

$(READY): $(LOCKED) pyproject.toml
	@$(RUN) -m pip install --quiet --no-deps --no-build-isolation --editable .
	@$(RUN) -m pip check
	@pwd -P > "$(VENV)/.project"
	@touch "$@"

$(VENV)/.extra-%: $(READY) locks/constraints.txt
	@$(RUN) -m pip install --quiet --constraint locks/constraints.txt --no-build-isolation --editable ".[$*]"
	@touch "$@"
