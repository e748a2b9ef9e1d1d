PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
PIP := $(RUN) -m pip --disable-pip-version-check
# The tests of a file share what it makes, so they stay together. More processes than four want much memory.
SPREAD := --numprocesses auto --maxprocesses 4 --dist loadfile

.PHONY: help demo test lint docs clean

help:  ## list these commands
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-6s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --editable .
	touch $@

$(VENV)/installed-test: $(VENV)/installed
	$(PIP) install --quiet --editable ".[test]"
	touch $@

demo: $(VENV)/installed  ## install into .venv; masks of the sample pairs, a short training, fused pairs in demo/results
	$(RUN) precompute_masks.py --sam_model_type vit_nano --dataset_path datasets/sample/train --output_dir demo/masks/train --preview 4
	$(RUN) precompute_masks.py --sam_model_type vit_nano --dataset_path datasets/sample/test --output_dir demo/masks/test --preview 4
	$(RUN) train.py --config configs/demo.yaml --dataset_path datasets/sample/train --precomputed_masks_dir demo/masks/train --overwrite --output_dir demo/models
	$(RUN) test.py --model_path demo/models/best.pth --dataset_path datasets/sample/test --precomputed_masks_dir demo/masks/test --metrics --output_dir demo/results
	@echo "Fused pictures: demo/results    Masks drawn over the images: demo/masks/train/preview demo/masks/test/preview"

test: $(VENV)/installed-test  ## install what tests need, run all tests
	$(RUN) -m pytest $(SPREAD)

lint: $(VENV)/installed-test  ## ruff and mypy
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

docs: $(VENV)/installed  ## the documents as a site: site/index.html
	$(PIP) install --quiet --editable ".[docs]"
	$(RUN) -m sphinx --quiet --fresh-env --fail-on-warning --keep-going --conf-dir docs . site

clean:  ## remove .venv, demo and site
	rm -rf $(VENV) demo site
