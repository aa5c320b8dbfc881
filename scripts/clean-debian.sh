#!/usr/bin/env bash
# clean-debian.sh does what a newcomer does, on a Debian that has nothing yet: clone, make install,
# read the manual, complete a command, take README's tour. The Debian is a fresh chroot, made by
# debootstrap and removed afterwards. Go, its module cache and /dev/kvm are this machine's. It needs
# root.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() {
	echo "clean-debian: $1" >&2
	exit 1
}

[ "$(id -u)" = 0 ] || fail "debootstrap and chroot need root: run it with sudo"
command -v debootstrap >/dev/null || fail "no debootstrap: install it (apt-get install debootstrap)"
. /etc/os-release
# The new Debian gets its packages from where this machine gets them.
mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' |
	grep -v -e security -e updates -e backports | head -n 1)
[ -n "$mirror" ] || fail "apt knows of no repository yet: run apt-get update"

root=$(mktemp -d)
mounts=()
cleanup() {
	for m in "${mounts[@]}"; do
		umount "$m"
	done
	# Nothing of this machine may be mounted below it when it is removed.
	! grep -q " $root/" /proc/mounts || fail "something is still mounted in $root"
	rm -rf "$root"
}
trap cleanup EXIT

# bring SOURCE TARGET: mounts a file or folder of this machine, read-only unless it is a device.
bring() {
	local target=$root$2
	if [ -d "$1" ]; then
		mkdir -p "$target"
	else
		mkdir -p "$(dirname "$target")"
		touch "$target"
	fi
	mount --bind "$1" "$target"
	mounts=("$target" "${mounts[@]}")
	[ -c "$1" ] || mount -o remount,bind,ro "$target"
}

go mod download
debootstrap --variant=minbase --include=ca-certificates,make,git,man-db,bash-completion \
	"$VERSION_CODENAME" "$root" "$mirror" >"$root/debootstrap.log" 2>&1 ||
	fail "debootstrap failed: $(tail -n 1 "$root/debootstrap.log")"
bring "$(go env GOROOT)" /usr/local/go
bring "$(go env GOMODCACHE)" /root/go/pkg/mod
bring /dev/kvm /dev/kvm
mount -t proc proc "$root/proc"
mounts=("$root/proc" "${mounts[@]}")
git clone -q --no-hardlinks . "$root/root/vmm"

cat >"$root/root/newcomer" <<'END'
set -euo pipefail
cd /root/vmm
make install
vmm version
echo "--- man vmm"
man vmm >/root/page
head -n 12 /root/page
echo "--- completion of: vmm migr<tab>"
bash <<'BASH' | grep '^migrate'
. /usr/share/bash-completion/bash_completion
_completion_loader vmm # finds what make install has put there; 124 says that it did
compopt() { :; } # works only where a person types
COMP_LINE="vmm migr" COMP_POINT=8 COMP_WORDS=(vmm migr) COMP_CWORD=1 COMP_TYPE=9
$(complete -p vmm | sed 's/.*-F \([^ ]*\) .*/\1/')
printf '%s\n' "${COMPREPLY[@]}"
BASH
echo "--- README's tour"
VMM_BIN=$(command -v vmm) go test -count=1 -v -run TestTour ./integration/readme
END
env -i TERM=dumb HOME=/root MANPAGER=cat GOPROXY=off GOFLAGS=-mod=readonly \
	PATH=/usr/local/bin:/usr/local/go/bin:/usr/sbin:/usr/bin:/sbin:/bin \
	chroot "$root" bash /root/newcomer
echo "clean-debian: all is as README says"
