# rbee: `make run` and `make test` need nothing but Python >= 3.11, a C++ compiler and make.
#
#   make run                      the dashboard, with the demo model ready to chat
#   make run PROMPT="Why …?"      one answer on stdout, nothing left running
#   make setup                    only install, into .venv
#   make test                     the test suite                make lint    style, types, layers
#   make lab                      tests that take machines to their limits: 5 minutes, needs sshd
#   make bench                    the queen beside a bare proxy: 10 minutes, or ARGS=--quick
#   make bench-engine             speed beside llama-server: 25 minutes, 4 with ARGS=--quick
#   make bench-links              what machines over SSH cost: 10 minutes, needs sshd
#   make bench-screens            what the screens cost, in a real terminal: 4 minutes
#   make screenshots              draw the pictures in docs/ again
#   make reference                write docs/cli.md, configuration.md and keys.md again
#
# What is installed is pinned in constraints.txt and, for tests and checks, in constraints-dev.txt,
# constraints-torch.txt and constraints-mlx.txt. A stamp file inside .venv stands for each finished
# installation; it is older than pyproject.toml or the pins when those have changed, and then pip
# runs again.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.SUFFIXES:
.PHONY: help setup run test lab lint bench bench-engine bench-links bench-screens screenshots reference clean

VENV := .venv
BIN := $(VENV)/bin
MODEL := smollm2-135m
PIP := $(BIN)/python -m pip --disable-pip-version-check

# The prompt reaches the shell as a variable and is never expanded, by make or by the shell.
ASKED := $(value PROMPT)
export ASKED
unexport PROMPT

help:
	@sed -n 's/^# \{0,1\}//; 1,13p' Makefile

# The first Python that is new enough and can make a virtual environment.
$(VENV)/.created:
	@if $(BIN)/python -m pip --version >/dev/null 2>&1; then touch $@; exit; fi; \
	for python in python3.11 python3.12 python3.13 python3; do \
	  if "$$python" -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' \
	      2>/dev/null; then \
	    echo "Making $(VENV) with $$python." >&2; \
	    "$$python" -m venv $(VENV) >&2 && touch $@; exit; \
	  fi; \
	done; \
	echo "No Python 3.11 or newer that can make a virtual environment was found." >&2; \
	echo "On Debian or Ubuntu: apt install python3 python3-venv" >&2; exit 1

$(VENV)/.installed: pyproject.toml constraints.txt $(VENV)/.created
	@if ! $(BIN)/python -c 'from importlib.util import find_spec as f; exit(f("llama_cpp") is None)'; then \
	  if ! command -v "$${CXX:-c++}" >/dev/null; then \
	    echo "No C++ compiler (c++) was found; llama-cpp-python needs one." >&2; \
	    echo "On Debian or Ubuntu: apt install g++" >&2; exit 1; \
	  fi; \
	  echo "Installing rbee. llama-cpp-python is compiled here: about 6 minutes on 2 cores, once." >&2; \
	fi
	@$(PIP) install -c constraints.txt -e '.[llamacpp,demo]' >&2
	@touch $@

# The tests of torch need it. PyPI's build for Linux brings CUDA, some 3 GB; PyTorch's own index has
# one without: make test TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH_INDEX :=

$(VENV)/.installed-dev: constraints-dev.txt constraints-torch.txt constraints-mlx.txt \
  $(VENV)/.installed
	@echo "Installing what tests and checks need, PyTorch and MLX among it." >&2
	@if [ -n "$(TORCH_INDEX)" ]; then \
	  $(PIP) install -q -c constraints-torch.txt --index-url $(TORCH_INDEX) torch >&2; \
	fi
	@$(PIP) install -q -c constraints.txt -c constraints-dev.txt -c constraints-torch.txt \
	  -c constraints-mlx.txt -e '.[llamacpp,demo,dev,torch,mlx]' >&2
	@touch $@

setup: $(VENV)/.installed

run: $(VENV)/.installed
	@if [ -t 0 ] && [ -t 1 ] && [ -z "$$ASKED" ]; then \
	  exec $(BIN)/rbee --model $(MODEL); \
	fi; \
	exec $(BIN)/rbee infer --ephemeral --model $(MODEL) --max-tokens 512 -- "$${ASKED:-Why do bees dance?}"

test: $(VENV)/.installed-dev
	$(BIN)/pytest -n 3 --dist worksteal

lab: $(VENV)/.installed-dev
	$(BIN)/pytest -n 2 --dist worksteal -m lab

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright
	$(BIN)/lint-imports

bench: $(VENV)/.installed-dev
	@$(BIN)/python -m bench.queen $(ARGS)

bench-engine: $(VENV)/.installed
	@$(BIN)/python -m bench $(ARGS)

bench-screens: $(VENV)/.installed-dev
	@$(BIN)/python -m bench.screens $(ARGS)

bench-links: $(VENV)/.installed-dev
	@$(BIN)/python -m bench.links $(ARGS)

screenshots: $(VENV)/.installed-dev
	$(BIN)/python tests/tui/export_pictures.py docs

reference: $(VENV)/.installed-dev
	$(BIN)/python docs/reference.py

clean:
	rm -rf $(VENV)
