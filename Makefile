# make quickstart   install, then distil, evaluate, look and export on embedded data
# make test         install what tests need and run them
# make lint         check the style and the formatting with ruff
# make clean        remove the virtual environment and the files that Python writes

VENV ?= .venv
PYTHON ?= python3
PYTEST ?= -q -n 2
BIN := $(VENV)/bin

# Two torch processes on few cores fight over spinning threads without this.
export GOMP_SPINCOUNT := 1000

.PHONY: quickstart test lint clean

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/tested: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --group dev
	touch $@

# The same student twice, on the same views and steps: from labels alone, and with its teacher.
ALONE := --set losses.kl.weight=0 --set losses.encoder16.weight=0 --set losses.encoder.weight=0 --set losses.decoder.weight=0

quickstart: $(VENV)/installed
	$(BIN)/freqkd teacher-dump quickstart --content targets --out caches/quickstart --resume
	$(BIN)/freqkd distill quickstart $(ALONE) --out runs/quickstart_alone --resume
	$(BIN)/freqkd distill quickstart --cache caches/quickstart --out runs/quickstart --resume
	$(BIN)/freqkd spectrum runs/quickstart --stage 3
	$(BIN)/freqkd export runs/quickstart --format onnx --no-latency --overwrite
	$(BIN)/freqkd compare runs/quickstart_alone runs/quickstart --picture runs/quickstart/comparison.png

test: $(VENV)/tested
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PYTEST) -m "not slow and not timing"
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m timing

lint: $(VENV)/tested
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

clean:
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .hypothesis
	find freqkd_cli tests -name __pycache__ -type d -prune -exec rm -rf {} +
