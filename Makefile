# Vicinal: every task of a developer and of CI. `make help` lists them.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PROTOS := $(wildcard protos/vicinal/v1/*.proto)
WORKSPACE ?= demo/workspace
# Order and seeds of the tests: the same for everybody, until you say another.
SEED ?= 1359841006

.PHONY: help install gen format check test test-fast coverage bench demo clean

help: ## list these targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

install: $(STAMP) ## create .venv and install the pinned dependencies

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("Vicinal needs Python 3.11 or newer, this is " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { echo "no venv module: apt-get install python3-venv" >&2; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[service,dev,bench]'
	touch $@

# Servers that the tests of the Milvus engine talk to: an environment of their own, because they bring another FAISS.
.venv-milvus: ## milvus-lite and Milvus, for the tests of that engine
	$(PYTHON) -m venv $@
	$@/bin/python -m pip install --quiet --disable-pip-version-check milvus-lite==3.2.2 pymilvus==3.0.2 milvus==2.3.5 \
	  || { rm -rf $@; echo "no Milvus servers for this machine: their tests are skipped, with this reason" >&2; }

constraints.txt: ## (needs uv) resolve the pins anew: rm constraints.txt && make constraints.txt
	uv pip compile -q --universal --python-version 3.11 pyproject.toml --extra dev --extra service --extra bench -o $@

gen: $(STAMP) ## generate vicinal/v1 from protos/
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m grpc_tools.protoc -Iprotos --python_out=. --grpc_python_out=. --mypy_out=. --mypy_grpc_out=. $(PROTOS)

format: $(STAMP) ## format Python and protos
	$(BIN)/ruff check --fix --exit-zero --quiet .
	$(BIN)/ruff format --quiet .
	$(BIN)/buf format -w

check: $(STAMP) ## lint, types, import direction, protos, Dockerfile, spelling
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy .
	$(BIN)/lint-imports
	$(BIN)/buf format -d --exit-code
	$(BIN)/buf lint
	$(BIN)/python tests/arch/proto_breaking.py
	$(BIN)/deptry .
	$(BIN)/hadolint Dockerfile
	$(BIN)/typos

test-fast: $(STAMP) ## the tests that take no processes and no patience
	$(BIN)/python -m pytest -q -m "not slow and not e2e and not gpu"

test: images check .venv-milvus ## everything CI runs
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -p randomly --randomly-seed=$(SEED) --cov --cov-report=term:skip-covered --durations=25

bench: $(STAMP) ## a quick form of every benchmark; results in benchmarks/results/
	for script in benchmarks/bench_*.py; do $(BIN)/python -m "benchmarks.$$(basename "$$script" .py)" --quick; done

# Real images for the demo and the tests: Debian's package where apt and root allow; else the demo looks further.
.PHONY: images
images:
	@test -d /usr/share/datasets/fashion-mnist || test -n "$(IMAGES)" || test "$$(id -u)" != 0 || ! command -v apt-get >/dev/null \
	  || { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq dataset-fashion-mnist >/dev/null; } \
	  || echo "dataset-fashion-mnist could not be installed; going on without it" >&2

demo: $(STAMP) images ## the whole product on Fashion-MNIST: pretrain to refresh, with a report
	$(BIN)/python -m vicinal demo --workspace $(WORKSPACE) $(if $(IMAGES),--images $(IMAGES))

clean: ## remove the environment and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .coverage
