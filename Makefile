# `make` sets everything up; `make demo` and `make test` set up what is missing first.

PYTHON ?= python3
# The GPU runtime where an NVIDIA driver answers, the CPU one elsewhere.
RUNTIME ?= $(shell nvidia-smi >/dev/null 2>&1 && echo serve-gpu || echo serve)
BIN := .venv/bin
# ONNX Runtime reports which models it runs, unless told not to.
export ORT_DISABLE_TELEMETRY := 1
INSTALLED := .venv/installed-$(RUNTIME)

.PHONY: install demo test lint type format proto check bench clean
install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	@echo "installing with the runtime '$(RUNTIME)': $$(test $(RUNTIME) = serve && \
	  echo 'CPU, no NVIDIA driver answers' || echo 'NVIDIA GPU') (set RUNTIME=serve or serve-gpu to choose)"
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -c constraints.txt pip
	@# onnxruntime and onnxruntime-gpu put different files in one place: never both
	@ls .venv/installed-* 2>/dev/null | grep -qv '$(RUNTIME)$$' && \
	  $(BIN)/python -m pip uninstall --quiet --yes onnxruntime onnxruntime-gpu || true
	@rm -f .venv/installed-*
	$(BIN)/python -m pip install --quiet -c constraints.txt --build-constraint constraints.txt -e '.[train,$(RUNTIME),dev]'
	@touch $@

demo: $(INSTALLED)
	$(BIN)/carryover demo

test: $(INSTALLED)
	$(BIN)/python -m pytest $(ARGS)

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

type: $(INSTALLED)
	$(BIN)/mypy

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

proto: $(INSTALLED)
	.ci/generate-protos .

check: lint type
	.ci/check-protos
	$(BIN)/python .ci/check_wheel.py

bench: $(INSTALLED)
	$(BIN)/python -m bench $(or $(ARGS),all)

clean: # what can be made again in minutes; runs/ and repository/ stay
	rm -rf .venv dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
