# Everything runs from .venv; nothing else on the machine changes.
# Variables: PYTHON (the interpreter that makes .venv), TORCH_ARGS (pip options for torch alone,
# for example --index-url https://download.pytorch.org/whl/cpu), DATA (training images of the demo).

PYTHON ?= python3
TORCH_ARGS ?=
DATA ?=

BIN := .venv/bin
# bytecode is written afterwards, of what is loaded alone: that of all files costs three times as much
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt
# processes of runs may write none; methods load these late
COMPILE := PYTHONDONTWRITEBYTECODE= $(BIN)/python -c "import onnx.reference, \
  torch._dynamo.convert_frame, torch._inductor.compile_fx; \
  from models.catalog import kinds; from models.stored import load_entry; [load_entry(spec) for spec in kinds().values()]"

.DEFAULT_GOAL := help
LOCK := $(BIN)/uv pip compile --quiet pyproject.toml requirements/build.in -c constraints.txt \
  --override requirements/torch_apart.in --generate-hashes --no-annotate --no-header \
  --python-version 3.11.9 --python-platform linux

.PHONY: help install demo serve docs test test-docs test-slow mutants check audit lock

help:
	@echo "make demo       run real jobs over HTTP, write results to ./demo-output, exit"
	@echo "make serve      the service on this machine until Ctrl-C"
	@echo "make docs       the documentation as a site, build/docs/site/index.html"
	@echo "make test       the test suite, on two cores; meant for 10 minutes"
	@echo "make test-docs  the wheel in an empty environment, at most 5 minutes"
	@echo "make test-slow  the longer tests, and all of models with its annotations checked"
	@echo "make mutants    changes of the code that no test notices, drawn at random; a night"
	@echo "make check      lint, format, types, import contracts, declared dependencies"
	@echo "make audit      known vulnerabilities of the locked packages, licences of all at run time"
	@echo "make lock       requirements/*.txt and docs/licences.md anew, after a change of constraints.txt"
	@echo "make install    only set up .venv for demo and serve"

install: .venv/.installed

demo: .venv/.installed
	$(BIN)/sextant demo $(if $(DATA),--data $(DATA))

serve: .venv/.installed
	$(BIN)/sextant up

docs: .venv/.installed-dev
	$(BIN)/python docs/site/pages.py build/docs
	$(BIN)/zensical build --strict --config-file build/docs/mkdocs.yml

test: .venv/.installed-dev
	$(BIN)/python -m pytest -q -n 3 --dist loadscope --no-loadscope-reorder

test-docs: .venv/.installed-dev
	TORCH_ARGS='$(TORCH_ARGS)' $(BIN)/python -m pytest -q -m docs

test-slow: .venv/.installed-dev
	$(BIN)/python -m pytest -q -m 'slow or other_database' --ignore tests/models
	TEST_TYPES=1 $(BIN)/python -m pytest -q -m 'not gpu and not bench and not docs' tests/models

mutants: .venv/.installed-dev
	$(BIN)/python -m tests.mutation

check: .venv/.installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/ty check app workers models
	$(BIN)/lint-imports
	$(BIN)/deptry app models workers migrations

audit: .venv/.installed-dev
	$(BIN)/python -m tests.packaging.audit requirements/api.txt requirements/worker.txt
	$(BIN)/python -m tests.packaging.licences --check

lock: .venv/.installed-dev
	$(LOCK) --extra server --extra otel --output-file requirements/api.txt
	$(LOCK) --extra worker --extra samples --extra otel --output-file requirements/worker.txt
	$(BIN)/python -m tests.packaging.licences

.venv/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Sextant needs Python 3.11 or later; $(PYTHON) is `$(PYTHON) --version 2>&1`."; \
	  echo "Try: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@touch $@

# torch comes first and alone: TORCH_ARGS may name the index of its CPU builds.
# A newer pip than that of Python needs half of the time for what comes after it.
.venv/.torch: .venv/.python constraints.txt
	@echo "Installing torch into .venv ..."
	$(PIP) --upgrade pip
	$(PIP) $(TORCH_ARGS) torch
	@touch $@

.venv/.installed: .venv/.torch pyproject.toml
	@echo "Installing Sextant into .venv ..."
	$(PIP) -e '.[embedded,samples]'
	@$(COMPILE)
	@touch $@

# Nets of timm are tested as they are. Without dependencies: those name torch, and pip would replace
# a build for CPUs by one of several GB.
.venv/.installed-dev: .venv/.torch pyproject.toml
	@echo "Installing Sextant and its tools into .venv ..."
	$(PIP) -e '.[dev]'
	$(PIP) --no-deps timm torchvision huggingface_hub
	-@$(BIN)/python -m compileall -qq -j 0 .venv/lib
	@touch $@ .venv/.installed
