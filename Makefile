# `make serve` and `make test` need nothing else: each creates its own environment.
PYTHON ?= python3
PORT ?= 3000
MODELS ?= simvae-mnist
CONSTRAINTS := -c constraints.txt

.PHONY: help serve install test check check-slow docs soak bench clean

help:  ## Show this help
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1@\2/p' $(MAKEFILE_LIST) | column -t -s @

serve: .venv-serving/.installed  ## Serve simvae-mnist on port 3000 (MODELS=NAME,NAME PORT=8080)
	@exec .venv-serving/bin/zoo serve --models $(MODELS) --port $(PORT)

install: .venv/.installed  ## Install everything into .venv

test: .venv/.installed  ## Run the test suite
	.venv/bin/pytest -m "not slow" -n auto --dist loadfile --no-loadscope-reorder

check: .venv/.installed  ## Run ruff, codespell, mypy and import-linter
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/codespell
	.venv/bin/mypy
	.venv/bin/lint-imports

# These take more than a minute each; tests/results has their last output.
check-slow: .venv/.installed  ## Run the slow tests
	.venv/bin/pytest -m slow

docs: .venv/.installed  ## Build the documentation site in site/
	NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build

soak: .venv/.installed  ## Put a server under load for 20 minutes
	.venv/bin/python tests/soak.py --minutes 20

bench: .venv/.installed  ## Run the benchmarks
	.venv/bin/python training/benchmarks/step.py
	.venv/bin/python zoo/benchmarks/startup.py
	.venv/bin/python zoo/benchmarks/pull.py
	.venv/bin/python zoo/benchmarks/embed.py
	.venv/bin/python zoo/benchmarks/photos.py
	.venv/bin/python zoo/benchmarks/binding.py
	.venv/bin/python serving/benchmarks/wire.py
	.venv/bin/python serving/benchmarks/photos.py
	.venv/bin/python serving/benchmarks/overload.py
	.venv/bin/python serving/benchmarks/imported.py
	.venv/bin/python clients/python/benchmarks/index.py

clean:  ## Remove both environments
	rm -rf .venv .venv-serving

# If a stamp is older than what it was installed from, pip runs again.
.venv-serving/.installed: pyproject.toml constraints.txt
	@echo "Installing what serving needs into .venv-serving (once, about a minute)..."
	@$(PYTHON) -m venv .venv-serving
	@.venv-serving/bin/pip install --quiet --disable-pip-version-check $(CONSTRAINTS) -e ".[serving]"
	@touch $@

.venv/.installed: pyproject.toml clients/python/pyproject.toml constraints.txt
	@echo "Installing everything into .venv (once, torch with CUDA is several GB)..."
	@$(PYTHON) -m venv .venv
	@.venv/bin/pip install --quiet --disable-pip-version-check $(CONSTRAINTS) -e ".[all,dev]" -e clients/python
	@touch $@
