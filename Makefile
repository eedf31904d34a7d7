# make serve   serve the example models until Ctrl-C
# make test    all tests; make test ARGS="-k codec" some of them
# make lint    style and types
# make bench   measure: a table, bench.json and bench.png
# make bench-peers   the same jobs by LitServe, BentoML and MLServer beside ours
# make clean   remove what the others made
#
# The first call makes .venv with everything that constraints.txt pins, and .venv-mxnet, which MXNet
# needs for itself, with what constraints-mxnet.txt pins: some minutes, 4 GB.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
CONFIG ?= configs/app.yaml
ARGS ?=

PACKAGES := -e .[serve,tensorflow,examples,plots,test,lint] safetensors
MXNET_PACKAGES := -e .[serve,mxnet,test-tools]
PEERS := litserve bentoml mlserver

# The pip of .venv, or where Debian gave it none, Python's.
PIP = "$$(.venv/bin/python -c 'import pip, sys; print(sys.executable)' 2>/dev/null || echo '$(PYTHON)')" \
  -m pip --python
# $(call install,ENVIRONMENT,PACKAGES,CONSTRAINTS)
install = .venv/bin/uv pip install -q --compile-bytecode --python $(1)/bin/python $(2) -c $(3) \
  || { echo "uv failed; trying pip ..."; $(PIP) $(1)/bin/python install -q $(2) -c $(3); }

.PHONY: serve test lint bench bench-peers clean
.DELETE_ON_ERROR:

# A plain command, so that make runs it without a shell: a shell would die of Ctrl-C itself, and
# make would call that an error.
serve: models/.built
	@.venv/bin/rayserve-app serve $(CONFIG)

# The tests that need no Serve run side by side, a file at a time; then those of one Serve instance.
# Ray leaves a token under the home directory that later runs would find, hence one of its own.
test: models/.built
	@mkdir -p .venv/home
	@HOME=$(CURDIR)/.venv/home .venv/bin/python -m pytest -n 4 --no-loadscope-reorder $(ARGS)

lint: .venv/.installed
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy

bench: models/.built
	@.venv/bin/rayserve-app bench --json bench.json --plot bench.png $(ARGS)

# Each server in an environment of its own, as nothing of theirs is to meet anything of ours.
bench-peers: models/.built $(PEERS:%=.venv-peers/%/.installed)
	@.venv/bin/rayserve-app bench-peers --json bench-peers.json --plot bench-peers.png $(ARGS)

clean:
	rm -rf .venv .venv-mxnet .venv-peers models dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

models/.built: $(wildcard rayserve_app/examples/*.py) | .venv/.installed .venv-mxnet/.installed
	@echo "Building the example models in models/ ..."
	@mkdir -p models
	@.venv/bin/rayserve-app build-models
	@.venv-mxnet/bin/python -m rayserve_app.examples.resnet models/resnet-embedding
	@touch $@

.venv/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null \
	|| { echo "Python 3.11 is needed: make PYTHON=/path/to/python3.11"; exit 1; }
	@# Debian parts venv and pip from Python; either of the two is enough.
	@if test ! -x .venv/bin/python; then \
	  echo "Making .venv ..."; \
	  if $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null; then $(PYTHON) -m venv .venv; \
	  elif $(PYTHON) -c 'import pip, venv' 2>/dev/null; then $(PYTHON) -m venv --without-pip .venv; \
	  else echo "No venv for $(PYTHON): apt-get install python3-venv"; exit 1; fi; \
	fi
	@echo "Installing what constraints.txt pins into .venv (first time: minutes) ..."
	@$(PIP) .venv/bin/python install -qq -c constraints.txt uv
	@$(call install,.venv,$(PACKAGES),constraints.txt)
	@# With pip, which finds a build for CPUs where its configuration names one; uv would not.
	@$(PIP) .venv/bin/python install -q -c constraints.txt torch
	@touch $@

.venv-mxnet/.installed: pyproject.toml constraints-mxnet.txt | .venv/.installed
	@echo "Installing what constraints-mxnet.txt pins into .venv-mxnet ..."
	@test -x .venv-mxnet/bin/python || .venv/bin/python -m venv --without-pip .venv-mxnet
	@$(call install,.venv-mxnet,$(MXNET_PACKAGES),constraints-mxnet.txt)
	@touch $@

.venv-peers/%/.installed: rayserve_app/bench/peers/%.txt | .venv/.installed
	@echo "Installing $* into .venv-peers/$* ..."
	@test -x .venv-peers/$*/bin/python || .venv/bin/python -m venv --without-pip .venv-peers/$*
	@# torch apart, as above.
	@grep -v '^torch==' $< > .venv-peers/$*/requirements.txt
	@$(call install,.venv-peers/$*,-r .venv-peers/$*/requirements.txt,$<)
	@$(PIP) .venv-peers/$*/bin/python install -q -c $< torch
	@touch $@
