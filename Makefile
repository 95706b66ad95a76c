# scoreonce, from a preference dataset to a page of results. This file is the pipeline; read it first.
#
#     raw pairs -prepare-> token pairs -score-> reference columns -train-> policies -evaluate-> -report-> one page
#
# One run file (TOML) says what, and the stages do it. Your own data, four methods, one reference pass:
#
#     make report RUN=configs/mine.toml METHOD="dpo beta_dpo minor_dpo alpha_dpo"
#
# Every target is also a command, `scoreonce prepare configs/mine.toml` and so on; Make only knows their order. A stage
# runs again when the run file, SET, its data or the stage before it changed, and each stage by itself does only what is
# not done yet: a killed `make` is given again. What Make remembers stands in .make/, everything else in the run's `out`.

RUN    ?= configs/demo.toml
METHOD ?=
SET    ?=
VENV   ?= .venv
PYTHON ?= python3

# The demo's five policies: DPO, and four papers that change its beta, its penalty or its margin.
DEMO_METHODS := dpo beta_dpo epsilon_dpo minor_dpo alpha_dpo

# TRL beside scoreonce; columns at scale; how cost grows; whole runs on real pairs.
ONLY       ?=
BENCH_ARGS ?=
BENCHES    := $(or $(ONLY),peers columns growth hh full_vocabulary audit)

BIN       := $(VENV)/bin
READY     := $(VENV)/.ready
SCOREONCE := $(BIN)/scoreonce
NAME      := $(basename $(notdir $(RUN)))
MADE      := .make/$(NAME)
ARGS      := $(RUN) $(foreach pair,$(SET),--set $(pair))
# Without METHOD, the method is the run file's.
TRAINED   := $(or $(METHOD),run-file)
method     = $(if $(filter-out run-file,$*),--method $*)

.DEFAULT_GOAL := help
.NOTPARALLEL:
.DELETE_ON_ERROR:
.PHONY: help setup demo test test-fast prepare score audit train evaluate report bench clean FORCE

help: ## this list
	@awk -F ' ## ' '/^[a-z-]+:.* ## / { sub(/:.*/, "", $$1); printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo '  RUN=configs/x.toml  METHOD="dpo beta_dpo"  SET="train.beta=0.05 data.limit=1000"  VENV=.venv  PYTHON=python3'

# ---- 1. Packages: a virtual environment with the exact versions of constraints.txt ----

setup: $(READY) ## make the virtual environment

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@

# ---- 2. Five minutes of proof: a synthetic task with a known reward, which the policies must increase ----

demo: $(READY) ## a whole run on a synthetic task with a known reward, in minutes on a CPU; ends with a page to open
	@echo "== 1/5  the task: texts, a tokenizer and an untrained model of a million parameters"
	$(SCOREONCE) demo task configs/demo_sft.toml
	@echo "== 2/5  the reference: that model, trained on the texts"
	$(SCOREONCE) prepare configs/demo_sft.toml
	$(SCOREONCE) train configs/demo_sft.toml
	@echo "== 3/5  preferences: two samples per prompt, labelled by the true reward, with noise"
	$(SCOREONCE) demo pairs configs/demo.toml
	@echo "== 4/5  the pipeline: score the reference once, then train each method from its columns"
	@$(MAKE) --no-print-directory evaluate RUN=configs/demo.toml METHOD="$(DEMO_METHODS)"
	@echo "== 5/5  the verdict: what each policy earns of the true reward, and how far it went from the reference"
	$(SCOREONCE) demo judge configs/demo.toml
	$(SCOREONCE) report configs/demo.toml
	@echo; echo "Open $$($(SCOREONCE) path configs/demo.toml report)"

# ---- 3. Your data, stage by stage ----

prepare: $(MADE)/prepare ## raw dataset -> token pairs
audit: $(MADE)/audit ## what is wrong with the pairs
score: $(MADE)/score ## reference log-probs of every completion, once
train: $(TRAINED:%=$(MADE)/train-%) ## policies from the cached columns
evaluate: $(TRAINED:%=$(MADE)/evaluate-%) ## policies on the held-out pairs
report: $(MADE)/report ## one HTML page about every policy

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

# Supervised fine-tuning has no reference to be scored under.
$(MADE)/train-sft: $(MADE)/prepare
	$(SCOREONCE) train $(ARGS) --method sft
	@touch $@

$(MADE)/train-%: $(MADE)/score
	$(SCOREONCE) train $(ARGS) $(method)
	@touch $@

$(MADE)/evaluate-%: $(MADE)/train-% $(MADE)/score
	$(SCOREONCE) evaluate $(ARGS) $(method)
	@touch $@

$(MADE)/report: $(TRAINED:%=$(MADE)/evaluate-%)
	$(SCOREONCE) report $(ARGS)
	@touch $@

# The local data and model files that the run reads; one that has gone counts as changed.
-include $(MADE)/inputs.mk

# SET as a file that is newer than the stamps only when it says something else.
$(MADE)/set: FORCE
	@mkdir -p $(@D); echo '$(SET)' | cmp -s - $@ || echo '$(SET)' > $@

# Stamps of stages in the middle are results: keep them.
.PRECIOUS: $(MADE)/train-% $(MADE)/evaluate-%

# ---- 4. Working on scoreonce itself ----

test: $(READY) .types/scoreonce ## lint, types and every test
	$(call checks)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

test-fast: $(READY) .types/scoreonce ## the same without the slow tests
	$(call checks)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m 'not slow'

define checks
	$(BIN)/ruff check .
	$(BIN)/mypy
endef

# The folders install under the prefix scoreonce; these links show mypy the same.
.types/scoreonce:
	@mkdir -p $@
	@for folder in pipeline schemas stages; do ln -sfn ../../$$folder $@/$$folder; done
	@ln -sfn ../../stages/api/__init__.py $@/__init__.py

# Nothing else may run beside it. ONLY="peers growth" chooses; BENCH_ARGS=--smoke shows in a minute each that they run.
bench: $(READY) ## measured comparisons, one after the other; see benchmarks/
	set -e; for name in $(BENCHES); do $(BIN)/python benchmarks/$$name.py $(BENCH_ARGS); done

clean: ## remove the demo, what Make remembers, and caches; your own runs stay
	rm -rf .make .types runs/demo .pytest_cache .mypy_cache .ruff_cache build *.egg-info
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
