# `make help` lists what there is. Every target sets up what it needs; a second call is fast.

PYTHON ?= python3
# Another interpreter has an environment of its own: .venv-python3.12
VENV   ?= .venv$(addprefix -,$(notdir $(filter-out python3,$(PYTHON))))
ARGS   ?=

# A shell that asks for no bytecode would have each process that a test starts compile the library again.
unexport PYTHONDONTWRITEBYTECODE

BIN    := $(VENV)/bin
RUN    := $(VENV)/.stamp-run
DEV    := $(VENV)/.stamp-dev
PEERS  := benchmarks/.venv-peers
# Tests wait more than they compute: two processes of tests for each processor of a small machine.
SPREAD := -n 4 --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help run test test-slow test-fast check format bench soak docs coverage up down clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "  PYTHON=python3.12 chooses the interpreter (3.11 or newer) and with it the environment .venv-python3.12; VENV another,"
	@echo "  ARGS='-k name' is handed to pytest by the test targets."

run: $(RUN) ## the main job, on the embedded broker: a worker runs an application's tasks (no server needed)
	@$(BIN)/python examples/tour/tour.py

test: $(DEV) ## the test suite (4 minutes on 2 processors); starts private Redis and RabbitMQ servers when none answers
	@$(BIN)/python scripts/servers.py $(BIN)/python -m pytest -m "not slow" $(SPREAD) $(ARGS)

test-slow: $(DEV) ## the long tests: workers killed, blocked and stopped, 10,000 delayed tasks, the wheel
	@$(BIN)/python scripts/servers.py $(BIN)/python -m pytest -m slow $(SPREAD) $(ARGS)

test-fast: $(DEV) ## the tests that need no server (memory, SQLite) and take no long time
	@$(BIN)/python -m pytest -m "not redis and not rabbitmq and not slow" $(SPREAD) $(ARGS)

check: $(DEV) ## format, lint, types, architecture
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/pyright --pythonpath $(BIN)/python
	@$(BIN)/python -m pytest -q tests/test_architecture.py

format: $(DEV) ## format the code and apply the safe fixes
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

coverage: $(DEV) ## the whole test suite, the long tests too, with the branches it and the commands it starts reached: one figure
	@$(BIN)/python scripts/servers.py $(BIN)/python -m pytest --cov --cov-report=term $(SPREAD) $(ARGS)

bench: $(DEV) $(PEERS)/.stamp ## taskq beside its peers on private servers; BROKER=sqlite|memory|redis|amqp for one
	@$(BIN)/python -m benchmarks $(ARGS) $(if $(BROKER),--broker $(BROKER))

soak: $(DEV) ## kills, stops, broker restarts and resets at random for 2 minutes, then what was lost; BROKER=redis|amqp|sqlite, SOAK=3600 for an hour
	@$(BIN)/python -m scripts.soak --broker $(or $(BROKER),redis) --seconds $(or $(SOAK),120) $(ARGS)

$(PEERS)/.stamp: benchmarks/requirements-peers.txt
	@scripts/venv.sh $(PYTHON) $(PEERS) --requirement $<
	@touch $@

docs: $(DEV) ## write docs/settings.md again from the settings themselves
	@$(BIN)/python scripts/settings_page.py

up: ## redis, rabbitmq and a worker with the example, by docker compose
	@scripts/compose.sh up --detach --build --wait

down: ## stop what `make up` started and remove its data
	@scripts/compose.sh down --volumes

clean: ## remove everything that was built or cached, the virtual environment too
	rm -rf $(VENV) $(PEERS) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage .coverage.* .taskq
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# pyproject.toml names all dependencies, so a change there installs again.
$(RUN): pyproject.toml taskq/version.py
	@scripts/venv.sh $(PYTHON) $(VENV) "."
	@touch $@

$(DEV): pyproject.toml taskq/version.py
	@scripts/venv.sh $(PYTHON) $(VENV) ".[test,check]"
	@touch $@ $(RUN)
