# Every command a contributor needs; `make help` lists them.
.DEFAULT_GOAL := help
SHELL := /bin/sh
PYTHON ?= python3
PORT ?= 8080
CONFIG ?=
VENV := .venv
BIN := $(VENV)/bin
# The gate's own machines have two cores; more would not make the suite wait less.
JOBS ?= 4

.PHONY: help run test bench bench-streams check format lint types contracts dockerfile lock dashboards dashboard-shots clean

help: ## List the commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 18

# A virtual environment from a hashed lock file; rebuilt when the lock changes.
$(VENV)/run.stamp: requirements/run.lock pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { echo "python3 -m venv failed: on Debian, apt-get install python3-venv"; exit 1; }
	@test -f $(VENV)/dev.stamp || $(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/run.lock
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/dev.stamp: requirements/dev.lock requirements/openai-1.lock pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { echo "python3 -m venv failed: on Debian, apt-get install python3-venv"; exit 1; }
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.lock
	@rm -rf $(VENV)/openai-1
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/openai-1.lock --target $(VENV)/openai-1
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@ $(VENV)/run.stamp

# Prometheus and promtool, which hold the rules and the dashboards to the proxy: unpacked from the system's package, not
# installed. Tried once; where they are not to be had, the tests that need them are skipped and say so.
$(VENV)/prometheus.stamp: | $(VENV)/dev.stamp
	@command -v promtool >/dev/null && command -v prometheus >/dev/null || { command -v apt-get && command -v dpkg \
		&& { apt-cache show prometheus || { [ "$$(id -u)" = 0 ] && timeout 120 apt-get update -q; }; } \
		&& rm -rf $(VENV)/prometheus && mkdir -p $(VENV)/prometheus && cd $(VENV)/prometheus \
		&& timeout 180 apt-get download -q prometheus && dpkg -x prometheus_*.deb . && rm -f prometheus_*.deb; \
	} >/dev/null 2>&1 || true
	@touch $@

# The sandbox is the upstream unless one is configured: a file (CONFIG=, IMAGEGATE_CONFIG) or an address.
run: $(VENV)/run.stamp ## Serve images on PORT (8080), from the sandbox unless an upstream is configured
	@if [ -n "$(CONFIG)" ]; then exec $(BIN)/imagegate serve --config "$(CONFIG)" --port $(PORT); \
	elif [ -n "$$IMAGEGATE_CONFIG$$OPENAI_BASE_URL$$IMAGEGATE_UPSTREAMS__0__BASE_URL" ]; then exec $(BIN)/imagegate serve --port $(PORT); \
	else exec $(BIN)/imagegate serve --with-sandbox --port $(PORT); fi

test: $(VENV)/dev.stamp $(VENV)/prometheus.stamp ## Run the whole test suite
	@$(BIN)/pytest -n $(JOBS) --dist worksteal $(ARGS)

bench: $(VENV)/run.stamp ## Measure beside nginx, LiteLLM and Portkey (ARGS="--full", "--soak"; see bench/README.md)
	@$(BIN)/python -m bench.peers
	@$(BIN)/python -m bench $(ARGS)

bench-streams: $(VENV)/run.stamp ## Measure how much later a stream's first picture comes than without a proxy
	@$(BIN)/python -m bench.streams

check: format lint types contracts test ## Everything the gate runs

format: $(VENV)/dev.stamp ## Fail if the code is not formatted
	@$(BIN)/ruff format --check .

lint: $(VENV)/dev.stamp ## Lint the code and the Dockerfile
	@$(BIN)/ruff check .
	@$(BIN)/hadolint Dockerfile

types: $(VENV)/dev.stamp ## Check the types
	@$(BIN)/mypy

contracts: $(VENV)/dev.stamp ## Check who may import whom
	@$(BIN)/lint-imports --no-cache

dashboards: $(VENV)/dev.stamp ## Write grafana/dashboards anew
	@$(BIN)/python -m grafana.build

# Beside the lock files it takes Debian's chromium, and the npm packages of grafana/shots (450 MB).
dashboard-shots: $(VENV)/dev.stamp $(VENV)/prometheus.stamp ## Draw docs/pictures anew from five minutes of load (needs chromium)
	@$(BIN)/python -m grafana.shots

lock: ## Renew requirements/*.lock (needs uv)
	uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-emit-find-links --no-annotate --upgrade \
		--python-version 3.11 --custom-compile-command "make lock" pyproject.toml requirements/build.in -o requirements/run.lock
	uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-emit-find-links --no-annotate --upgrade \
		--python-version 3.11 --custom-compile-command "make lock" pyproject.toml requirements/build.in --group dev -o requirements/dev.lock
	uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-emit-find-links --no-annotate --upgrade \
		--python-version 3.11 --custom-compile-command "make lock" requirements/openai-1.in -o requirements/openai-1.lock
	uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-emit-find-links --no-annotate --upgrade \
		--python-version 3.11 --custom-compile-command "make lock" requirements/litellm.in -o requirements/litellm.lock

clean: ## Remove what the other commands made
	rm -rf $(VENV) var .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache tests/clients/node/node_modules grafana/shots/node_modules
