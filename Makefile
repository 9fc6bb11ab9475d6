# `make demo` and `make test` set up everything they need in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# For a CPU build of PyTorch: make test TORCH_INDEX=https://download.pytorch.org/whl/cpu
# --no-compile: Python compiles what it imports; compiling everything would take half of the installation's time.
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))
DEMO := demo

.PHONY: demo test soak lint docs clean
.DELETE_ON_ERROR:

demo: $(VENV)/.cpu
	@mkdir -p $(DEMO) && rm -f $(DEMO)/scene.* $(DEMO)/sheet.jpg
	$(BIN)/sharpose-run scene:people=3,frames=50,size=360x640 \
		--output $(DEMO)/scene.mp4 --json $(DEMO)/scene.jsonl --coco $(DEMO)/scene.coco.json
	$(BIN)/python examples/demo.py --output $(DEMO)/sheet.jpg
	@echo "Look at $(DEMO)/sheet.jpg: the scene and two photographs, coarse and refined."
	@echo "Also: $(DEMO)/scene.mp4 (video), $(DEMO)/scene.jsonl (a line per frame), $(DEMO)/scene.coco.json"

test: $(VENV)/.dev
	@# No restart: with --dist loadfile, a run whose process died would wait for ever at its end.
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 3 --dist loadfile --no-loadscope-reorder --max-worker-restart 0

# Takes minutes: reconnects, timeouts, kills and memory of live video; engines of the larger models.
soak: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/pytest -m soak

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python tests/typecheck.py

# Warnings are errors, broken links within the site among them.
docs: $(VENV)/.docs
	$(BIN)/sphinx-build -W --keep-going -q docs docs/_build
	@echo "Open docs/_build/index.html"

$(VENV)/.base: setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.cpu: $(VENV)/.base
	@echo "installing sharpose with [cpu] into $(VENV)"
	@$(PIP) -e ".[cpu]"
	@touch $@

$(VENV)/.dev: $(VENV)/.base
	@echo "installing sharpose with [cpu,openvino,export,train,dev] into $(VENV)"
	@$(PIP) -e ".[cpu,openvino,export,train,dev]"
	@# TensorRT-RTX builds engines without a GPU; without it, its tests are skipped.
	@$(PIP) tensorrt-rtx-cu13 cuda-bindings \
		|| echo "TensorRT-RTX can't be installed here: its tests will be skipped"
	@# --no-deps: the MOT challenge's evaluator requires opencv-python, which would overwrite opencv-python-headless.
	@$(PIP) tabulate && $(PIP) --no-deps trackeval \
		|| echo "TrackEval can't be installed here: its test will be skipped"
	@touch $@ $(VENV)/.cpu

$(VENV)/.docs: $(VENV)/.base
	@echo "installing sharpose with [docs] into $(VENV)"
	@$(PIP) -e ".[docs]"
	@touch $@

clean:
	rm -rf $(VENV) $(DEMO) build dist docs/_build *.egg-info
