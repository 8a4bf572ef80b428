# Everything behind these targets is plain pip and `python -m course_lib ...`, so that whoever has
# no make (Windows, conda) can run the same lines by hand.

PYTHON      ?= python3
VENV        ?= .venv
EXTRAS      := lab,grading,test
LAB_OPTIONS ?=
WORKERS     ?= 2
# Seconds a single cell of a solution notebook may take.
CELL_TIMEOUT ?= 120

RUN   := $(VENV)/bin/python
STAMP := $(VENV)/.course-installed
NBVAL := --nbval solutions --nbval-current-env --nbval-sanitize-with tests/sanitize.cfg \
         --nbval-cell-timeout=$(CELL_TIMEOUT) -n $(WORKERS) --dist loadscope
# One thread a process: two workers on two cores, and sums that come out the same everywhere.
TEST_ENVIRONMENT := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false \
                    HF_HUB_OFFLINE=1

.DEFAULT_GOAL := help
.PHONY: help setup lab demo test lint unit leaks nbval outputs notebooks format constraints clean

help: ## List the targets
	@echo "make TARGET [PYTHON=python3.12] [VENV=.venv]"
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  \1\t/' | expand -t 16

setup: $(STAMP) ## Create the environment and install the course in it (once)

# Set up again when the dependencies change, and only then.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "The course needs Python 3.11 or newer; $(PYTHON) is older. Try: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --disable-pip-version-check --quiet -c constraints.txt -e '.[$(EXTRAS)]'
	@touch $@

lab: $(STAMP) ## Open JupyterLab on the course, with nbgrader's extension
	$(RUN) -m course_lib doctor || true
	PATH="$(abspath $(VENV))/bin:$$PATH" $(RUN) -m jupyterlab --ServerApp.root_dir="$(CURDIR)" --LabApp.default_url=/lab/tree/notebooks $(LAB_OPTIONS)

demo: $(STAMP) ## Grade a sample submission of notebooks 01 and 02 and write its feedback
	$(RUN) -m course_lib demo

test: lint unit leaks nbval ## Everything CI checks: style, unit tests, check banks, release, leaks, notebooks

lint: $(STAMP) ## Check the style of code and notebooks
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

unit: $(STAMP) ## Run the unit tests and the check banks
	$(TEST_ENVIRONMENT) $(RUN) -m pytest tests -n $(WORKERS) --dist worksteal

leaks: $(STAMP) ## Show that notebooks/ is in sync with solutions/ and gives no solution away
	$(RUN) -m course_lib release --check
	$(RUN) -m course_lib leaks

nbval: $(STAMP) ## Run every solution notebook and compare its outputs with the stored ones
	$(TEST_ENVIRONMENT) $(RUN) -m pytest $(NBVAL)

outputs: $(STAMP) ## Run every solution notebook and store its outputs (after a change)
	$(TEST_ENVIRONMENT) $(RUN) -m nbconvert --to notebook --execute --inplace \
	  --ExecutePreprocessor.record_timing=False --ExecutePreprocessor.store_widget_state=False \
	  --ExecutePreprocessor.timeout=$(CELL_TIMEOUT) solutions/*/*.ipynb

notebooks: $(STAMP) ## Generate the student notebooks from solutions/ (overwrites work in notebooks/)
	$(RUN) -m course_lib release

format: $(STAMP) ## Format code and notebooks
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

# torch keeps its pin; raise it by editing its line first. Everything else is resolved afresh.
constraints: ## Resolve all versions in a fresh environment and write constraints.txt
	rm -rf .venv.constraints
	$(PYTHON) -m venv .venv.constraints
	grep '^torch==' constraints.txt > .venv.constraints/torch.txt
	.venv.constraints/bin/python -m pip install --disable-pip-version-check --quiet -c .venv.constraints/torch.txt -e '.[$(EXTRAS)]'
	{ grep '^#' constraints.txt; \
	  .venv.constraints/bin/python -m pip freeze --all --exclude-editable | grep -vE ' @ |^pip==' | sed -E 's/\+[a-z0-9.]+$$//'; \
	} > constraints.txt.new
	mv constraints.txt.new constraints.txt
	rm -rf .venv.constraints

clean: ## Remove the environment and everything the commands wrote (not submissions or marks)
	rm -rf $(VENV) .venv.constraints demo build dist .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
