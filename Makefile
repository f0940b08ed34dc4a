# Each target sets up what it needs in .venv, from an empty checkout.
PYTHON ?= python3
BIN := .venv/bin
PROMPT ?= a church bell

.PHONY: demo serve test lint pytest bench clean

# build the demo bundle, make a sound with it and draw it
demo: .venv/export
	$(BIN)/python -m export build --checkpoint demo --out engines/demo
	$(BIN)/trt-audioldm2 "$(PROMPT)" --engines engines/demo --steps 20 \
		--scheduler DPMSolverMultistepScheduler --seed 1 --plot --output demo.wav

# build the demo bundle and serve it on http://127.0.0.1:8000
serve: .venv/export
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[cpu,export,plot,serve]"
	$(BIN)/python -m export build --checkpoint demo --out engines/demo
	$(BIN)/trt-audioldm2-serve --engines engines/demo

# lint, types, tests: what CI runs; side by side, so that no core waits for the types
test: .venv/dev
	$(MAKE) --jobs=2 lint pytest

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# a process a core, each with whole files: what a file shares among its tests is made once
pytest: .venv/dev
	$(BIN)/python -m pytest -m "not slow" --numprocesses auto --dist loadfile

# one guided UNet step at base size against eager diffusers; takes about 4 GB of memory
bench: .venv/export
	$(BIN)/python -m bench step

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/export: .venv/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[cpu,export,plot]"
	touch $@

.venv/dev: .venv/export
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[cpu,export,loudness,plot,serve,tts,dev]"
	touch $@

clean:
	rm -rf .venv build dist *.egg-info
