#!/bin/sh
# Everything that is measured on a GPU, in under ten minutes: sh benchmarks/gpu.sh [options of python -m benchmarks.gpu]
# Needs the package's requirements and a card with 40 GB; nothing is downloaded.
set -e
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
[ -x .venv/bin/python ] && PYTHON=.venv/bin/python
exec timeout 600 "$PYTHON" -m benchmarks.gpu "$@"
