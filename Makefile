# Two commands from a fresh clone on Debian or Ubuntu with git, make and Python 3.11 or newer with its venv module:
#   make demo    the live page: camera, files and samples in the browser, with the bundled weights
#   make test    everything CI checks
# Nothing is installed outside .venv; what is missing on the machine is named with the line that installs it.

PYTHON ?= python3
VENV ?= .venv
OUT ?= out
HOST ?= 127.0.0.1
PORT ?= 7860
PYTEST_ARGS ?=
WORKERS ?= 2
# PyTorch's own index of CPU builds, as its installation page gives it. Used on Linux if it answers within 3 s, because PyPI's
# Linux build of torch is the CUDA one (several GB). `TORCH_INDEX=` switches this off, `TORCH_INDEX=URL` takes another.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu

CARD ?= tsm-mobilenetv2-motion
PY = $(VENV)/bin/python
PIP = $(PY) -m pip --disable-pip-version-check install --quiet --constraint constraints.txt
export PIP_ROOT_USER_ACTION = ignore
export PYTHONUNBUFFERED = 1

.DEFAULT_GOAL := help
.PHONY: help demo label test lint format check preflight bench train soak rivals backends tritonserver clean

help:  ## this list
	@echo "make demo      the live page at http://localhost:$(PORT)/ (first use downloads about 180 MB; no PyTorch); Ctrl-C ends it"
	@echo "make label     label a generated clip on the command line, with the same installation"
	@echo "make test      ruff, mypy and pytest, as CI runs them (first use downloads about 520 MB, PyTorch's CPU build in it)"
	@echo "make lint      ruff and mypy only"
	@echo "make format    put the code into the form that lint asks for"
	@echo "make bench     the quick benchmarks: ratios against named rivals on this machine"
	@echo "make soak      the long benchmarks: thousands of frames, memory growth, lag over minutes"
	@echo "make train     make the bundled weights again (hours on two cores; goes on after an interruption)"
	@echo "make rivals    the environment of the benchmarks' rivals, .venv-rivals"
	@echo "make backends  tests of sparse convolutions on spconv, and on Triton in its interpreter (290 MB to download for Triton)"
	@echo "make tritonserver  an exported model repository in Triton's own server, its ONNX Runtime back end stood in for (55 MB)"
	@echo "make clean     remove what the other targets made, .venv too"
	@echo
	@echo "PORT=8000 HOST=0.0.0.0   where \`make demo\` listens (a camera needs https or localhost: see README)"
	@echo "PYTHON=python3.12    another Python, 3.11 or newer"
	@echo "TORCH_INDEX=URL      where to look for PyTorch's CPU build; empty: wherever pip looks"
	@echo "PYTEST_ARGS='-k tsm' arguments for pytest"
	@echo "WORKERS=4            processes that run tests side by side (2 unless said; 0: all tests in one)"

# --- environments -----------------------------------------------------------------------------------------------------

preflight:
	@$(PYTHON) --version >/dev/null 2>&1 || \
	  { echo "error: there is no $(PYTHON)"; echo "  fix: apt-get install python3 python3-venv, or add PYTHON=/path/to/python3"; exit 1; } >&2
	@$(PYTHON) .ci/preflight.py

$(VENV)/bin/pip: | preflight
	@echo "Making $(VENV) with $$($(PYTHON) --version)"
	@rm -rf $(VENV)/bin
	@$(PYTHON) -m venv $(VENV)

# A stamp is renewed when what it installs may have changed.
$(VENV)/.demo-installed: pyproject.toml constraints.txt | $(VENV)/bin/pip
	@echo "Installing effvision, OpenCV, ONNX Runtime and Gradio into $(VENV) (about 180 MB to download)"
	@$(PIP) setuptools
	@$(PIP) --no-build-isolation --editable '.[demo]' onnxruntime
	@touch $@

$(VENV)/.test-installed: pyproject.toml constraints.txt | $(VENV)/bin/pip
	@echo "Installing effvision, PyTorch, ONNX, Gradio and the checkers into $(VENV) (about 520 MB to download)"
	@$(PIP) setuptools
	@arguments=$$($(PY) .ci/preflight.py torch-index "$(TORCH_INDEX)") && $(PIP) $$arguments torch
	@$(PIP) --no-build-isolation --editable '.[torch,onnx,demo,dev]'
	@touch $@ $(VENV)/.demo-installed

