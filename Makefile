# make demo: the main job on embedded data, ending with pictures and figures.   make test: the whole suite.
# Both make their own environment in .venv first; PYTHON=python3.10 picks an interpreter.
PYTHON ?= python3
BIN = .venv/bin

.PHONY: demo test lint clean

demo: .venv/installed
	$(BIN)/python -m mirnet_torch.demo

test: .venv/installed
	$(BIN)/python -m pytest

lint: .venv/installed
	$(BIN)/flake8
	$(BIN)/isort --check .
	$(BIN)/mypy

.venv/installed: setup.cfg pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e ".[all]"
	touch $@

clean:
	rm -rf .venv build demo *.egg-info
