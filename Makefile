# Two commands do all the set-up: `make serve` and `make test`. Each makes its own environment.
PYTHON ?= python3
PORT ?= 3000
MODELS ?= simvae-mnist
CONSTRAINTS := -c constraints.txt

.PHONY: serve install test check check-slow soak bench clean

serve: .venv-serving/.installed
	@exec .venv-serving/bin/zoo serve --models $(MODELS) --port $(PORT)

install: .venv/.installed

test: .venv/.installed
	.venv/bin/pytest -m "not slow" -n auto --dist loadfile

check: .venv/.installed
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

# Longer than a minute each; what they printed last stands in tests/results.
check-slow: .venv/.installed
	.venv/bin/pytest -m slow

soak: .venv/.installed
	.venv/bin/python tests/soak.py --minutes 20

bench: .venv/.installed
	.venv/bin/python training/benchmarks/step.py
	.venv/bin/python zoo/benchmarks/startup.py
	.venv/bin/python zoo/benchmarks/pull.py
	.venv/bin/python zoo/benchmarks/embed.py
	.venv/bin/python zoo/benchmarks/binding.py
	.venv/bin/python serving/benchmarks/wire.py
	.venv/bin/python serving/benchmarks/overload.py
	.venv/bin/python clients/python/benchmarks/index.py

clean:
	rm -rf .venv .venv-serving

# The stamp is newer than what it was installed from, or pip runs again.
.venv-serving/.installed: pyproject.toml constraints.txt
	@echo "Installing what serving needs into .venv-serving (once; about a minute)..."
	@$(PYTHON) -m venv .venv-serving
	@.venv-serving/bin/pip install --quiet --disable-pip-version-check $(CONSTRAINTS) -e ".[serving]"
	@touch $@

.venv/.installed: pyproject.toml clients/python/pyproject.toml constraints.txt
	@echo "Installing everything into .venv (once; torch with CUDA is several GB)..."
	@$(PYTHON) -m venv .venv
	@.venv/bin/pip install --quiet --disable-pip-version-check $(CONSTRAINTS) -e ".[all,dev]" -e clients/python
	@touch $@
