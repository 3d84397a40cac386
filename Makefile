# Everything a person does with this repository. The first use of any target installs what it needs.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Much of a test's time is waiting for other processes, so two workers pay even on two cores.
TEST_WORKERS ?= 2
PYTEST := $(BIN)/pytest -q -n $(TEST_WORKERS) --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help up test test-fast check k8s bench prove-budget prove-metering prove-wallet prove-workflows demo proto lock format clean

help: ## what there is to do
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(READY): requirements.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 is needed and $(PYTHON) is not found; set PYTHON=/path/to/python3.11"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing the locked dependencies into $(VENV) …"
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

up: $(READY) ## start the whole suite in the foreground; Ctrl-C stops it
	@PURSE_FOLLOW_PARENT=1 exec $(BIN)/purse up

prove-wallet: $(READY) ## recharges while a fifth goes wrong, settled calls up to the posted ledger; about 20 minutes
	@$(BIN)/python -m proofs.wallet

prove-workflows: $(READY) ## recharges by forecast against threshold, a storm of alerts, worker kills; about 20 minutes
	@$(BIN)/python -m proofs.workflows

prove-metering: $(READY) ## recording beside a raw COPY, questions over ten million events, forecasts; some minutes, 6 GB
	@$(BIN)/python -m proofs.metering

prove-budget: $(READY) ## many processes against budget, twenty budgets, a million counters; some minutes
	@$(BIN)/python -m proofs.budget

demo: $(READY) ## play the whole story on temporary data
	@PURSE_FOLLOW_PARENT=1 exec $(BIN)/purse demo

test: $(READY) ## all tests, the fast ones first
	@$(PYTEST) tests/unit tests/property
	@$(PYTEST) tests/integration tests/e2e tests/chaos

test-fast: $(READY) ## unit and property tests
	@$(PYTEST) tests/unit tests/property

check: $(READY) ## lint, types, contracts, generated code, imports, migrations, the client's floor, manifests
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo 2>/dev/null || $(BIN)/lint-imports
	@bash scripts/check_proto.sh
	@$(BIN)/squawk --config .squawk.toml services/*/migrations/*.sql
	@$(BIN)/python scripts/check_lock.py
	@PYTHON=$(BIN)/python bash scripts/check_client_floor.sh
	@$(MAKE) --no-print-directory k8s

k8s: $(READY) ## hold the container file and the manifests against the code and Kubernetes' schemas
	@$(BIN)/hadolint Containerfile
	@$(BIN)/python -m scripts.k8s

proto: $(READY) ## generate the stubs from protos/
	@bash scripts/proto.sh

bench: $(READY) ## measure; writes .purse/bench.json
	@$(BIN)/python -m bench

lock: ## resolve the dependencies anew
	@uv pip compile --quiet --python-version 3.11 --generate-hashes --no-emit-index-url --universal --all-extras --group dev pyproject.toml -o requirements.lock
	@uv pip compile --quiet --python-version 3.11 --generate-hashes --no-emit-index-url --universal scripts/requirements-gen.in -o scripts/requirements-gen.lock
	@uv pip compile --quiet --python-version 3.11 --generate-hashes --no-emit-index-url --universal scripts/requirements-floor.in -o scripts/requirements-floor.lock
	@uv pip compile --quiet --python-version 3.11 --generate-hashes --no-emit-index-url --universal --extra server --extra cli -c requirements.lock pyproject.toml -o scripts/requirements-image.lock

format: $(READY) ## format the code
	@$(BIN)/ruff check --fix-only --quiet .
	@$(BIN)/ruff format --quiet .

clean: ## remove what was built, keeping the data in .purse
	@rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .purse/gen .purse/protos
