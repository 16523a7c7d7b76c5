# Every target sets up what it needs; `make help` lists them.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c

VENV ?= .venv
BIN := $(VENV)/bin
PY := $(BIN)/python
STAMP := $(VENV)/.ready
PORT ?= 8000
HOST ?= 127.0.0.1
GPU_WORKERS ?= 0
# What is installed as torch, and the package index to take it from, if not pip's own: PyTorch's site names one for each
# build (CPU, each CUDA version). docs/dependencies.md says more.
TORCH ?= torch==2.13.0
TORCH_INDEX ?=
COVERAGE ?= 90
# The speed benchmarks' peers live in an environment of their own; model and preference file are yours.
PEERS := .venv-peers
MODEL ?=
BENCH = $(PY) -m benchmarks.$(1) $(if $(MODEL),--model "$(MODEL)") $(if $(PREFERENCES),--preferences "$(PREFERENCES)") $(ARGS)
SOURCES := rso_core webapp workers tests manage.py $(wildcard benchmarks)

.PHONY: help setup up demo demo-real test test-long check fmt docs lock bench-import bench-coverage bench-results bench-rating bench-claims clean browser \
  lock-peers bench-peers bench bench-matmul bench-fitting bench-scoring bench-sampling bench-workers bench-reward bench-run bench-study bench-growth bench-web bench-report \
  reproduce-tuning mini-weights reproduce-smoke reproduce-a reproduce-b reproduce-c reproduce-real reproduction-page

help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  Settings: PORT=$(PORT) HOST=$(HOST) VENV=$(VENV) TORCH=$(TORCH) GPU_WORKERS=$(GPU_WORKERS) (0: one for each GPU);"; echo "  the rest is in deploy/env.example"

setup: $(STAMP) ## Make .venv and install what is locked (instant the second time)

# torch is pinned by version only, as its builds differ in hash; all else by hash. It comes last, so that what it
# needs is there already; a build for CUDA brings its libraries along.
$(STAMP): requirements/dev.txt
	@python=$$(for name in python3.11 python3 python3.12 python3.13; do command -v $$name >/dev/null && \
	  $$name -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$name; break; }; done; true); \
	if [ -z "$$python" ]; then echo "Python 3.11 or newer with venv is needed (Debian: apt-get install python3 python3-venv)." >&2; exit 1; fi; \
	[ -x $(PY) ] || { echo "Making $(VENV) with $$($$python --version)"; $$python -m venv $(VENV); }
	@echo "Installing the locked packages (several minutes the first time)"
	@$(PY) -m pip install -qq --disable-pip-version-check --no-deps --require-hashes -r requirements/dev.txt
	@$(PY) -m pip install -qq --disable-pip-version-check $(if $(TORCH_INDEX),--extra-index-url "$(TORCH_INDEX)") "$(TORCH)"
	@$(PY) -c 'import torch; print("torch", torch.__version__)'
	@touch $@

up: $(STAMP) ## Start the product: database, web, workers (Ctrl-C stops all of it)
	@exec $(PY) -m workers.services up --host $(HOST) --port $(PORT) --gpu-workers $(GPU_WORKERS)

demo: $(STAMP) ## Run RSO on the mini task in the started product and show what came of it (DEMO_EXIT=1 ends it then)
	@exec $(PY) -m workers.services up --host $(HOST) --port $(PORT) --gpu-workers $(GPU_WORKERS) --then $(PY) manage.py demo

demo-real: $(STAMP) ## Run RSO on real preferences: PREFERENCES=FILE BASE=MODEL_DIR
	@exec $(PY) manage.py demo_real $(if $(PREFERENCES),--preferences "$(PREFERENCES)") $(if $(BASE),--base "$(BASE)") $(ARGS)

# As root on Debian the browser is installed; elsewhere the tests say what was not run, and fail under CI=true.
browser:
	@for name in chromium chromium-browser google-chrome google-chrome-stable; do command -v $$name >/dev/null && exit 0; done; \
	if [ -n "$${RSO_CHROMIUM:-}" ]; then exit 0; fi; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  echo "Installing Chromium for the browser tests"; \
	  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium >/dev/null; } || echo "Chromium could not be installed" >&2; \
	fi

# Files of tests side by side, each worker with a database of its own and one thread: more threads than cores wait for each
# other most of the time. What a file shares is made once.
AT_ONCE := --numprocesses logical --maxprocesses 4 --dist loadfile

