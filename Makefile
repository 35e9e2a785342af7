# Everything runs in .venv, which the first command makes. Needs Python 3.10 or newer and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
KERAS := .venv-keras
WHEEL := .venv-wheel
# Two torch processes with two threads each slow one another down; one thread each does not.
export OMP_NUM_THREADS := 1
# It announces another program at each build.
export NO_MKDOCS_2_WARNING := 1
ifdef HAM10000_DIR
export HAM10000_DIR := $(abspath $(HAM10000_DIR))
endif
PYTEST := -m pytest -q -n 2 --dist worksteal
STUDY := examples/ham10000

DOCS := $(VENV)/.docs

.PHONY: demo picture test lint parity package test-wheel coverage-models coverage-insert families \
	mutants bench bench-check docs docs-serve docs-check check clean

# HAM10000 from a data set to a report, small: on the real images where HAM10000_DIR names them.
demo: $(READY)
	$(BIN)/ham10000 demo --out out/demo

# The README's picture: a minute of training on synthetic lesions.
picture: $(READY)
	OMP_NUM_THREADS=2 $(BIN)/python examples/demo.py --out out/picture

test: $(READY)
	$(BIN)/python $(PYTEST) --cov --cov-report=term
	cd $(STUDY) && ../../$(BIN)/python $(PYTEST)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	cd $(STUDY) && ../../$(BIN)/mypy
	$(BIN)/interrogate -q -c pyproject.toml src $(STUDY)/src
	$(BIN)/codespell $$(git ls-files '*.md' '*.rst' '*.py' '*.js' '*.css' '*.yml' '*.yaml' '*.toml')

# The authors' layer against TensorFlow, which lives in an environment of its own.
parity: $(READY) $(KERAS)/.ready
	KERAS_PYTHON=$(KERAS)/bin/python $(BIN)/python -m pytest -q tests/test_keras_tensorflow.py

package: $(READY)
	rm -rf dist
	$(BIN)/python -m build --outdir dist .
	$(BIN)/twine check --strict dist/*
	$(BIN)/python scripts/check_package.py dist

# The wheel in an empty environment, without extras: what needs one skips and says so.
test-wheel: package
	$(PYTHON) -m venv --clear $(WHEEL)
	$(WHEEL)/bin/python -m pip install -q --upgrade pip
	$(WHEEL)/bin/python -m pip install -q dist/*.whl --group test
	$(WHEEL)/bin/python $(PYTEST) -rs tests
	rm -rf $(WHEEL)

# Every model of torchvision and timm: half an hour on two cores. Writes docs/models.md.
coverage-models: $(READY)
	$(BIN)/python benchmarks/coverage_models.py --fresh

# Every stage of the smallest model of every timm file. Writes docs/insertion.md.
coverage-insert: $(READY)
	$(BIN)/python benchmarks/coverage_insert.py

# One small model of every family: what it survives wrapped. Hours. Writes docs/families.md.
families: $(READY)
	$(BIN)/python benchmarks/families.py
	$(BIN)/python benchmarks/families.py --slow
	$(BIN)/python benchmarks/families.py --ddp

# Changes every operator of functional.py and fused.py, one at a time, for at most an hour; the
# tests must notice each.
mutants: $(READY)
	$(BIN)/python -m pip install -q --group mutation
	$(BIN)/python scripts/mutants.py

# What it costs beside the alternatives and the limits: about 20 minutes on two cores, which should
# have nothing else to do. Writes docs/performance.md. The input pipeline's part and the trainer's
# need HAM10000_DIR.
bench: $(READY)
	$(BIN)/python benchmarks/run.py --write

# The ratios of the layer beside stored ones; seconds, or a minute where it has to look twice.
bench-check: $(READY)
	$(BIN)/python benchmarks/run.py --check

# The site: the gallery's figures (a minute), the API, and the guides around them, in site/.
docs: $(DOCS) build/gallery/gallery.txt
	rm -rf build/api docs/api/softattn.*.rst
	$(BIN)/python -m sphinx -q -W --keep-going -n -E -d build/doctrees docs/api build/api
	$(BIN)/mkdocs build -q --strict

build/gallery/gallery.txt: $(DOCS) scripts/site/gallery.py
	$(BIN)/python scripts/site/gallery.py

docs-serve: docs
	$(BIN)/mkdocs serve

# What was built: links, spelling, and each page in Chromium (skipped where there is none).
docs-check: docs
	$(BIN)/python -m pytest -q -n 2 -rs -o pythonpath=scripts/site/checks scripts/site/checks

check: lint test parity test-wheel docs-check bench-check

clean:
	rm -rf $(VENV) $(KERAS) $(WHEEL) build dist out site

$(READY): pyproject.toml $(STUDY)/pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --upgrade pip
	$(BIN)/python -m pip install -q -e '.[all]' --group dev
	$(BIN)/python -m pip install -q -e $(STUDY) --group $(STUDY)/pyproject.toml:test \
		--group $(STUDY)/pyproject.toml:lint
	touch $@

$(DOCS): $(READY)
	$(BIN)/python -m pip install -q --group docs
	touch $@

$(KERAS)/.ready: pyproject.toml
	$(PYTHON) -m venv $(KERAS)
	$(KERAS)/bin/python -m pip install -q --upgrade pip
	$(KERAS)/bin/python -m pip install -q --group keras
	touch $@
