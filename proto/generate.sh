#!/usr/bin/env bash
# Writes the Python stubs of proto/tppo/v1 under DIR (default: the repository), as DIR/tppo/v1/.
# usage: proto/generate.sh [DIR]      PYTHON chooses the interpreter; its bin/ must hold mypy-protobuf's plugins
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
out=${1:-.}
export PATH="$(dirname "$(command -v "$python")"):$PATH"
mkdir -p "$out/tppo/v1"
"$python" -m grpc_tools.protoc -Iproto --python_out="$out" --grpc_python_out="$out" \
  --mypy_out="$out" --mypy_grpc_out="$out" proto/tppo/v1/*.proto
