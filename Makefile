# One place for what people and CI run. Everything happens inside .venv; see CONTRIBUTING.md.
.DEFAULT_GOAL := help
BIN := .venv/bin
export PYTHON TORCH_INDEX

.PHONY: help setup demo test soak bench clean

help:  ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

setup:  ## .venv, dependencies, compiled kernels, the demo model; seconds when done before
	@./setup.sh

demo: setup  ## 64 prompts through four nodes with 50 ms on every link; writes results.jsonl
	@$(BIN)/deserve testnet demo --output results.jsonl

test: setup  ## every check that CI runs
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest -q -n auto --maxprocesses 4 --dist worksteal

soak: setup  ## the long runs: every architecture, all of HumanEval, idle links
	$(BIN)/pytest -q -m soak --timeout 3600

bench: setup  ## every bar of docs/benchmarks.md; hours, and goes on where it was interrupted
	$(BIN)/python tests/benchmarks/latency.py

clean:  ## everything made inside the checkout
	rm -rf .venv build dist results.jsonl .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
