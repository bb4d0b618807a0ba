# Works on a machine with python3, pip, make and git: uv and the locked environment are set up on first use.
# More threads than that cost time on small models and make results depend on the machine; change it on the call.
export OMP_NUM_THREADS := 1

UV := $(shell uv --version >/dev/null 2>&1 && echo uv || echo .uv/bin/uv)
READY := .venv/.ready
# Whole files to each of two processes, because a file's tests share what is fitted for them.
SIDE_BY_SIDE := -n 2 --dist loadfile
DATA ?=

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow test-bench lint format docs bench clean

help: ## what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(READY) ## the whole story on generated images, in minutes
	.venv/bin/homeostat demo

test: $(READY) ## the everyday tests
	.venv/bin/pytest -m "not slow and not bench" $(SIDE_BY_SIDE)

test-slow: $(READY) ## the slow tests: real processes, training, the demo
	.venv/bin/pytest -m "slow and not bench" $(SIDE_BY_SIDE)

test-bench: $(READY) ## the benchmarks' promises, on a machine that does nothing else
	.venv/bin/pytest -m bench

lint: $(READY) ## style and types
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy

format: $(READY) ## puts the style right
	.venv/bin/ruff check --fix
	.venv/bin/ruff format

docs: $(READY) ## writes docs/commands.md from the table of commands
	.venv/bin/python docs/make_commands.py

bench: $(READY) ## the benchmarks; DATA=DIR runs them on the data folders in DIR
	.venv/bin/homeostat bench gates
	.venv/bin/homeostat bench registry
	.venv/bin/homeostat bench loop $(if $(DATA),--data $(DATA))

clean: ## removes the environment and what the demo left
	rm -rf .venv .uv demo-workspace

$(READY): pyproject.toml uv.lock | $(filter-out uv,$(UV))
	$(UV) sync --locked
	@touch $@

# Into a folder of our own: that needs neither python3-venv nor a system that lets pip write to it.
.uv/bin/uv:
	python3 -m pip install --quiet --target .uv uv
