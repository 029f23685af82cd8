# Two commands need to be known: `make run` and `make test`. Both set everything up first.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PYTEST ?=
export DO_NOT_TRACK := 1
export KEDRO_LOGGING_CONFIG ?= $(CURDIR)/conf/logging.yml
INSTALLED := $(VENV)/.installed

.PHONY: install run test lint viz mlflow clean
.DELETE_ON_ERROR:

install: $(INSTALLED)

# torch comes first and pinned: where the index offers a CPU build of that very version, pip takes
# it, and nothing later asks for another.
$(INSTALLED): pyproject.toml requirements/constraints.txt requirements/samples.txt
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c requirements/constraints.txt torch
	$(BIN)/python -m pip install --quiet -c requirements/constraints.txt -e ".[dev,viz,ray]"
	$(BIN)/python -m pip install --quiet --no-deps --require-hashes -r requirements/samples.txt
	touch $@

run: install
	$(BIN)/kedro run

# The files of tests are shared out to two processes, of one thread each: in alphabetical order, so
# that the long ones, in tests/end_to_end, do not come last, where one process would end alone.
# Coverage takes a quarter of the time more: `make test PYTEST=--cov`, as .ci/run has it.
test: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(PYTEST)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

viz: install
	$(BIN)/kedro viz run

# Without the jobs that its server has for language models: eight processes less, and sooner there.
mlflow: install
	MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false $(BIN)/mlflow ui --backend-store-uri sqlite:///mlflow.db

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache .hypothesis .coverage* build src/*.egg-info