test: $(STAMP) browser ## Run the tests (ARGS="-k words" for some of them, then without the coverage gate)
	@OMP_NUM_THREADS=1 $(PY) -m pytest -m "not slow" $(if $(ARGS),$(ARGS),$(AT_ONCE) --cov --cov-report=term:skip-covered --cov-fail-under=$(COVERAGE))

test-long: $(STAMP) browser ## Run all tests: more seeds, more sizes
	@$(PY) -m pytest $(ARGS)

check: $(STAMP) ## Lint, types, layers, migrations, templates, spelling
	@$(BIN)/ruff check $(SOURCES)
	@$(BIN)/ruff format --check --quiet $(SOURCES)
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo
	@$(PY) -W ignore::RuntimeWarning manage.py makemigrations --check --dry-run
	@$(BIN)/djlint --lint --quiet templates
	@$(BIN)/codespell $(SOURCES) templates docs deploy Makefile $(wildcard *.md)
	@echo "check: everything is in order"

fmt: $(STAMP) ## Format the code
	@$(BIN)/ruff check --fix-only --quiet $(SOURCES)
	@$(BIN)/ruff format $(SOURCES)

docs: $(STAMP) ## Make docs/configuration.md from the schema
	@$(PY) -m rso_core.configuration_page > docs/configuration.md

# torch's line is left out: it is installed by version (see setup). What it needs stands in pyproject.toml.
lock: $(STAMP) ## Pin the newest allowed versions: requirements/*.txt from requirements/*.in
	@$(PY) -m venv $(VENV)-lock && $(VENV)-lock/bin/pip install --quiet uv
	@for name in base dev; do \
	  $(VENV)-lock/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	    --no-emit-package torch --custom-compile-command "make lock" requirements/$$name.in -o requirements/$$name.txt; done

bench-import: $(STAMP) ## Measure how fast preference files are imported
	@$(PY) benchmarks/import_rows.py $(ARGS)

bench-coverage: $(STAMP) ## Simulate campaigns and count how often the intervals and tests of human evaluation are right
	@$(PY) benchmarks/human_eval_coverage.py $(ARGS)

bench-results: $(STAMP) ## Measure the results page of a campaign of 2,000 tasks with 3 answers each, cold and warm
	@$(PY) benchmarks/results_page.py $(ARGS)

bench-rating: $(STAMP) ## Measure rating over HTTP: 40 raters in the started product (ARGS=--browser: the page in Chromium too)
	@$(PY) benchmarks/rating_load.py $(ARGS)

bench-claims: $(STAMP) ## Measure how tasks are handed out: 40 raters at once, 300 tasks with 3 replicas each
	@$(PY) benchmarks/claims.py $(ARGS)

lock-peers: $(STAMP) ## Pin the newest allowed versions of what the benchmarks are measured against
	@$(PY) -m venv $(VENV)-lock && $(VENV)-lock/bin/pip install --quiet uv
	@$(VENV)-lock/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-package torch \
	  --custom-compile-command "make lock-peers" benchmarks/peers/requirements.in -o benchmarks/peers/requirements.txt

bench-peers: $(PEERS)/.ready ## Make the environment of TRL and transformers that the benchmarks are measured against

$(PEERS)/.ready: benchmarks/peers/requirements.txt | $(STAMP)
	@[ -x $(PEERS)/bin/python ] || $(PY) -m venv $(PEERS)
	@$(PEERS)/bin/pip install -qq --disable-pip-version-check --no-deps --require-hashes -r $<
	@$(PEERS)/bin/pip install -qq --disable-pip-version-check --no-deps $(if $(TORCH_INDEX),--extra-index-url "$(TORCH_INDEX)") "$(TORCH)"
	@touch $@

bench: bench-matmul bench-fitting bench-scoring bench-sampling bench-workers bench-reward bench-study bench-growth bench-web bench-run bench-report ## All speed benchmarks (hours): MODEL=FOLDER PREFERENCES=FILE

bench-matmul: $(STAMP) ## Measure the machine's matrix products at the model's shapes: MODEL=FOLDER
	@$(call BENCH,matmul)

bench-fitting: bench-peers ## Measure policy fitting against TRL's DPOTrainer: MODEL=FOLDER PREFERENCES=FILE
	@$(call BENCH,fitting)

bench-scoring: bench-peers ## Measure scoring of candidates against plain batches: MODEL=FOLDER PREFERENCES=FILE
	@$(call BENCH,scoring)

