#!/usr/bin/env bash
# Runs the client on the oldest grpcio and protobuf it promises, in an environment of its own: imports all of it
# and makes calls. The generated code refuses older ones by itself, so this is the true floor.
set -euo pipefail
cd "$(dirname "$0")/.."
floor=.purse/floor
stamp=$floor/.requirements
if ! cmp -s scripts/requirements-floor.lock "$stamp"; then
  "${PYTHON:-python3}" -m venv --clear "$floor"
  "$floor/bin/pip" install --quiet --disable-pip-version-check --require-hashes -r scripts/requirements-floor.lock
  cp scripts/requirements-floor.lock "$stamp"
fi
# grpc tells of its empty wake-ups where two event loops share a process; shown only where something is wrong.
noise=$(mktemp)
trap 'rm -f "$noise"' EXIT
PYTHONPATH="$PWD" "$floor/bin/python" -W error::UserWarning scripts/client_floor.py 2>"$noise" || {
  cat "$noise" >&2
  exit 1
}
