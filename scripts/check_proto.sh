#!/usr/bin/env bash
# The contracts: linted, compatible with the committed baseline, and the generated code is theirs.
set -euo pipefail
cd "$(dirname "$0")/.."
fresh=$(mktemp -d)
trap 'rm -rf "$fresh"' EXIT
mkdir -p "$fresh/pursestrings"
bash scripts/proto.sh "$fresh"
.venv/bin/buf lint
.venv/bin/buf build -o "$fresh/now.binpb"
.venv/bin/buf breaking "$fresh/now.binpb" --against protos/baseline.binpb --config buf.yaml
for area in type metering budget wallet; do
  diff -r -x __pycache__ "$fresh/pursestrings/$area" "pursestrings/$area" || {
    echo "pursestrings/$area is not what protos/ generates: run make proto and commit the result" >&2
    exit 1
  }
done
