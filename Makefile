# Every verb sets up what it needs; `make help` lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
READY_TO_WORK := $(VENV)/.ready-to-work

.DEFAULT_GOAL := help
.PHONY: help setup demo serve lint format test test-chaos test-openapi test-gpu demo-model eval-demo bench bench-pipeline bench-engine bench-scaling bench-decode bench-memory bench-timeline bench-long-video bench-uploads bench-chaos bench-kills bench-http bench-chat bench-cloud bench-page bench-first-look readme lock clean

help: ## list the verbs
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  \1|\2/' | column -t -s '|'

setup: $(READY_TO_WORK) ## make the virtual environment (done by every other verb)

# What runs Vidray, and that with what tests and measures it: either takes minutes, once, until pyproject.toml changes.
# An environment without pip was cut off while it was made, or by a Python that cannot make one: it is made anew.
$(READY): EXTRA :=
$(READY_TO_WORK): EXTRA := [dev]
$(READY) $(READY_TO_WORK): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "expected Python 3.11 or newer, got $$($(PYTHON) --version 2>&1); set PYTHON=python3.11"; exit 2; }
	@$(BIN)/python -m pip --version > /dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV) || \
	  { echo "expected a Python that makes environments with pip, got the above; on Debian or Ubuntu install python3-venv"; exit 2; }
	@echo "Setting up $(VENV): several minutes the first time, then never again until pyproject.toml changes."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.$(EXTRA)'
	@touch $@ $(READY)

demo: $(READY) ## analyse a drawn sample video with the demo model, end to end, on this machine
	@$(BIN)/python -m serve_app.demo

serve: $(READY) ## start Ray and the HTTP app; Ctrl-C stops both
	@$(BIN)/vidray serve

lint: $(READY_TO_WORK) ## formatting, ruff, mypy --strict, config lint, figures and settings in the docs
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/python -m cluster.lint serve_config.yaml cluster/serve_config.gpu.yaml
	@$(BIN)/python -m benchmarks.readme --check

format: $(READY_TO_WORK) ## rewrite the code as `make lint` wants it
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

# PASSIVE: threads that wait leave their core to the other process and to Ray's. Not before the command: make would start it
# by sh, and sh, which has no completion, is then the shell whose completion the tests ask for.
test: export OMP_WAIT_POLICY := PASSIVE
test: $(READY_TO_WORK) ## every test but those of test-chaos and test-gpu
	@$(BIN)/python -m pytest --durations=20 -m 'not chaos and not gpu' -n 2 --dist loadscope --no-loadscope-reorder

test-chaos: $(READY_TO_WORK) ## the tests that break things on purpose and take minutes
	@$(BIN)/python -m pytest -m chaos

test-openapi: $(READY_TO_WORK) ## random requests to every route of the OpenAPI document, 2,000 and more
	@$(BIN)/python -m benchmarks.openapi

test-gpu: $(READY_TO_WORK) ## the tests that need a CUDA device
	@$(BIN)/python -m pytest -m gpu

# PASSIVE: threads that wait leave their core to the process that draws, which makes a step a third quicker on two cores.
demo-model: $(READY_TO_WORK) ## train a demo checkpoint into build/demo-model/checkpoint; once stopped, it goes on from there
	@OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m deployments.vision.demo.train --out build/demo-model/checkpoint --state build/demo-model/state --resume

eval-demo: $(READY_TO_WORK) ## measure the demo checkpoint on held-out scenes, from arrays and through files
	@$(BIN)/python -m benchmarks.demo_model
	@$(BIN)/python -m benchmarks.demo_invariance

bench: bench-decode bench-timeline bench-pipeline bench-engine bench-scaling bench-memory bench-long-video bench-uploads bench-chaos bench-kills bench-http bench-chat bench-cloud bench-page bench-first-look ## all benchmarks of speed

bench-pipeline: $(READY_TO_WORK) ## efficiency of the whole chain against the bare engine
	@$(BIN)/python -m benchmarks.pipeline

bench-engine: $(READY_TO_WORK) ## the engine against generate, transformers' pipeline and, with VLLM_PYTHON=…, vLLM
	@$(BIN)/python -m benchmarks.engine $(if $(VLLM_PYTHON),--vllm-python $(VLLM_PYTHON))
	@$(BIN)/python -m benchmarks.replica
	@$(BIN)/python -m benchmarks.prompt_beginning

bench-scaling: $(READY_TO_WORK) ## clips a second of 1 to 10 logical devices, and of parts of one
	@$(BIN)/python -m benchmarks.scaling

bench-decode: $(READY_TO_WORK) ## our decoder against plain PyAV and decord loops
	@$(BIN)/python -m benchmarks.decode

bench-memory: $(READY_TO_WORK) ## peak memory of every process, 2 hours of video against 2 minutes
	@$(BIN)/python -m benchmarks.memory

bench-timeline: $(READY_TO_WORK) ## error of every sampled frame's time, by kind of file
	@$(BIN)/python -m benchmarks.timeline

bench-long-video: $(READY_TO_WORK) ## the cost of a clip in the twelfth hour of a video against the first
	@$(BIN)/python -m benchmarks.long_video

bench-uploads: $(READY_TO_WORK) ## memory and bytes of large uploads in parts whose connections are cut
	@$(BIN)/python -m benchmarks.uploads

bench-chaos: $(READY_TO_WORK) ## an analysis whose whole cluster is killed twenty times
	@$(BIN)/python -m benchmarks.chaos

bench-kills: $(READY_TO_WORK) ## an analysis whose processes are killed one at a time, while clients call
	@$(BIN)/python -m benchmarks.kills

bench-http: $(READY_TO_WORK) ## accepting analyses, status reads, events and watchers over HTTP
	@$(BIN)/python -m benchmarks.http_api

bench-chat: $(READY_TO_WORK) ## are answers about videos right, found quickly and passed on without delay?
	@$(BIN)/python -m benchmarks.chat

bench-cloud: $(READY_TO_WORK) ## what a model outside is worth to who waits, and that nobody asks it who must not
	@$(BIN)/python -m benchmarks.cloud

bench-page: $(READY_TO_WORK) ## the web page with 2,000 captions in Chromium: scrolled, searched, and what it is sent
	@$(BIN)/python -m benchmarks.page

bench-first-look: $(READY_TO_WORK) ## what a newcomer sees and when: `make demo` in a fresh clone, `vidray analyze` at a terminal
	@$(BIN)/python -m benchmarks.first_look

readme: $(READY_TO_WORK) ## put the figures of benchmarks/results into README.md, and the settings into docs/config.md
	@$(BIN)/python -m benchmarks.readme

lock: $(READY_TO_WORK) ## write constraints.txt from this environment
	@$(BIN)/python -m pip freeze --exclude-editable | sed -E 's/\+cpu$$//' | sort -f > constraints.txt

# Hours of training lie there, and `make demo-model` goes on with them.
clean: ## remove the environment and all output, but not build/demo-model
	@rm -rf $(VENV) out *.egg-info
	@test ! -d build || find build -mindepth 1 -maxdepth 1 ! -name demo-model -exec rm -rf {} +
