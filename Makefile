# Two commands on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Waiting threads that spin cost several times the work itself where cores are shared.
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: help install dev browser player train-extras docs demo test test-slow test-gate test-wheel lint format \
  bench core-wheel clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

# The stamps make a second call cheap; they depend on pyproject.toml so that new pins install.
$(VENV)/.installed: $(BIN)/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --editable '.[dev,docs,train,web]'
	@# Parity oracle of the tests. Its own pins would replace half of the environment.
	$(BIN)/python -m pip install --quiet --no-deps audio-diffusion-pytorch==0.0.43
	touch $@

install: $(VENV)/.installed ## install the package into .venv

dev: $(VENV)/.installed-dev ## install what tests and linting need as well

train-extras: dev ## Debian packages for rendering training songs (FluidSynth, soundfonts)
	apt-get update -qq
	apt-get install -y -qq libfluidsynth3 musescore-general-soundfont fluid-soundfont-gm

demo: install ## separate the shipped example with the bundled prior; a page to listen to it comes last
	$(BIN)/mgdm-separate mgdm_audio/examples/example_mix.flac --out separated --overwrite --page

docs: dev ## the documentation site, in build/site: opens from the disk
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs --quiet build
	@echo "build/site/index.html"

browser: ## Chromium for the tests in a browser, from Debian's packages (they skip without it)
	@command -v chromium >/dev/null || ! command -v apt-get >/dev/null || \
	  { apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium; } || \
	  echo "chromium was not installed: the tests in a browser are skipped"

player: ## bundle the listening page's player again from its sources and wavesurfer.js (needs Node)
	cd mgdm_audio/listening_page/player && npm ci --silent && npm run --silent build

test: dev browser ## the whole suite but the slow tests, a process and a thread per core
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --dist loadfile

test-slow: dev ## the slow tests
	$(BIN)/python -m pytest -q -m slow

test-gate: dev ## the handful of slow tests that the gate runs as well: a kill, a signal, a Ray run
	$(BIN)/python -m pip install --quiet --editable '.[cluster]'
	$(BIN)/python -m pytest -q -m gate

test-wheel: dev ## build the wheel, install it into an empty environment, separate one second with it
	PYTHON=$(BIN)/python .ci/wheel

lint: dev ## ruff and pyright
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

format: dev ## rewrite the code in the project's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: dev ## timings as ratios within one run (never part of the tests)
	$(BIN)/python -m recipes.speed

core-wheel: $(BIN)/python ## mgdm_core as a wheel of its own, in dist/
	$(BIN)/python packaging/core_wheel.py dist

clean: ## remove what the build made (not runs/)
	rm -rf $(VENV) build dist *.egg-info separated .pytest_cache .ruff_cache .hypothesis
