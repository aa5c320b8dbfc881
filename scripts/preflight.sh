#!/bin/sh
# Says in one line what this machine lacks, and what to do, before anything else happens.
set -eu
cd "$(dirname "$0")/.."

fail() {
	echo "preflight: $*" >&2
	exit 1
}

want=$(awk '$1 == "go" {print $2; exit}' go.mod)
command -v go >/dev/null 2>&1 ||
	fail "no go command: install Go $want or later from https://go.dev/dl and put it in PATH"

# Ask outside the module, so that an old Go answers instead of refusing go.mod.
have=$(cd / && GOTOOLCHAIN=local go env GOVERSION 2>/dev/null) || have=
have=${have#go}
have=${have%% *}
at_least() { [ "$(printf '%s\n%s\n' "$1" "$2" | sort -V | head -n 1)" = "$1" ]; }
if [ -z "$have" ] || ! at_least "$want" "$have"; then
	# Go 1.21 and later fetches the toolchain that go.mod asks for, unless told not to.
	if [ -z "$have" ] || ! at_least 1.21 "$have" || [ "$(go env GOTOOLCHAIN)" = local ]; then
		fail "Go ${have:-of unknown version} is too old:" \
			"install Go $want or later from https://go.dev/dl"
	fi
fi

command -v make >/dev/null 2>&1 || fail "no make: install it (apt-get install make)"

kvm=${PREFLIGHT_KVM:-/dev/kvm}
[ -e "$kvm" ] ||
	fail "no $kvm: enable virtualization in the firmware (or nested virtualization)" \
		"and load the module (modprobe kvm_intel, or kvm_amd)"
[ -c "$kvm" ] || fail "$kvm is not a device: remove it and load the kvm module again"
if ! [ -r "$kvm" ] || ! [ -w "$kvm" ]; then
	fail "no permission for $kvm: run 'sudo usermod -aG kvm $(id -un)' and log in again"
fi
