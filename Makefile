# Every target sets up what it needs. `make` alone lists them.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
PY := .venv/bin/python

.PHONY: help setup services demo test test-all soak chaos lint bench pictures up down status lock clean

help:  ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup:  ## the virtual environment with the locked packages
	@PYTHON=$(PYTHON) bash deploy/setup.sh python

services: setup  ## what real tests need: redis-server, Java, Maven, Prometheus, Chromium
	@bash deploy/setup.sh services

demo: setup  ## simulator -> trainer -> scorer on this machine, in under a minute (the first time two)
	@$(PY) -m deploy.local.demo

lint: setup  ## style, types and import rules
	@.venv/bin/ruff check .
	@.venv/bin/mypy
	@.venv/bin/lint-imports

test: setup services lint  ## everything but the slow tests, on a real Kafka and a real Redis
	@.venv/bin/pytest -m "not slow" --numprocesses auto --dist loadfile --no-loadscope-reorder  # long ones come first

test-all: setup services lint  ## the slow tests too
	@.venv/bin/pytest

soak: setup services  ## hours: fifty million steps of the commit protocol, half a million fuzzed events, flat memory
	@.venv/bin/pytest -m slow tests/unit/store tests/unit/events tests/unit/model tests/integration/test_serve_bodies.py

chaos: setup services  ## ten minutes of kills on real processes: every event counts exactly once
	@$(PY) tests/chaos/chaos.py --minutes 10

bench: setup services  ## speeds as ratios within one run: a table and bench.json
	@$(PY) tests/benchmarks/bench.py

pictures: services  ## pictures, tables and dashboards of the documentation, made anew
	@.venv/bin/pip install --quiet 'matplotlib>=3.9'
	@$(PY) -m deploy.docs.transforms
	@$(PY) -m deploy.docs.stages
	@$(PY) -m deploy.docs.latency
	@$(PY) -m deploy.docs.page
	@$(PY) -m deploy.docs.metrics
	@$(PY) -m deploy.grafana.dashboards

up: services  ## Kafka, Redis, Prometheus, trainer and scorer on loopback
	@$(PY) -m deploy.local up

down: setup  ## end exactly what `up` started
	@$(PY) -m deploy.local down

status: setup  ## what of it runs
	@$(PY) -m deploy.local status

lock: setup  ## resolve the packages anew into requirements.lock
	@.venv/bin/pip install --quiet uv
	@.venv/bin/uv pip compile pyproject.toml --extra demo --extra dev --generate-hashes --no-emit-index-url --python-version 3.11 \
		--upgrade --quiet --custom-compile-command "make lock" -o requirements.lock

clean:  ## forget the environment, caches and the local stack's state
	@rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache bench.json
