#!/usr/bin/env bash
# Generates the Python stubs from protos/ into pursestrings/{type,metering,budget,wallet}/v1.
# The generator is old on purpose: what it writes runs on protobuf 5.29 to 7 and grpcio 1.71 and newer.
set -euo pipefail
cd "$(dirname "$0")/.."
gen=.purse/gen
stamp=$gen/.requirements
if ! cmp -s scripts/requirements-gen.lock "$stamp"; then
  python3 -m venv --clear "$gen"
  "$gen/bin/pip" install --quiet --disable-pip-version-check --require-hashes -r scripts/requirements-gen.lock
  cp scripts/requirements-gen.lock "$stamp"
fi
out=${1:-.}
google=$("$gen/bin/python" -c 'import google.rpc, pathlib; print(pathlib.Path(list(google.rpc.__path__)[0]).parent.parent)')
mkdir -p .purse/protos/google/rpc
cp "$google/google/rpc/status.proto" .purse/protos/google/rpc/
mapfile -t files < <(cd protos && find pursestrings -name '*.proto' | sort)
PATH="$PWD/$gen/bin:$PATH" "$gen/bin/python" -m grpc_tools.protoc -I protos -I .purse/protos \
  --python_out="$out" --grpc_python_out="$out" --mypy_out="quiet:$out" --mypy_grpc_out="quiet:$out" "${files[@]}"
for area in type metering budget wallet; do
  printf '"""Generated from protos/pursestrings/%s."""\n' "$area" > "$out/pursestrings/$area/__init__.py"
  printf '"""Generated from protos/pursestrings/%s/v1."""\n' "$area" > "$out/pursestrings/$area/v1/__init__.py"
done
# The shared types hold no service.
rm -f "$out"/pursestrings/type/v1/*_pb2_grpc.py*
