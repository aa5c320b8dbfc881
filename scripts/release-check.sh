#!/bin/sh
# Makes a release of HEAD in two fresh clones with different paths, and compares them byte by byte.
# The second clone begins with an empty cache, so that nothing that was built before can hide a
# difference.
set -eu
cd "$(dirname "$0")/.."
dir=$(mktemp -d)
trap 'chmod -R u+w "$dir"; rm -rf "$dir"' EXIT
trap 'exit 1' INT TERM

# Everything is taken from here at once, because work may go on meanwhile.
git clone -q . "$dir/here"
mkdir -p "$dir/some/where"
cp -a "$dir/here" "$dir/some/where/else"

make --no-print-directory -C "$dir/here" release >/dev/null
GOCACHE=$dir/cache make --no-print-directory -C "$dir/some/where/else" release >/dev/null
diff -r "$dir/here/dist" "$dir/some/where/else/dist" || {
	echo "release-check: two builds of one commit differ" >&2
	exit 1
}
cat "$dir/here/dist/SHA256SUMS"
echo "release-check: two builds of one commit are equal"
