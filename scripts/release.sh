#!/bin/sh
# release.sh DIR: makes the files of a release in DIR: an archive with the programs, manual pages
# and completions, an SBOM of each program, and their checksums.
#
# The same commit gives the same bytes, on any path and at any time: no build path, no build ID, no
# C compiler, one date (the commit's), one owner and one order of files. `make release-check` tests
# that.
set -eu
out=$1
cd "$(dirname "$0")/.."

fail() {
	echo "release: $1" >&2
	exit 1
}

: "${GO:=go}"
sbom=github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod@v1.10.0

[ -n "$(git rev-parse --show-toplevel 2>/dev/null)" ] ||
	fail "not a git checkout: a release is made from a commit"
[ -z "$(git status --porcelain)" ] ||
	fail "there are changes that are in no commit: commit or stash them"

# A user's settings must not change the result.
export LC_ALL=C TZ=UTC GOFLAGS= GOOS=linux GOARCH=amd64 GOAMD64=v1 GOEXPERIMENT=
umask 022
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
export SOURCE_DATE_EPOCH

rm -rf "$out"
mkdir -p "$out"
out=$(cd "$out" && pwd)
make --no-print-directory stage RELEASE_FLAGS='-ldflags="-s -w -buildid="' VCS=true
version=$(bin/install/bin/vmm version --json | sed -n 's/^  "version": "\(.*\)",$/\1/p')
[ -n "$version" ] || fail "vmm version --json names no version"

name=vmm-$version-linux-amd64
mkdir "$out/$name"
make --no-print-directory install-staged DESTDIR="$out/$name" PREFIX=
cp LICENSE README.md CHANGELOG.md SECURITY.md "$out/$name"
tar --sort=name --format=ustar --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner \
	-C "$out" -cf "$out/$name.tar" "$name"
gzip -n -9 "$out/$name.tar"

for program in bin/install/bin/*; do
	# The tool is built the same way for everybody, so that it reports the same about itself.
	CGO_ENABLED=0 "$GO" run -trimpath -buildvcs=false "$sbom" bin \
		-json -std -noserial -notimestamp -version "$version" \
		-output "$out/$(basename "$program")-$version.cdx.json" "$program"
done
rm -r "${out:?}/$name"
(cd "$out" && sha256sum -- * >SHA256SUMS && cat SHA256SUMS)
