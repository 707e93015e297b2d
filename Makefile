# make quickstart   install, then distil, evaluate, look and export on embedded data
# make test         install what tests need and run them
# make lint         check the style and the formatting with ruff
# make clean        remove the virtual environment and the files that Python writes

VENV ?= .venv
PYTHON ?= python3
PYTEST ?= -q -n 2 --dist worksteal
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

# The baseline: the same student, steps and learning rate on the labelled images alone. Every pass redraws their flips and colors
# (data.views=0), which a cached teacher cannot do.
BANDS := --set losses.encoder16.weight=0 --set losses.encoder.weight=0 --set losses.decoder.weight=0
ALONE := --set losses.kl.weight=0 $(BANDS) --set data.length=16 --set data.views=0
ONE_THREAD := OMP_NUM_THREADS=1 $(BIN)/freqkd
NAMES := --name "labels alone" --name distilled

# The baseline trains in the background while the teacher runs and its student trains. One thread each is the fastest way for
# batches of 4 on two cores, and gives the same scores on any number of cores.
quickstart: $(VENV)/installed
	$(ONE_THREAD) distill quickstart $(ALONE) --out runs/quickstart_alone --resume -q & baseline=$$!; \
	$(ONE_THREAD) teacher-dump quickstart --content targets --out caches/quickstart --resume && \
	$(ONE_THREAD) distill quickstart --cache caches/quickstart --out runs/quickstart --resume; \
	status=$$?; wait $$baseline && exit $$status
	$(BIN)/freqkd spectrum runs/quickstart --stage 3
	$(BIN)/freqkd export runs/quickstart --format onnx --latency 0 --overwrite
	$(BIN)/freqkd compare runs/quickstart_alone runs/quickstart $(NAMES) --image runs/quickstart/comparison.png

test: $(VENV)/tested
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PYTEST) -m "not slow and not timing"
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m timing $$(grep -rl --include='*.py' mark.timing tests)

lint: $(VENV)/tested
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

clean:
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .hypothesis
	find freqkd_cli tests -name __pycache__ -type d -prune -exec rm -rf {} +
