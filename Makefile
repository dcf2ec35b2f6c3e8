# make demo: the main job on embedded data, ending with pictures and figures.   make test: the whole suite.
# make page: the page for browsers, built and served on localhost (needs node and npm).
# make counts LIBRARY=PATH: count the instructions of a Cortex-M4, see firmware/README.md.
# All make their own environment in .venv first; PYTHON=python3.10 picks an interpreter.
PYTHON ?= python3
BIN = .venv/bin

.PHONY: demo test lint page counts clean

demo: .venv/installed
	rm -rf demo
	@echo "--- 1. train a network for the board on photographs inside scikit-image, about a minute"
	$(BIN)/python -m mirnet_torch.train --preset mcu --epochs 30 --out demo/train
	@echo "--- 2. measure the weights that ship on photographs that it was not trained on"
	$(BIN)/python -m mirnet_torch.evaluate --checkpoint mcu --size 160x120 --out demo/evaluate
	$(BIN)/python conversion/judge.py --out demo/judge
	@echo "--- 3. convert them to int8 and C, every step compared with the last"
	$(BIN)/python conversion/to_tflite.py --checkpoint mcu --out demo/tflite
	@echo "--- dark, bright and original: demo/judge/contact_sheet.png; every stage: demo/tflite/report.html"

test: .venv/installed
	$(BIN)/python -m pytest

lint: .venv/installed
	$(BIN)/flake8
	$(BIN)/isort --check .
	$(BIN)/mypy

page: build/page/index.html .venv/installed
	$(BIN)/python firmware/viewer --page

WEIGHTS = mirnet_torch/weights/mcu
PAGE = firmware/viewer/page
MODELS = $(WEIGHTS)_float32.tflite $(WEIGHTS)_int8.tflite
build/page/index.html: $(MODELS) $(PAGE)/build.mjs $(wildcard $(PAGE)/src/* $(PAGE)/static/*) \
		$(PAGE)/node_modules/.package-lock.json
	node $(PAGE)/build.mjs $(MODELS) build/page

$(PAGE)/node_modules/.package-lock.json: $(PAGE)/package-lock.json
	cd $(PAGE) && npm ci --no-audit --no-fund

# MODEL=FILE.tflite counts another model than the one that ships; FIT=1 renews what conversion predicts from.
counts: .venv/installed
	$(BIN)/python firmware/emulator/counts.py --library "$(LIBRARY)" \
		$(if $(MODEL),--model "$(MODEL)",$(if $(FIT),--fit,--record))

.venv/installed: setup.cfg pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e ".[all]"
	touch $@

clean:
	rm -rf .venv build demo *.egg-info
