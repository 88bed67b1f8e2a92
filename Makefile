# Runs with any make (the 3.81 of macOS too) and needs Python 3.11 or newer, nothing else.
PYTHON ?= python3
TORCH_INDEX ?=
EXTRAS := lab,export,test,dev
KEEP ?= torch
CHROMIUM ?= chromium
LESSONS ?=
BROWSER_TESTS ?= tests/browser

PIP_ARGS := $(if $(TORCH_INDEX),--extra-index-url "$(TORCH_INDEX)")

.DEFAULT_GOAL := help
.PHONY: help setup lab test proof lint bench notebooks solutions browser lock clean FORCE

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-9s  %s\n", $$1, $$2 }' Makefile
	@echo
	@echo "PYTHON=python3.12  the Python that .venv is made with"
	@echo "TORCH_INDEX=URL    another build of PyTorch, from the index that pytorch.org's start page shows"

setup: .venv/.ready ## make .venv and install everything (1.5 GB, several with a PyTorch for CUDA)

lab: setup ## open JupyterLab on your own copies of the lessons
	.venv/bin/koemorph lab

# A process of tests that is killed ends the run, where xdist would wait for ever for what it was to do; and so does a
# test that hangs, with its traceback.
PYTEST := .venv/bin/pytest -n auto --maxprocesses 4 --max-worker-restart 0 --dist loadscope

test: setup ## run all tests, a module on one core, on up to four
	$(PYTEST) --no-loadscope-reorder -o faulthandler_timeout=600 -o faulthandler_exit_on_timeout=true

proof: setup ## try what `make test` samples at every point (an hour or two on two cores; needs Linux for all of it)
	@.venv/bin/python -c 'import accelerate, ignite, lightning, transformers' 2>/dev/null || \
	    .venv/bin/python -m pip install -c constraints.txt $(PIP_ARGS) -e '.[peers]'
	$(PYTEST) -rP tests/proof

lint: setup ## check style, format, types, and which room imports which
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy
	.venv/bin/lint-imports

bench: setup ## measure what is promised about speed, side by side
	.venv/bin/python tests/benchmarks

notebooks: setup ## execute the lessons' .py halves into .ipynb, draw their images (LESSONS="01 03": those alone)
	.venv/bin/python -m koemorph_tutorial.teaching.notebooks $(LESSONS)

solutions: setup ## for teachers: the lessons solved and run, in outputs/solutions/ (LESSONS="01 03": those alone)
	.venv/bin/python -m koemorph_tutorial.teaching.solutions $(LESSONS)

browser: setup ## run the lessons in a real JupyterLab (needs Chromium; SCREENSHOTS=DIR keeps what it saw)
	@.venv/bin/python -c 'import playwright' 2>/dev/null || \
	    .venv/bin/python -m pip install -c constraints.txt $(PIP_ARGS) -e '.[browser]'
	@command -v "$(CHROMIUM)" >/dev/null || { echo "make browser: no $(CHROMIUM) is here: install it (on Debian and" \
	    "Ubuntu: apt install chromium), or say where one is by CHROMIUM=PATH" >&2; exit 1; }
	CHROMIUM="$(CHROMIUM)" .venv/bin/pytest $(BROWSER_TESTS)

clean: ## remove .venv and what the tools left behind (outputs/ stays)
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find koemorph_tutorial tests notebooks -name __pycache__ -type d -prune -exec rm -rf {} +

# Nothing is compiled beforehand (--no-compile): of what lies there little is ever imported, and then Python does it.
#
# .venv is ready or it is unfinished, and the name of one file says which: .unfinished while anything is being
# installed, renamed to .ready when all is done. So a set-up that was killed never looks like one that ended. The file
# holds the process at work and the folder it is for: the programs in a .venv do not survive a move.
STALE := $(shell test -e .venv/.ready || exit 0; read -r pid folder <.venv/.ready; \
	test "$$folder" = "$$(pwd -P)" && test -x .venv/bin/python || echo FORCE)

