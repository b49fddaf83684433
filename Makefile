# Each target does all the set-up it needs. `make serve` and `make test` are the two commands of the README.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEPLOY := .venv-deploy
TEXT ?= Hello, I am Orpheus, and I run on this machine.
VOICE ?= tara
OUT ?= hello.wav
# As they were given, and read by the shell as variables: quotes, backticks and dollars in a text mean nothing.
override TEXT := $(value TEXT)
override VOICE := $(value VOICE)
override OUT := $(value OUT)
export TEXT VOICE OUT

# Without a GPU the CPU build of torch is wanted: a tenth of the size. Where PyTorch's own index cannot be
# reached the ordinary one answers; asked once and for torch alone, so that it costs no time either.
TORCH_INDEX := $(shell command -v nvidia-smi >/dev/null || \
	echo "--extra-index-url https://download.pytorch.org/whl/cpu --retries 0 --timeout 10")
# llama.cpp compiled for this machine, without the libraries that llama-cpp-python does not load.
export CMAKE_ARGS ?= -DLLAVA_BUILD=OFF -DCMAKE_UNITY_BUILD=ON -DCMAKE_PROJECT_llama.cpp_INCLUDE=$(CURDIR)/cmake/llama_cpp_lean.cmake
export CMAKE_BUILD_PARALLEL_LEVEL ?= $(shell getconf _NPROCESSORS_ONLN)

.PHONY: help install serve say test test-training check check-pins format docs bench benchmarks bench-voice browser deploy clean

help:
	@echo "make serve   both tiers on http://127.0.0.1:5005"
	@echo "make say     TEXT=\"...\" VOICE=tara OUT=hello.wav: one text into a file"
	@echo "make test    the tests"
	@echo "make test-training   the recipe of the embedded voice, at its smallest size"
	@echo "make check   lint, format and types"
	@echo "make check-pins   whether the packages of the images fit together; asks a package index"
	@echo "make format  put the code into the format that check wants"
	@echo "make docs    docs/reference.md, made anew from the code"
	@echo "make browser Chromium for the tests of the page, where apt-get can install it"
	@echo "make bench   how soon, how fast and for how many this machine speaks, in two minutes; ARGS=\"--url ...\" another"
	@echo "make benchmarks      every benchmark of the repository, in its short form"
	@echo "make bench-voice     the embedded voice judged by machine, in short"
	@echo "make deploy  ARGS=\"--dry-run\": both tiers to Modal; python deploy_orpheus_modal.py --help has the options"
	@echo "make clean   remove the virtual environments"

serve: install
	@$(BIN)/orpheus serve $(ARGS)

say: install
	@$(BIN)/orpheus say --voice "$$VOICE" --out "$$OUT" -- "$$TEXT"

test: $(VENV)/dev
	@$(MAKE) --no-print-directory browser || echo "Without it the tests of the page are skipped."
	$(BIN)/python -m pytest $(ARGS)

test-training: $(VENV)/train
	$(BIN)/python -m pytest training $(ARGS)

check: $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# For the tests of the page at /: Debian's own, as Playwright would fetch another from outside.
browser:
	@command -v chromium >/dev/null || command -v google-chrome >/dev/null || { \
		apt-get install -y --no-install-recommends chromium || \
		{ apt-get update && apt-get install -y --no-install-recommends chromium; }; } >/dev/null 2>&1 || \
		{ echo "The page's tests need Chromium, which could not be installed: apt-get install chromium"; exit 1; }

format: $(VENV)/dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/dev
	$(BIN)/python -m docs.reference docs/reference.md

bench: $(VENV)/bench
	@$(BIN)/orpheus bench $(ARGS)

benchmarks: $(VENV)/bench
	@for name in engine codec speech conversation; do $(BIN)/python -m benchmarks.$$name --quick || exit 1; done

bench-voice: $(VENV)/train $(VENV)/bench
	$(BIN)/python -m benchmarks.voice --quick

check-pins: $(VENV)/dev
	$(BIN)/python -m orpheus.deploy.check_pins

deploy: $(DEPLOY)/installed
	@$(DEPLOY)/bin/python deploy_orpheus_modal.py $(ARGS)

install: $(VENV)/installed

clean:
	rm -rf $(VENV) $(DEPLOY)

# What is left of an environment that could not be made is removed: the next try would take it for one.
define make_environment
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Orpheus needs Python 3.11 or later: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(1) || \
		{ rm -rf $(1); echo "Python cannot make virtual environments here: apt-get install python3-venv"; exit 1; }
endef

$(BIN)/python:
	@{ command -v cmake && { command -v "$${CXX:-c++}" || command -v g++ || command -v clang++; }; } >/dev/null || \
		{ echo "Orpheus needs cmake and a C++ compiler to build llama.cpp: apt-get install cmake g++"; exit 1; }
	$(call make_environment,$(VENV))

# Torch first, alone: only it takes the extra index. Then the rest with llama.cpp, a build of about two minutes
# on two cores.
$(VENV)/installed: $(BIN)/python pyproject.toml constraints.txt
	@echo "Installing into $(VENV): about 3 minutes the first time, most of them compiling llama.cpp."
	$(BIN)/python -m pip install --disable-pip-version-check --progress-bar on -c constraints.txt --no-deps $(TORCH_INDEX) torch
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(VENV)/dev: $(VENV)/installed
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $@

$(VENV)/train: $(VENV)/dev
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e ".[train]"
	@touch $@

$(VENV)/bench: $(VENV)/dev
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e ".[bench]"
	@touch $@

# Deploying needs neither torch nor llama.cpp: seconds instead of minutes.
$(DEPLOY)/installed: constraints.txt
	$(call make_environment,$(DEPLOY))
	$(DEPLOY)/bin/python -m pip install --disable-pip-version-check -q -c constraints.txt \
		modal httpx numpy pydantic-settings rich typer
	@touch $@
