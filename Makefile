# Every target sets up what it needs; PYTHON picks the interpreter for a new environment.
PYTHON ?= python3
BIN := .venv/bin
export PIP_DISABLE_PIP_VERSION_CHECK = 1
# The tests start many processes: what one has compiled the others load, also in an image that sets this variable.
export PYTHONDONTWRITEBYTECODE =

.PHONY: demo live test sandbox serve bench lock mutants lint types contracts check coverage clean

demo: .venv/ready
	$(BIN)/medplum-bots demo

sandbox: .venv/ready
	$(BIN)/medplum-bots sandbox --with-bots

test: lint types contracts check

lint: .venv/ready-dev
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

types: .venv/ready-dev
	$(BIN)/mypy

contracts: .venv/ready-dev
	$(BIN)/lint-imports --no-cache

check: .venv/ready-dev
	$(BIN)/pytest -n 4 --dist worksteal

coverage: .venv/ready-dev
	$(BIN)/pytest -n 4 --dist worksteal --cov --cov-report=term
	$(BIN)/python tests/coverage_floor.py

# Every scenario against the server of MEDPLUM_BASE_URL, MEDPLUM_CLIENT_ID and MEDPLUM_CLIENT_SECRET (a project that may
# be thrown away; LIVE_ROUTER_PORT is where its Fission route calls), or against the look-alike if none is named.
# FIGURES=1 also measures latency, bulk sync, and 300 events with a host that is killed.
live: .venv/ready-dev
	$(BIN)/python -m tests.live

# Each mutant of the pure rules must make a law or a test fail; see tests/mutation/mutants.py.
mutants: .venv/ready-dev
	$(BIN)/python -m tests.mutation

bench: .venv/ready-dev
	$(BIN)/python -m benchmarks

.venv/bin/python:
	$(PYTHON) -m venv .venv

# Exactly what the lock files name, by hash. Not compiled: of what is installed a tenth is ever loaded, and that is
# compiled then.
INSTALL := $(BIN)/python -m pip install -q --no-compile

.venv/ready: requirements.lock pyproject.toml | .venv/bin/python
	$(INSTALL) --require-hashes -r requirements.lock
	$(INSTALL) --no-deps --no-build-isolation -e .
	@touch $@

.venv/ready-dev: requirements-dev.lock pyproject.toml | .venv/bin/python
	$(INSTALL) --require-hashes -r requirements-dev.lock
	$(INSTALL) --no-deps --no-build-isolation -e .
	@touch .venv/ready $@

# After a change of the dependencies in pyproject.toml, or to take newer versions.
lock: .venv/bin/python
	$(INSTALL) 'uv>=0.5,<1'
	$(LOCK) --extra build --extra all -o requirements.lock
	$(LOCK) --extra build --extra dev -o requirements-dev.lock

LOCK = $(BIN)/uv pip compile pyproject.toml -q --upgrade --universal --generate-hashes --custom-compile-command "make lock"

clean:
	rm -rf .venv .ruff_cache .mypy_cache .coverage dist build