.venv/.ready: pyproject.toml constraints.txt $(STALE)
	@$(CHECK_PYTHON)
	@again=; \
	if test -e .venv/.unfinished; then \
	    read -r pid folder <.venv/.unfinished; \
	    if test -n "$$pid" && kill -0 "$$pid" 2>/dev/null; then \
	        echo "make setup: process $$pid is setting up .venv already: wait for it, or end it" >&2; exit 1; \
	    fi; \
	    again="an earlier set-up was interrupted"; \
	elif test -e .venv/.ready && test -n "$(STALE)"; then \
	    again="this folder or its Python was moved"; \
	elif test -e .venv && ! .venv/bin/python -m pip --version >/dev/null 2>&1; then \
	    again="what is there does not work"; \
	fi; \
	mkdir -p .venv && echo "$$PPID $$(pwd -P)" >.venv/.unfinished && rm -f .venv/.ready || exit 1; \
	if test -n "$$again"; then \
	    echo "make setup: $$again; .venv is made afresh"; \
	    find .venv -mindepth 1 -maxdepth 1 ! -name .unfinished -exec rm -rf {} +; \
	fi; \
	test -e .venv/bin/python || "$(PYTHON)" -m venv .venv
	@.venv/bin/python -m pip install --no-compile -c constraints.txt $(PIP_ARGS) -e '.[$(EXTRAS)]' || { \
	    echo "make setup: pip did not finish; its reason stands above; the same command starts again" >&2; exit 1; }
	@mv .venv/.unfinished .venv/.ready
	@echo "make setup: .venv is ready; 'make lab' opens JupyterLab, 'make test' runs the tests"

define CHECK_PYTHON
version=$$("$(PYTHON)" -c 'import sys; print("Python %d.%d" % sys.version_info[:2])' 2>/dev/null || echo missing); \
"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
    echo "make: Python 3.11 or newer is needed, '$(PYTHON)' is $$version: choose one by PYTHON=python3.12" >&2; exit 1; }; \
"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { \
    echo "make: '$(PYTHON)' cannot make a .venv: install its venv package (on Debian and Ubuntu python3-venv)" >&2; exit 1; }
endef

# Chosen in a Python of its own, so that nothing in .venv has a say; written only when all of it was found.
lock: ## write constraints.txt anew with today's versions (torch stays where it is; KEEP= moves it too)
	@$(CHECK_PYTHON)
	@scratch=$$(mktemp -d) && trap 'rm -rf "$$scratch"' EXIT && \
	{ grep -E '^($(KEEP))==' constraints.txt >"$$scratch/keep.txt" || true; } && \
	"$(PYTHON)" -m venv "$$scratch/venv" && \
	"$$scratch/venv/bin/pip" install --dry-run --report "$$scratch/report.json" -c "$$scratch/keep.txt" $(PIP_ARGS) \
	    '.[all,peers]' && \
	"$(PYTHON)" -c "$$WRITE_PINS" "$$scratch/report.json" >"$$scratch/pins.txt" && \
	cp "$$scratch/pins.txt" constraints.txt && echo "constraints.txt: $$(grep -c == constraints.txt) pins"

define WRITE_PINS
import json, re, sys

report = json.load(open(sys.argv[1]))
pins = {}
for package in report["install"]:
    if package["download_info"].get("dir_info") is None:  # a folder: that is this project itself
        name = re.sub("[-_.]+", "-", package["metadata"]["name"]).lower()
        pins[name] = package["metadata"]["version"].partition("+")[0]  # any build of a version will do: +cpu, +cu126
print("# The exact versions that `make setup` installs and the tests have seen; the ranges stand in pyproject.toml.")
print("# Written by `make lock`, with Python {python_version} on {platform_system}: what only another system needs is not pinned.".format(**report["environment"]))
for name in sorted(pins):
    if not re.match("nvidia-|cuda-|triton$$", name):  # torch itself pins the parts of its CUDA build
        print(f"{name}=={pins[name]}")
endef
export WRITE_PINS
