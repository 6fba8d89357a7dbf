# make demo   set up, then: learn a subject from a few pictures and draw it in new settings
# make test   set up, then: lint, types, tests
# make check  lint and types only
# make slow   the tests that are left out above
# make bench  the side-by-side benchmarks
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt
# Where builds of torch without CUDA lie; used where the usual index has none of its own.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
TORCH := torch==2.13.0

.PHONY: demo test check slow bench clean
.DEFAULT_GOAL := test

demo: $(VENV)/.runs
	$(BIN)/sfumato demo

test: check
	$(BIN)/pytest -n 2

check: $(VENV)/.develops
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

slow: $(VENV)/.develops
	$(BIN)/pytest -m slow

bench: $(VENV)/.develops
	$(BIN)/python -m benchmarks

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else "Python 3.11 or newer is needed, %s is %d.%d; name another one: make PYTHON=python3.12" % (sys.executable, v.major, v.minor))'
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.runs: $(VENV)/.made pyproject.toml constraints.txt
	@echo "Installing (once; some minutes)"
	@$(PIP) "$(TORCH)+cpu" 2>/dev/null || $(PIP) --extra-index-url $(TORCH_INDEX) "$(TORCH)"
	$(PIP) --editable .
	@touch $@

$(VENV)/.develops: $(VENV)/.runs
	$(PIP) --editable ".[train,dev]"
	@touch $@

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache
