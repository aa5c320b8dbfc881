#!/bin/sh
# race.sh CC -- COMMAND...: runs COMMAND over all packages if CC can compile, says so if not.
# The race detector is the only thing here that needs a C compiler.
set -eu
cc=$1
shift 2
if ! command -v "$cc" >/dev/null 2>&1 && ! command -v gcc >/dev/null 2>&1; then
	echo "race detector: left out, no C compiler found (apt-get install gcc)"
	exit 0
fi
command -v "$cc" >/dev/null 2>&1 || cc=gcc
echo "race detector: $*"
CC=$cc CGO_ENABLED=1 exec "$@" ./...
