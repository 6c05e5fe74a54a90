# Two commands, by themselves on a fresh machine with Python 3.11 or newer, a C compiler and make:
#   make demo   sets up and runs the main job on real input
#   make test   sets up and passes the tests
# The rest is in noxfile.py: .venv/bin/nox -l

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python; do \
  "$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$p" && break; done)
SOURCES := $(shell find src native -type f -not -name '*.pyc') meson.build pyproject.toml
DEMO_ARGS ?=

.PHONY: demo test lint bench clean

demo: .venv/installed
	.venv/bin/stead demo $(DEMO_ARGS)

test: .venv/nox
	.venv/bin/nox -s tests

lint: .venv/nox
	.venv/bin/nox -s lint

bench: .venv/nox
	.venv/bin/nox -s bench

.venv/pip:
	@test -n "$(PYTHON)" || { echo "stead needs Python 3.11 or newer: set PYTHON=/path/to/python3" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --upgrade 'pip>=25.1'
	@touch $@

.venv/installed: .venv/pip $(SOURCES)
	.venv/bin/python -m pip install --quiet '.[cli]'
	@touch $@

.venv/nox: .venv/pip
	.venv/bin/python -m pip install --quiet 'nox>=2024.10.9'
	@touch $@

clean:
	rm -rf .venv .nox build benchmarks/build
