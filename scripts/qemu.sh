#!/bin/sh
# qemu.sh [DIR]: unpacks the newest QEMU of this Debian's backports into DIR, by default a folder of
# the user's cache. It installs nothing, and prints the path of a program that runs that QEMU, for
# `vmm bench --qemu`.
#
# Its libraries must be installed: install Debian's own qemu-system-x86 first, which brings them. It
# needs root, for apt's sandbox.
set -eu
dir=${1:-${XDG_CACHE_HOME:-$HOME/.cache}/taskguide-qemu}
run=$dir/qemu-system-x86_64

fail() {
	echo "qemu.sh: $1" >&2
	exit 1
}

if [ ! -x "$run" ]; then
	command -v apt-get >/dev/null ||
		fail "this host has no apt-get: give vmm bench --qemu a QEMU of your own"
	. /etc/os-release
	# Backports come from where this host gets its packages.
	mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' |
		grep -v -e security -e updates | head -n 1)
	[ -n "$mirror" ] || fail "apt knows of no repository yet: run apt-get update"
	mkdir -p "$dir/deb" "$dir/lists/partial" "$dir/cache/archives/partial"
	dir=$(cd "$dir" && pwd)
	run=$dir/qemu-system-x86_64
	keyring=/usr/share/keyrings/debian-archive-keyring.gpg
	echo "deb [signed-by=$keyring] $mirror $VERSION_CODENAME-backports main" >"$dir/list"
	apt() {
		apt-get -o Dir::Etc::sourcelist="$dir/list" -o Dir::Etc::sourceparts=/dev/null \
			-o Dir::State::lists="$dir/lists" -o Dir::Cache="$dir/cache" \
			-o APT::Sandbox::User=root -qq "$@" >&2
	}
	apt update || fail "no backports of $VERSION_CODENAME at $mirror"
	(cd "$dir/deb" && apt download qemu-system-x86 qemu-system-common qemu-system-data seabios) ||
		fail "the backports of $VERSION_CODENAME have no QEMU"
	for package in "$dir"/deb/*.deb; do
		dpkg -x "$package" "$dir/root"
	done
	cat >"$run.new" <<-END
		#!/bin/sh
		exec "$dir/root/usr/bin/qemu-system-x86_64" -L "$dir/root/usr/share/qemu" \\
			-L "$dir/root/usr/share/seabios" "\$@"
	END
	chmod +x "$run.new"
	"$run.new" --version >/dev/null ||
		fail "it does not start: install qemu-system-x86, which brings its libraries"
	mv "$run.new" "$run"
fi
echo "$run"
