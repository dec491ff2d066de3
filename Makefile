# Retrain. `make up` runs the main job, `make test` passes the tests; `make help` lists the rest.

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
READY := $(VENV)/.ready

# Bytecode saves seconds of import per process; nobody is told what runs here.
unexport PYTHONDONTWRITEBYTECODE
export PYTHONPATH := $(CURDIR)/include
export DO_NOT_TRACK := 1
export DVC_NO_ANALYTICS := 1
export GX_ANALYTICS_ENABLED := false
export MLFLOW_DISABLE_TELEMETRY := true
export OMP_WAIT_POLICY := passive
export AIRFLOW_PORT MLFLOW_PORT RETRAIN_HOME MODEL

.DEFAULT_GOAL := help
.PHONY: help up down status data test check chaos bench docs lock clean

help:  ## show this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

up: data  ## start Airflow and MLflow, run the flights model over its year, show the table
	@$(PY) bin/local.py up

down: $(READY)  ## stop everything
	@$(PY) bin/local.py down

status: $(READY)  ## the table of what happened
	@$(PY) bin/local.py status

data: $(READY)  ## lay the example data as landing files
	@$(PY) examples/flights.py data/flights
	@$(PY) examples/diabetes.py data/diabetes

test: check  ## lint, types, borders and tests
	@rm -rf .coverage && mkdir .coverage
	@$(PY) -m pytest -p tests.measured -n 2 --dist loadfile --no-loadscope-reorder
	@$(PY) -m coverage combine --quiet --data-file=.coverage/all .coverage
	@echo "line and branch coverage of what changes the champion:" && $(PY) -m coverage report --data-file=.coverage/all

check: $(READY)  ## ruff, mypy, import-linter, names
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/mypy
	@$(VENV)/bin/lint-imports --no-logo
	@$(PY) bin/names.py

chaos: $(READY)  ## kill, race, lock out and tamper with promotions and rollbacks; count what is violated
	@$(PY) -m tests.chaos

bench: data  ## the figures of docs/benchmarks.md
	@$(PY) benchmarks/all.py

docs: $(READY)  ## write the pages of docs that are made from the code
	@$(PY) bin/reference.py

lock: $(READY)  ## write requirements.txt from pyproject.toml and requirements.in
	@$(VENV)/bin/uv pip compile pyproject.toml requirements.in --extra s3 --universal --python-version 3.11 --generate-hashes \
		--custom-compile-command "make lock" -q -o requirements.txt

clean: down  ## stop, and forget all that ran here
	rm -rf .retrain

$(READY): requirements.txt bin/uv.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' \
		|| { echo "Retrain needs Python 3.11 to 3.13; give one: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	@echo "environment: installing the pinned packages of requirements.txt into $(VENV) (about a minute)"
	@$(PYTHON) -m venv $(VENV)
	@$(PY) -m pip install --quiet --disable-pip-version-check --require-hashes -r bin/uv.txt
	@$(VENV)/bin/uv pip install --quiet --python $(PY) --require-hashes --compile-bytecode -r requirements.txt
	@$(VENV)/bin/uv pip install --quiet --python $(PY) --no-deps --no-build-isolation --offline --editable .
	@touch $@
	@echo "environment: ready"
