#!/bin/sh
# Checks what a build needs before anything long starts: Python, Java, disk, a free port, the day.
# Each fault is one line. Usage: preflight.sh PYTHON [PORT] [DAY] [WAREHOUSE]
set -u
python=$1
port=${2:-}
day=${3:-}
warehouse=${4:-warehouse}

stop() {
    echo "error: $*" >&2
    exit 1
}

command -v "$python" >/dev/null 2>&1 ||
    stop "$python is not there: install Python 3.11, or name it by 'make PYTHON=/path/to/python3.11 …'"
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])') ||
    stop "$python does not run"
[ "$version" = 3.11 ] ||
    stop "$python is Python $version, 3.11 is needed: name one by 'make PYTHON=/path/to/python3.11 …'"
"$python" -c 'import venv, ensurepip' 2>/dev/null ||
    stop "$python cannot make virtual environments: install python3.11-venv"

if [ -n "$day" ]; then
    "$python" -c 'import datetime, sys; datetime.date.fromisoformat(sys.argv[1])' "$day" 2>/dev/null ||
        stop "DAY is written YYYY-MM-DD, as 2024-05-01, got '$day'"
fi

java=${JAVA_HOME:+$JAVA_HOME/bin/}java
if ! "$java" -version >/dev/null 2>&1; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
        echo "Java is missing: installing openjdk-17-jre-headless by apt"
        apt-get update -qq && apt-get install -y -qq openjdk-17-jre-headless >/dev/null ||
            stop "apt could not install openjdk-17-jre-headless: install Java 17 by hand"
        java=java
    else
        stop "Java is missing: install Java 17 (Debian: apt-get install openjdk-17-jre-headless)"
    fi
fi
major=$("$java" -version 2>&1 | sed -n 's/.*version "\([0-9]*\).*/\1/p' | head -n 1)
[ "${major:-0}" -ge 17 ] ||
    stop "Java $major is too old for Spark 4, 17 or newer is needed: install it, or set JAVA_HOME"

need=1
[ -e .venv/.current ] || need=$((need + 4))
[ -e .venv-airflow/.current ] || need=$((need + 1))
free=$(df -Pk . | awk 'NR == 2 {print int($4 / 1048576)}')
[ "$free" -ge "$need" ] ||
    stop "the disk has $free GiB free at $(pwd), $need GiB are needed: free some"

# An Airflow of this warehouse may hold the port: recbole-llm ends it, or says who runs it.
if [ -n "$port" ] && ! grep -qs "127.0.0.1:$port\"" "$warehouse/airflow/lock"; then
    "$python" - "$port" <<'PORT' || stop "port $port is in use: choose another by 'make … PORT=8090'"
import socket, sys
with socket.socket() as probe:
    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        probe.bind(("127.0.0.1", int(sys.argv[1])))
    except OSError:
        sys.exit(1)
PORT
fi
