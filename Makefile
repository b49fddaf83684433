# Each target does all the set-up it needs. `make serve` and `make test` are the two commands of the README.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEPLOY := .venv-deploy
INSTALL := -m pip install --disable-pip-version-check -c constraints.txt
PYTEST_WORKERS ?= 2
PYTEST = $(BIN)/python -m pytest -n $(PYTEST_WORKERS)
TEXT ?= Hello, I am Orpheus, and I run on this machine.
VOICE ?= tara
OUT ?= hello.wav
# The shell reads these as variables, unexpanded: quotes, backticks and dollars in a text have no meaning.
override TEXT := $(value TEXT)
override VOICE := $(value VOICE)
override OUT := $(value OUT)
export TEXT VOICE OUT

# Which GPU llama.cpp is compiled for: auto, cuda, metal, vulkan, rocm or off; without a word, as the last time.
GPU ?=

.PHONY: help serve talk say bench deploy check test test-slow test-vulkan test-training format docs benchmarks \
	bench-voice lock release install browser clean

help: ## this list
	@awk 'BEGIN { FS = ":[^#]*## " } /^##@ / { print "\n" substr($$0, 5) ":" } \
		/^[a-z-]+:.*## / { printf "  make %-13s  %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

##@ Use it

serve: install ## both tiers on http://127.0.0.1:5005; GPU=off or cuda, metal, vulkan, rocm chooses
	@$(BIN)/orpheus serve $(ARGS)

talk: $(VENV)/agent ## the same, and an agent to talk to: open http://127.0.0.1:5005
	@$(BIN)/orpheus talk $(ARGS)

say: install ## speak TEXT="..." with VOICE=tara into OUT=hello.wav
	@$(BIN)/orpheus say --voice "$$VOICE" --out "$$OUT" -- "$$TEXT"

bench: $(VENV)/bench ## measure this machine, or another with ARGS="--url ...", in two minutes
	@$(BIN)/orpheus bench $(ARGS)

deploy: $(DEPLOY)/installed ## both tiers to Modal; ARGS="--dry-run" shows what would happen, ARGS=--help the options
	@$(DEPLOY)/bin/python deploy_orpheus_modal.py $(ARGS)

##@ Work on it

check: $(VENV)/dev ## lint, format, types and which module may import which
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache --no-logo

format: $(VENV)/dev ## fix what check can fix by itself
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test: SELECTED = not slow ## the quick tests; ARGS are pytest's, PYTEST_WORKERS=0 runs them in one process
test-slow: SELECTED = slow ## the slow tests
test test-slow: $(VENV)/dev
	@$(MAKE) --no-print-directory browser || echo "The tests of the web page will be skipped."
	$(PYTEST) -m "$(strip $(SELECTED))" $(ARGS)

test-vulkan: $(VENV)/dev ## tier 1 on a GPU's backend without a GPU: Vulkan on Mesa's software device, built once
	$(BIN)/python -m tests.support.vulkan $(BIN)/python -m pytest -m gpu tests/llama $(ARGS)

test-training: $(VENV)/train ## the recipe of the embedded voice, at its smallest size
	$(BIN)/python -m pytest training $(ARGS)

docs: $(VENV)/dev ## regenerate docs/reference.md from the code
	$(BIN)/python -m docs.reference docs/reference.md

BENCHMARKS = "engine --quick" "host --quick" "trimmed_head --steps 50" "codec --quick" encoders "speech --quick" cache \
	"ceiling --quick" "conversation --quick" "agent --quick" "balancers --quick" "fleet --quick" "roofline --quick" \
	"faults --quick"
benchmarks: $(VENV)/bench ## every benchmark of the repository, in its short form
	@for run in $(BENCHMARKS); do $(BIN)/python -m benchmarks.$$run || exit 1; done

bench-voice: $(VENV)/train $(VENV)/bench ## judge the embedded voice by machine, in short
	$(BIN)/python -m benchmarks.voice --quick

##@ Maintain it

lock: $(VENV)/dev ## update constraints.txt from pyproject.toml; ARGS=--upgrade moves every version
	$(BIN)/python -m uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 --quiet \
		--no-annotate --custom-compile-command "make lock" --output-file constraints.txt $(ARGS)

release: ## set, commit and tag VERSION=1.2.3; pushes nothing
	@echo "$$VERSION" | grep -Eqx '[0-9]+\.[0-9]+\.[0-9]+' || \
		{ echo "Name the version: make release VERSION=1.2.3"; exit 1; }
	@test -z "$$(git status --porcelain)" || { echo "There are uncommitted changes: commit or stash them first."; exit 1; }
	@grep -Fq "## $$VERSION, 2" CHANGELOG.md || \
		{ echo "CHANGELOG.md needs a heading with the version and its date: ## $$VERSION, $$(date +%F)"; exit 1; }
	@sed "s/^__version__ = .*/__version__ = \"$$VERSION\"/" orpheus/__init__.py > .version && \
		cat .version > orpheus/__init__.py && rm .version
	git diff --quiet || git commit --quiet --all --message "Release $$VERSION"
	git tag --annotate "v$$VERSION" --message "Orpheus $$VERSION"
	@echo "Publish it with: git push --follow-tags"

install: $(VENV)/installed ## set up .venv, which the targets above do by themselves

browser: ## Chromium for the tests of the web page, by apt-get
	@command -v chromium >/dev/null || command -v google-chrome >/dev/null || { \
		apt-get install -y --no-install-recommends chromium || \
		{ apt-get update && apt-get install -y --no-install-recommends chromium; }; } >/dev/null 2>&1 || \
		{ echo "The tests of the web page need Chromium: apt-get install chromium"; exit 1; }

clean: ## remove the virtual environments
	rm -rf $(VENV) $(DEPLOY)

# Half an environment is removed, or the next try would take it for a whole one.
define make_environment
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Orpheus needs Python 3.11 or later: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(1) || \
		{ rm -rf $(1); echo "Python cannot make virtual environments here: apt-get install python3-venv"; exit 1; }
endef

FORCE:

$(BIN)/python:
	@{ command -v cmake && { command -v "$${CXX:-c++}" || command -v g++ || command -v clang++; }; } >/dev/null || \
		{ echo "Orpheus needs cmake and a C++ compiler to build llama.cpp: apt-get install cmake g++" \
			"(on a Mac: xcode-select --install, and brew install cmake)"; exit 1; }
	@rm -rf $(VENV)  # what an earlier Python has left, whose packages another does not find
	$(call make_environment,$(VENV))

# Looked for at every call, and written only when it is another: that rebuilds, and nothing else does.
$(VENV)/gpu.json: $(BIN)/python FORCE
	@$(BIN)/python -m orpheus.ops.build plan "$(GPU)" $@

$(VENV)/installed: $(VENV)/gpu.json pyproject.toml constraints.txt cmake/llama_cpp_lean.cmake
	@$(BIN)/python -m orpheus.ops.build install $(VENV) $<
	$(BIN)/python $(INSTALL) -e ".[llama,speech]"
	@touch $@

$(VENV)/train $(VENV)/bench: $(VENV)/dev
$(VENV)/agent $(VENV)/dev $(VENV)/train $(VENV)/bench: $(VENV)/%: $(VENV)/installed
	$(BIN)/python $(INSTALL) -e ".[$*]"
	@touch $@

# Deploying needs neither torch nor llama.cpp: seconds instead of minutes.
$(DEPLOY)/installed: pyproject.toml constraints.txt
	$(call make_environment,$(DEPLOY))
	$(DEPLOY)/bin/python $(INSTALL) -q -e ".[modal]"
	@touch $@
