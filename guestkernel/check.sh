#!/bin/bash
# Builds the guest from its sources into a temporary folder and verifies that the committed
# guest.elf comes from them: byte by byte if the tools are the same, otherwise by the digest of the
# sources.
set -euo pipefail
cd "$(dirname "$0")"

out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
make --no-print-directory -s -C src -f build.mk OUT="$out"

# note FILE NAME: prints that section's taskguide note, which follows 12 bytes of header and 12 of
# its owner's name.
note() {
	objcopy -O binary --only-section=".note.$2" "$1" "$out/note"
	tail -c +25 "$out/note" | tr -d '\0'
}

if [ "$(note guest.elf digest)" != "$(note "$out/guest.elf" digest)" ]; then
	echo "guestkernel/guest.elf was built from other sources;" \
		"run make -C guestkernel and commit it" >&2
	exit 1
fi
committed=$(note guest.elf tools) present=$(note "$out/guest.elf" tools)
if [ "$committed" != "$present" ]; then
	echo "guest.elf: the sources' digest agrees, and they build; bytes not compared," \
		"as it was built with $committed and here is $present"
	exit 0
fi
if ! cmp guest.elf "$out/guest.elf"; then
	echo "guestkernel/guest.elf differs from what its sources make with the same tools;" \
		"run make -C guestkernel and commit it" >&2
	exit 1
fi
echo "guest.elf: rebuilt identically with $present"
