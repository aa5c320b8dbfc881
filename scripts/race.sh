#!/bin/sh
# race.sh CC -- COMMAND...: runs COMMAND over all packages if CC can compile, and otherwise says
# that it did not, and fails where nothing may be left out (TASKGUIDE_NO_SKIP, as in CI). Only the
# race detector needs a C compiler here.
set -eu
cc=$1
shift 2
if ! command -v "$cc" >/dev/null 2>&1 && ! command -v gcc >/dev/null 2>&1; then
	echo "race detector: left out, no C compiler found (apt-get install gcc)"
	[ -z "${TASKGUIDE_NO_SKIP:-}" ] || exit 1
	exit 0
fi
command -v "$cc" >/dev/null 2>&1 || cc=gcc
echo "race detector: $*"
CC=$cc CGO_ENABLED=1 exec "$@" ./...
