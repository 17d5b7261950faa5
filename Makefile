# Every target creates .venv and installs into it if needed, so any target works first. Needs python3 and make.
PYTHON ?= python3
KILLS ?= 200
BIN := .venv/bin

.PHONY: train test check tests test-unit test-slow test-printed lint bench gpu crash faults pretrained clean

train: .venv/installed
	$(BIN)/python train.py experiment=springs5

# Both at once: mypy takes one core for a minute.
test: .venv/installed
	@$(MAKE) --no-print-directory -j 2 check tests

check: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

tests: .venv/installed
	$(BIN)/python -m pytest -q -n 2 --dist worksteal

test-unit: .venv/installed
	$(BIN)/python -m pytest -q -n 2 --dist worksteal tests/unit

test-slow: .venv/installed
	$(BIN)/python -m pytest -q -m slow

# Trains by the command that `modmeta inspect` prints, for every file that people write: half an hour.
test-printed: .venv/installed
	$(BIN)/python -m pytest -q -m slow tests/unit/cli/test_inspect.py

lint: .venv/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The site, in site/index.html. Warnings, broken links among them, are errors.
docs: .venv/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# Runs the notebooks and saves their outputs, which the site shows.
notebooks: .venv/installed
	PYTHONWARNINGS=ignore $(BIN)/python docs/notebooks.py

bench: .venv/installed
	$(BIN)/python -m benchmarks

# Needs a CUDA device and a python3 that has torch for it. Eight minutes at most.
gpu:
	$(PYTHON) -m benchmarks.gpu

faults: .venv/installed
	$(BIN)/python -m tests.faults

crash: .venv/installed
	$(BIN)/python -m tests.crash --kills $(KILLS)

pretrained: .venv/installed
	$(BIN)/python -m benchmarks.pretrained

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

.venv/docs: .venv/installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	touch $@

clean:
	rm -rf .venv build site *.egg-info
