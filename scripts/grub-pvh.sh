#!/usr/bin/env bash
# grub-pvh.sh: unpacks GRUB's PVH image, an ELF32 file, from Debian's package grub-xen-host into a
# cache, installs nothing, and prints where it is. The package comes by apt, as any user.
set -euo pipefail

dir=${VMM_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/vmm}/grub
image=$dir/root/usr/lib/grub-xen/grub-i386-xen_pvh.bin

fail() {
	echo "grub-pvh.sh: $*" >&2
	exit 1
}

if [ ! -f "$image" ]; then
	command -v apt-get >/dev/null || fail "this host has no apt-get: the image is of Debian"
	mkdir -p "$dir"
	cd "$dir"
	apt-get -qq -o APT::Sandbox::User= download grub-xen-host >&2 ||
		fail "apt-get finds no grub-xen-host: run apt-get update"
	dpkg-deb -x grub-xen-host_*.deb root
	[ -f "$image" ] || fail "the package has no ${image#"$dir/root"}"
fi
echo "$image"
