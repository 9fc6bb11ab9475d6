# `make demo` and `make test` set up all they need in .venv. Both may be run again at any time.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# For a CPU build of torch where the package index serves CUDA's: TORCH_INDEX=https://download.pytorch.org/whl/cpu
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))
DEMO := demo

.PHONY: demo test soak lint clean
.DELETE_ON_ERROR:

demo: $(DEMO)/bundle/bundle.json
	@rm -f $(DEMO)/scene.*
	$(BIN)/sharpose-run scene:people=3,frames=50,size=360x640 --bundle $(DEMO)/bundle \
		--output $(DEMO)/scene.mp4 --json $(DEMO)/scene.jsonl --coco $(DEMO)/scene.coco.json
	@echo "The weights of this demo are random, so its poses mean nothing: it shows that everything runs."
	@echo "Results: $(DEMO)/scene.mp4 (video), $(DEMO)/scene.jsonl (a line a frame), $(DEMO)/scene.coco.json; bundle: $(DEMO)/bundle"

test: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile

# Minutes long: restarts, silence, kills and memory of live video.
soak: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/pytest -m soak

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python tests/typecheck.py

$(DEMO)/bundle/bundle.json: sharpose/manifest.py sharpose/__init__.py | $(VENV)/.export
	$(BIN)/sharpose-export --random-weights --seed 0 --config sharpose_tiny_coco_256x192 --output $(DEMO)/bundle --overwrite

$(VENV)/.base: setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.export: $(VENV)/.base
	@echo "installing sharpose with [cpu,export] into $(VENV)"
	@$(PIP) -e ".[cpu,export]"
	@touch $@

$(VENV)/.dev: $(VENV)/.base
	@echo "installing sharpose with [cpu,export,train,dev] into $(VENV)"
	@$(PIP) -e ".[cpu,export,train,dev]"
	@# TensorRT-RTX builds engines without a GPU; its tests are skipped where it can't be installed.
	@$(PIP) tensorrt-rtx-cu13-libs tensorrt-rtx-cu13-bindings cuda-bindings && $(PIP) --no-deps --no-build-isolation tensorrt-rtx-cu13 \
		|| echo "TensorRT-RTX can't be installed here: its tests will be skipped"
	@touch $@ $(VENV)/.export

clean:
	rm -rf $(VENV) $(DEMO) build dist *.egg-info
