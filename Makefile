# make demo   meta-train, adapt to unseen tasks, record a video: a few minutes on two cores
# make test   lint, types, tests
PYTHON ?= python3
BIN := .venv/bin
# One test process per core; at most eight, of half a gigabyte each.
IN_PARALLEL ?= -n auto --maxprocesses 8 --dist worksteal
export OMP_NUM_THREADS ?= 1

.PHONY: install demo test lint types pytest slow clean

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || (echo "metarl needs Python 3.11 or newer; name one with: make PYTHON=python3.12 ..." && false)
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	# Made for MuJoCo 3.3.0, which pip would bring; envs/metaworld/shim.py mends what breaks. Its tests are skipped without it.
	$(BIN)/python -m pip install --quiet --no-deps metaworld==3.1.1
	touch $@

demo: install
	$(BIN)/python scripts/demo.py

test: lint types pytest

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install
	$(BIN)/mypy

pytest: install
	$(BIN)/python -m pytest $(IN_PARALLEL)

slow: install
	$(BIN)/python -m pytest -m slow $(IN_PARALLEL)

clean:
	rm -rf .venv runs build *.egg-info
