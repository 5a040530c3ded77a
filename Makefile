# Two commands on a fresh Debian machine, as root: `make demo` and `make test`. Everything they need they install.

PYTHON ?= python3
PORT   ?= 80
BIN    := .venv/bin

.PHONY: help demo test lint unit soak vm docs bench-launch bench-rollout bench-scale clean

help: ## show what can be made
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 16

demo: .venv/runs ## serve an example on port 80 (PORT= to change) from three instances; Ctrl-C ends it
	@PORT=$(PORT) $(BIN)/python examples/hello/demo

test: lint docs unit soak vm ## everything: lint, types, docs, unit and kernel tests, tests in the virtual machine

lint: .venv/tests ## ruff and mypy
	$(BIN)/ruff check . integration/vm examples/hello/demo
	$(BIN)/ruff format --check . integration/vm examples/hello/demo
	$(BIN)/mypy

docs: .venv/tests ## build the documentation, warnings are errors
	$(BIN)/sphinx-build -W -q -b html docs docs/_build/html

unit: .venv/tests ## tests that need no virtual machine; they need root
	@scripts/need bubblewrap crun vagrant vagrant-libvirt systemd
	@scripts/need iproute2 gcc libc6-dev libsystemd-dev golang-go nodejs npm nginx gettext-base
	$(BIN)/pytest

soak: .venv/tests ## a minute of roll-outs, restarts and kills at random, under load
	$(BIN)/python -m benchmarks.rollout.soak --seconds 30
	$(BIN)/python -m benchmarks.rollout.soak --seconds 30 --reuse-port

vm: .venv/tests ## tests of limits, OOM and systemd in a virtual machine
	$(BIN)/python integration/vm test

bench-launch: .venv/tests ## time a start against bwrap and crun on this host
	@scripts/need bubblewrap crun
	$(BIN)/python -m benchmarks.launch

bench-rollout: .venv/tests ## upgrades, bad versions and kill -9 under load, beside circus, supervisord, gunicorn, systemd
	$(BIN)/python -m benchmarks.rollout --vm --plot docs/_static/rollout.svg

bench-scale: .venv/tests ## 1,000 instances, reloads of 500, memory, idle, what dies
	$(BIN)/python -m benchmarks.scale

# Without -e in "compat" mode every start would pay for an import hook of setuptools.
.venv/runs: setup.cfg pyproject.toml
	@scripts/need python3-venv curl
	@echo "setting up .venv"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is older than 3.11"; exit 1; }
	@$(PYTHON) -m venv .venv
	@$(BIN)/pip install --quiet --disable-pip-version-check --config-settings editable_mode=compat --editable .
# What is compiled when it is imported stays in memory: 1 MB of the supervisor.
	@$(BIN)/python -m compileall -q lithos_runner cgroup
	@touch $@

.venv/tests: .venv/runs
	@echo "setting up what the tests need"
	@$(BIN)/pip install --quiet --disable-pip-version-check --config-settings editable_mode=compat --editable '.[test,stacks,bench,lint,docs]'
	@touch $@

clean: ## remove what was made here; the cache of the virtual machine stays in ~/.cache/lithos-runner
	rm -rf .venv build dist docs/_build .pytest_cache .mypy_cache .ruff_cache .hypothesis ./*.egg-info
