#!/usr/bin/env bash
# compose.sh ARGS...: docker compose, or a plain word when no Docker engine answers.
set -euo pipefail
cd "$(dirname "$0")/.."
if ! docker info >/dev/null 2>&1; then
    echo "error: no Docker engine answers (docker info)." >&2
    echo "  Not needed for the tests: make test starts private Redis and RabbitMQ servers by itself." >&2
    exit 1
fi
exec docker compose "$@"
