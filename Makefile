# From a fresh checkout to a running server: `make serve`. To the tests: `make test`.
# `make help` lists the targets, docs/install.md says what gets installed and where.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   ?= .venv
EXTRA  ?= $(if $(shell command -v nvidia-smi 2>/dev/null),cuda,cpu)
PORT   ?= 8000

EMBEDDED := .cache/models/SmolLM2-135M-Instruct

# One stamp for each of pyproject.toml's extras that the targets need.
# test includes model, dev includes test, and scripts/install.sh stamps what is included too.
INSTALLED := $(VENV)/.installed-$(EXTRA)

.DEFAULT_GOAL := help

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-18s %s\n", $$1, $$2}' Makefile

ifeq ($(MODEL),)
SERVED := --model $(EMBEDDED) --served-model-name $(notdir $(EMBEDDED))
serve: model
else
SERVED := --model $(MODEL)
endif

.PHONY: serve
serve: $(INSTALLED)-model ## Serve MODEL= (or the embedded model) on PORT=8000, more flags in ARGS=
	exec $(VENV)/bin/conf-server $(SERVED) --port $(PORT) $(ARGS)

.PHONY: model
model: $(INSTALLED)-model ## Make the embedded model, if it is not there yet
	@$(VENV)/bin/python scripts/embedded_model.py $(EMBEDDED)

.PHONY: sentence-model
sentence-model: $(INSTALLED)-model ## Make the embedded sentence model, for --embedding-model
	@$(VENV)/bin/python scripts/sentence_model.py

.PHONY: test
test: $(INSTALLED)-test model sentence-model ## Run the tests, or those in TESTS=, with PYTEST_ARGS=
	$(VENV)/bin/python -m pytest $(PYTEST_ARGS) $(TESTS)

.PHONY: test-install
test-install: $(INSTALLED)-test model ## Install the wheel into fresh environments from the index, and serve
	TEST_INSTALL=1 $(VENV)/bin/python -m pytest $(PYTEST_ARGS) tests/tools/test_fresh_environments.py

.PHONY: dist
dist: $(INSTALLED)-test ## Build the sdist and the wheel into dist/, and check them as an index does
	rm -rf build/lib build/bdist.* dist
	$(VENV)/bin/python -m build --no-isolation --outdir dist
	$(VENV)/bin/python -m twine check --strict dist/*

.PHONY: clients
clients: $(INSTALLED)-test model ## Run the blocks of docs/clients.md with the clients that they name
	$(VENV)/bin/python -m tests.clients $(ARGS)

.PHONY: bench
bench: $(INSTALLED)-bench $(if $(MODEL),,model) ## Measure what confidence costs, with MODEL=, ARGS= (--quick, ...)
	$(VENV)/bin/python -m benchmarks $(if $(MODEL),--model $(MODEL)) $(ARGS)

.PHONY: evaluate
evaluate: FOLDER = build/evaluation/$(notdir $(patsubst %/,%,$(or $(MODEL),$(EMBEDDED))))
evaluate: FIT = $(FOLDER)/answers.jsonl -o $(FOLDER)/fitted --background $(FOLDER)/prose.jsonl \
	--methods $(DENSITIES),$(DENSITIES_ANSWER),linear_probe,saplma,lookback_lens,uhead
evaluate: DENSITIES = mahalanobis_distance,relative_mahalanobis_distance,rde,ppl_md
evaluate: DENSITIES_ANSWER = mahalanobis_distance_answer,relative_mahalanobis_distance_answer,rde_answer,ppl_md_answer
evaluate: $(INSTALLED)-test $(if $(MODEL),,model) ## Which methods know when MODEL= is wrong? into build/evaluation
	mkdir -p $(FOLDER)
	$(VENV)/bin/python -m evaluation.questions > $(FOLDER)/questions.jsonl
	$(VENV)/bin/conf-server uncertainty $(FOLDER)/questions.jsonl -o $(FOLDER)/estimates.jsonl \
		--methods all --similarity rouge_l --progress $(SERVED) --max-model-len 4096 \
		--enable-hidden-states $(ARGS)
	$(VENV)/bin/conf-server report $(FOLDER)/estimates.jsonl -o $(FOLDER)/report.html \
		--png $(FOLDER) --match contains
	$(VENV)/bin/python -m evaluation.labelled_answers $(FOLDER)/questions.jsonl \
		$(FOLDER)/estimates.jsonl > $(FOLDER)/answers.jsonl
	$(VENV)/bin/python -m evaluation.prose > $(FOLDER)/prose.jsonl
	$(VENV)/bin/conf-server fit $(FIT) --keep-states --overwrite --progress \
		$(SERVED) --max-model-len 4096
	$(VENV)/bin/python -m evaluation.fitted_methods $(FIT)

.PHONY: evaluate-thinking
evaluate-thinking: FOLDER = build/evaluation/thinking/$(notdir $(patsubst %/,%,$(or $(MODEL),$(EMBEDDED))))
evaluate-thinking: $(INSTALLED)-test $(if $(MODEL),,model) ## Accuracy against tokens of many traces of MODEL=, with ARGS=
	$(VENV)/bin/python -m evaluation.thinking $(FOLDER) $(SERVED) --max-model-len 2048 \
		--max-num-seqs 64 $(ARGS)

.PHONY: soak
soak: $(INSTALLED)-bench $(if $(MODEL),,model) ## Does memory grow under a load, beside stock vLLM? with MODEL=, ARGS=
	$(VENV)/bin/python -m benchmarks.soak $(if $(MODEL),--model $(MODEL)) $(ARGS)

.PHONY: mutate
mutate: URL = http://127.0.0.1:$(PORT)
mutate: $(INSTALLED)-test ## Send broken requests to the server at URL=, with ARGS= (--count, --seed, ...)
	$(VENV)/bin/python -m tests.mutator $(URL) $(ARGS)

.PHONY: lint
lint: $(INSTALLED)-dev ## Check formatting and style
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .

.PHONY: types
types: $(INSTALLED)-dev ## Check the types
	$(VENV)/bin/mypy

.PHONY: format
format: $(INSTALLED)-dev ## Rewrite the code as `make lint` wants it
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

.PHONY: upstream-check
upstream-check: $(INSTALLED)-dev ## Check VLLM=x.y.z (or each supported vLLM) for what we rely on
	$(VENV)/bin/python patches/upstream/check.py $(if $(VLLM),--vllm $(VLLM))

.PHONY: upstream-update
upstream-update: $(INSTALLED)-dev ## Write the records of VLLM=x.y.z (or of each) anew
	$(VENV)/bin/python patches/upstream/check.py --update $(if $(VLLM),--vllm $(VLLM))

.PHONY: install-service
install-service: ## Install the systemd service, with ARGS= for its installer
	$(PYTHON) deploy/systemd/install.py $(ARGS)

.PHONY: clean
clean: ## Remove .venv, the embedded model, caches and build outputs
	rm -rf .venv .cache .hypothesis .mypy_cache .pytest_cache .ruff_cache build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(INSTALLED)-%: pyproject.toml
	PYTHON="$(PYTHON)" scripts/install.sh "$(VENV)" $(EXTRA) $*
