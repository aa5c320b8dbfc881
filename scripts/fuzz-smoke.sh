#!/bin/sh
# Runs every fuzz target of the module for FUZZTIME each, and stops at the first failure.
set -eu
cd "$(dirname "$0")/.."
time=${FUZZTIME:-5s}
ran=0
for pkg in $(go list ./...); do
	for target in $(go test -buildvcs=false -list '^Fuzz' "$pkg" | grep '^Fuzz' || true); do
		echo "fuzz $pkg $target $time"
		go test -buildvcs=false -run '^$' -fuzz "^$target\$" -fuzztime "$time" "$pkg"
		ran=$((ran + 1))
	done
done
[ "$ran" -gt 0 ] || {
	echo "fuzz-smoke: no fuzz target found" >&2
	exit 1
}
echo "fuzz-smoke: $ran targets passed"