bench-sampling: bench-peers ## Measure sampling against generate: MODEL=FOLDER PREFERENCES=FILE
	@$(call BENCH,sampling)

bench-workers: $(STAMP) ## Measure sampling and scoring by two workers of one thread against one: MODEL=FOLDER PREFERENCES=FILE
	@$(call BENCH,two_workers)

bench-reward: bench-peers ## Measure reward-model training against plain transformers: MODEL=FOLDER PREFERENCES=FILE
	@$(call BENCH,reward_training)

bench-run: bench-peers ## Measure whole runs against the same steps with TRL and transformers (hours): MODEL=FOLDER PREFERENCES=FILE
	@$(call BENCH,whole_run)

bench-study: $(STAMP) ## Measure the grid of losses and pair sources over shared stages against separate runs
	@$(PY) -m benchmarks.study_grid $(ARGS)

bench-growth: $(STAMP) ## Measure how time and memory grow with prompts and with candidates
	@$(PY) -m benchmarks.cost_growth $(ARGS)

bench-web: $(STAMP) ## Measure every page over 1,000,000 pairs and 1,000 runs, a run page that 300 people watch, and memory over more pairs
	@$(PY) -m benchmarks.service_memory
	@$(PY) -m benchmarks.web_pages $(ARGS)

bench-report: $(STAMP) ## Make docs/performance.md from benchmarks/results and benchmarks/notes
	@$(PY) -m benchmarks.report

# Studies of the built-in task. Each goes on where an earlier start ended; the bundle is written when all cells are done.
STUDY = $(PY) -m rso_core study $(1) --workers $(STUDY_WORKERS) --store var/reproduction $(ARGS)
STUDY_WORKERS ?= $(shell nproc)
# What makes a study small enough for a test of the whole chain: its figures say nothing.
SMOKE := --set sft.max_steps=60 --set reward.max_steps=60 --set fitting.max_steps=20 --set fitting.checkpoint_every=10 \
  --set sampling.max_prompts=40 --set sampling.prompts_per_shard=40 --set evaluation.max_test_prompts=60 --set evaluation.max_validation_prompts=30

reproduce-tuning: $(STAMP) ## Choose hyper-parameters of every method on validation prompts, with equal trials; goes on where it ended
	@$(PY) -m rso_core.study_tuning rso_core/mini_tuned.yaml --workers $(STUDY_WORKERS) --store var/reproduction $(ARGS)

mini-weights: $(STAMP) ## Make the pretrained weights of the built-in task's reward model again
	@$(PY) -m rso_core.mini_tldr_pretraining rso_core/weights/mini_tldr.safetensors

reproduce-smoke: $(STAMP) ## Run a small Table 1 from end to end in a few minutes (its figures say nothing)
	@$(call STUDY,table_1) $(SMOKE) --seeds 0-1 --out var/reproduction/smoke.json

reproduce-a: $(STAMP) ## Repeat Table 1 on the built-in task, decoder-only, 5 seeds; goes on where it ended
	@$(call STUDY,table_1) --seeds 10-14 --out docs/reproduction/table_1.json

reproduce-b: $(STAMP) ## Repeat Tables 2, 5, 6 and 7 and Figures 3a and 3b on the built-in task, 2 seeds
	@$(foreach name,table_2 table_5 table_6 table_7 figure_3a figure_3b,$(call STUDY,$(name)) --seeds 10-11 --out docs/reproduction/$(name).json;)

reproduce-c: $(STAMP) ## Repeat the sources of pairs with encoder-decoder (T5) policies, 3 seeds
	@$(call STUDY,table_3) --set 'model.base=mini_tldr:family=seq2seq,seed={seed}' --seeds 10-12 --out docs/reproduction/table_3.json

# The model is policy, base of both reward models and judge; ARGS="--set judge.model=…" names another judge.
reproduce-real: $(STAMP) ## Run a small Table 1 on real preferences, two hours on two cores: PREFERENCES=FILE BASE=MODEL
	@$(call STUDY,rso_core/real_study.yaml --set data.preferences=$(PREFERENCES) --set data.sft=$(PREFERENCES) --set model.base=$(BASE) \
	  --set judge.model=$(BASE)) --out docs/reproduction/real_study.json

reproduction-page: $(STAMP) ## Make docs/reproduction.md from the bundles in docs/reproduction
	@$(PY) -m rso_core.reproduction_page docs

clean: ## Remove caches and the environment (the data in var/ stays)
	@rm -rf $(VENV) $(VENV)-lock $(PEERS) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage htmlcov test-results
