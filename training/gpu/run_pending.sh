#!/bin/sh
# Train pending runs on a machine that short commands with limited luggage are all that reaches;
# README.md beside this file has the steps. PYTHON is the one to use, by default the checkout's.
here=$(cd "$(dirname "$0")" && pwd)
root=$here/../..
[ -n "$PYTHON" ] || { PYTHON=$root/.venv/bin/python; [ -x "$PYTHON" ] || PYTHON=python3; }
PYTHONPATH=$here:$root/zoo:$root/training${PYTHONPATH:+:$PYTHONPATH} exec "$PYTHON" -m repzoo_trips "$@"
