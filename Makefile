# Needs Python 3.11 or newer, make and pip; everything else goes into .venv.
PYTHON ?= python3
# A folder of colour photos for the benchmarks; names like person_0001.jpg are split by person.
DATA ?=
# Test files run side by side, each in one process: most of a test on Ray is waiting.
TEST_JOBS ?= 2

VENV := .venv
RUN := $(VENV)/bin/python
# Byte-compiling five gigabytes of packages takes longer than installing them; Python does it on first import, and
# keeps it, whatever the environment says: otherwise each of Ray's processes would compile all of it again.
unexport PYTHONDONTWRITEBYTECODE
INSTALL := $(RUN) -m pip install --quiet --no-compile
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help

.PHONY: help demo test chaos lint type docs bench clean

help: ## Say what the targets do
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-7s %s\n", $$1, $$2}' Makefile
	@echo "PYTHON=... chooses the interpreter of .venv (now: $(PYTHON))."

demo: $(VENV)/.demo-installed ## Colorize a few real photos on a local Ray and draw a contact sheet and a page
	$(VENV)/bin/dmt-ray weights
	$(RUN) demo/build_dataset.py --output demo/data
	rm -rf demo/output
	$(RUN) jobs/colorize_dataset.py --input demo/data/inputs --reference demo/data/references \
		--output demo/output --size 192 --shard-size 4
	$(RUN) demo/score.py --data demo/data --output demo/output
	$(VENV)/bin/dmt-ray report demo/output

test: $(VENV)/.dev-installed ## Run the default test suite
	$(VENV)/bin/dmt-ray weights
	$(RUN) -m pytest -n $(TEST_JOBS) --dist loadfile

chaos: $(VENV)/.dev-installed ## Kill drivers, actors and nodes, fill disks, damage files, and look at what is left
	$(RUN) -m pytest -m chaos

lint: $(VENV)/.dev-installed ## Check style and formatting with ruff
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

type: $(VENV)/.dev-installed ## Check types with mypy
	$(VENV)/bin/mypy

docs: $(VENV)/.docs-installed ## Build the documentation into site/; a warning is an error
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict --clean
	@echo "Open site/index.html."

bench: $(VENV)/.dev-installed ## Run every benchmark, small, in about 15 minutes: make bench DATA=FOLDER_OF_COLOUR_PHOTOS
	@test -n "$(DATA)" || { echo "Say where the photos are: make bench DATA=FOLDER_OF_COLOUR_PHOTOS"; exit 2; }
	@status=0; for script in $(filter-out benchmarks/_%,$(sort $(wildcard benchmarks/*.py))); do \
		case $$script in \
			*/colorize_quality.py) small="--inputs 8 --seeds 0" ;; \
			*/pipeline_overhead.py) small="--images 0 --tiny 600 --memory 100 --rounds 1" ;; \
			*/gpu.py) small="--seconds 40" ;; \
			*/reference_scale.py) small="--counts 100 200 --inputs 4" ;; \
			*/label_change.py) small="--count 2 --size 64" ;; \
			*/transform_quality.py) small="--count 4 --size 64 --strengths 6" ;; \
			*) small= ;; \
		esac; \
		echo "== $$script $$small"; $(RUN) $$script --data $(DATA) $$small || status=1; \
	done; exit $$status

clean: ## Delete .venv, caches and what the demo made
	rm -rf $(VENV) demo/data demo/output demo/textures site build dist .pytest_cache .mypy_cache .ruff_cache

$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed; set PYTHON=" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	-@$(RUN) -m pip install --quiet --upgrade pip # a recent one installs quicker; the old one will do
	@touch $@

$(VENV)/.demo-installed: pyproject.toml $(VENV)/.created
	@echo "Installing into $(VENV): PyTorch and Ray are large, this takes a few minutes."
	$(INSTALL) -e ".[demo]"
	@touch $@

# The site is made from the sources as they stand: neither PyTorch nor Ray nor the package itself is needed.
$(VENV)/.docs-installed: pyproject.toml $(VENV)/.created
	$(RUN) -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["docs"], sep="\n")' > $@.txt
	$(INSTALL) -r $@.txt
	@rm $@.txt && touch $@

$(VENV)/.dev-installed: pyproject.toml $(VENV)/.created
	@echo "Installing into $(VENV): PyTorch and Ray are large, this takes a few minutes."
	$(INSTALL) -e ".[dev]"
	@touch $@