# --- the two commands -------------------------------------------------------------------------------------------------

demo: preflight $(VENV)/.demo-installed  ## the live page
	$(PY) -m effvision demo $(CARD) --host $(HOST) --port $(PORT)

label: preflight $(VENV)/.demo-installed  ## label a generated clip
	@mkdir -p $(OUT)
	$(PY) -m effvision sample $(CARD) --out $(OUT)/sample.mp4
	$(PY) -m effvision run $(CARD) $(OUT)/sample.mp4 --save $(OUT)/labelled.mp4
	@echo "Labelled video: $(OUT)/labelled.mp4. On your own: $(PY) -m effvision run $(CARD) clip.mp4"

# Two passes, each run whatever the other says: what may run side by side, and what is marked `alone`. A pass that has no test to
# run (pytest's exit code 5: PYTEST_ARGS selects none of it) is no failure, unless both have none; 2 is Ctrl-C.
# mypy takes one core for a minute: it runs beside the first pass, and is waited for before what must be alone.
test: preflight $(VENV)/.test-installed  ## everything CI checks
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	@$(PY) -m mypy >$(VENV)/mypy.txt 2>&1 & mypy=$$!; typed=0; failed=5; \
	for pass in '--alone=no -n $(WORKERS) --dist worksteal' --alone=only; do \
	  [ "$$pass" != --alone=only ] || wait $$mypy || typed=$$?; \
	  echo "$(PY) -m pytest $$pass" $(PYTEST_ARGS); \
	  $(PY) -m pytest $$pass $(PYTEST_ARGS); code=$$?; \
	  case $$code in 0) [ $$failed -ne 5 ] || failed=0;; 2) kill $$mypy 2>/dev/null; exit 2;; 5) ;; *) failed=$$code;; esac; \
	done; \
	echo "$(PY) -m mypy"; cat $(VENV)/mypy.txt; \
	[ $$typed -eq 0 ] || failed=$$typed; exit $$failed

lint: preflight $(VENV)/.test-installed  ## ruff and mypy
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

# --- the rest ---------------------------------------------------------------------------------------------------------

format: $(VENV)/.test-installed
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

bench: preflight $(VENV)/.test-installed
	@for script in $(sort $(wildcard benchmarks/[a-z]*.py)); do echo "== $$script"; $(PY) $$script --quick || exit 1; done

soak: preflight $(VENV)/.test-installed
	@for script in $(sort $(wildcard benchmarks/[a-z]*.py)); do echo "== $$script"; $(PY) $$script || exit 1; done
	EFFVISION_LAG_S=180 $(PY) -m pytest -q tests/sources/test_live.py -k slow_consumers

train: preflight $(VENV)/.test-installed
	$(PY) -m effvision.models.tsm.recipe train --out runs/motion $(TRAIN_ARGS)

rivals: preflight
	@test -f benchmarks/rivals.txt || { echo "no benchmark here has rivals that need an environment of their own"; exit 1; }
	@test -x .venv-rivals/bin/pip || $(PYTHON) -m venv .venv-rivals
	@arguments=$$(.venv-rivals/bin/python .ci/preflight.py torch-index "$(TORCH_INDEX)") && \
	  .venv-rivals/bin/python -m pip --disable-pip-version-check install --quiet $$arguments -r benchmarks/rivals.txt

# Triton lies in a folder of its own: in .venv it would make other tests run that CI does not.
backends: rivals $(VENV)/.test-installed
	PYTHONPATH=. .venv-rivals/bin/python -m pytest tests/ops/test_sparse_backends.py
	@test -d $(OUT)/triton || $(PIP) --no-deps --target $(OUT)/triton triton==3.9.0
	PYTHONPATH=$(OUT)/triton $(PY) -m pytest tests/ops/test_sparse_triton.py

tritonserver: $(VENV)/.test-installed
	@test -d $(OUT)/pytriton || $(PIP) --no-deps --target $(OUT)/pytriton nvidia-pytriton==0.7.0
	EFFVISION_TRITONSERVER=$(OUT)/pytriton/pytriton/tritonserver/bin/tritonserver $(PY) -m pytest -s tests/export/test_triton_server.py

clean:
	rm -rf $(VENV) .venv-rivals build dist effvision.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis $(OUT)
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
