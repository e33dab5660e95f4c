#!/usr/bin/env bash
# Run a night on a Spark cluster of this machine: a standalone master and two workers, processes of
# their own, from the pip-installed pyspark, which has no start scripts.
#
#   spark_jobs/standalone.sh WAREHOUSE CONFIG DAY        prepare_features, score_users, publish
#
# CORES and MEMORY are of each worker, PORT is the master's. On machines of your own start the same two
# classes there, with the warehouse on a file system that they share.
set -euo pipefail
warehouse=$(realpath "${1:?WAREHOUSE CONFIG DAY}") config=$(realpath "${2:?CONFIG}") day=${3:?DAY}
home=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-$home/.venv/bin/python}
port=${PORT:-7077} cores=${CORES:-1} memory=${MEMORY:-1g}
master=spark://127.0.0.1:$port

SPARK_HOME=$("$python" -c 'import pyspark; print(pyspark.__path__[0])')
export SPARK_HOME SPARK_LOCAL_IP=127.0.0.1 PYSPARK_PYTHON=$python PYSPARK_DRIVER_PYTHON=$python
export PYTHONPATH=$home${PYTHONPATH:+:$PYTHONPATH}
scratch=$(mktemp -d)
pids=()
stop() {
    for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
    wait
    rm -rf "$scratch"
}
trap stop EXIT

start() { # name, class, arguments
    local name=$1
    shift
    "$SPARK_HOME/bin/spark-class" "$@" >"$scratch/$name.log" 2>&1 &
    pids+=($!)
}
wait_for() { # log, words
    for _ in $(seq 600); do
        grep -q "$2" "$scratch/$1.log" && return
        sleep 0.2
    done
    cat "$scratch/$1.log" >&2
    echo "no '$2' after two minutes" >&2
    return 1
}

deploy=org.apache.spark.deploy
start master $deploy.master.Master --host 127.0.0.1 --port "$port" --webui-port 0
wait_for master "I have been elected leader"
for n in 1 2; do
    start "worker$n" $deploy.worker.Worker --host 127.0.0.1 --webui-port 0 --cores "$cores" \
        --memory "$memory" --work-dir "$scratch/worker$n" "$master"
    wait_for "worker$n" "Successfully registered with master"
done
for job in prepare_features score_users publish; do
    "$SPARK_HOME/bin/spark-submit" --master "$master" --executor-memory "$memory" \
        --conf spark.ui.enabled=false --conf spark.speculation=false \
        "$home/spark_jobs/$job.py" --warehouse "$warehouse" --config "$config" --day "$day" \
        2> >(tee "$scratch/$job.log" | grep -E " (INFO|WARNING|ERROR) (features|scored|published|[A-Z][A-Za-z]*Error)" >&2)
    executors=$(grep -c "Granted executor ID" "$scratch/$job.log" || true)
    echo "$job: done on $executors executors"
done
