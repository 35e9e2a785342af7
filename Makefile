# Everything runs in .venv, which the first command makes. Needs Python 3.10 or newer and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
KERAS := .venv-keras
READY := $(VENV)/.ready
# Two torch processes with two threads each slow one another down; one thread each does not.
TEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist worksteal

.PHONY: demo test parity lint check clean

demo: $(READY)
	$(BIN)/python examples/demo.py --out out/demo

test: $(READY)
	$(TEST) --cov --cov-report=term

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The authors' layer against TensorFlow, which lives in an environment of its own.
parity: $(READY) $(KERAS)/.ready
	KERAS_PYTHON=$(KERAS)/bin/python $(BIN)/python -m pytest -q tests/test_keras_tensorflow.py

$(KERAS)/.ready: pyproject.toml
	$(PYTHON) -m venv $(KERAS)
	$(KERAS)/bin/python -m pip install -q --upgrade pip
	$(KERAS)/bin/python -m pip install -q --group keras
	touch $@

check: lint test parity

clean:
	rm -rf $(VENV) $(KERAS) build dist out site

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --upgrade pip
	$(BIN)/python -m pip install -q -e '.[all]' --group dev
	touch $@
