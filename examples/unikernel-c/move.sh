#!/bin/sh
# move.sh ELF: runs the unikernel, moves it to a second process of this host, and ends with its exit
# status. vmm must be on the PATH.
set -eu
elf=$1
VMM_RUNTIME_DIR=$(mktemp -d)
export VMM_RUNTIME_DIR
trap 'kill $(jobs -p) 2>/dev/null || true; rm -rf "$VMM_RUNTIME_DIR"' EXIT

vmm run --name uni --memory 16M --kernel "$elf" &
vmm run --name uni2 --incoming "unix:$VMM_RUNTIME_DIR/in" &
destination=$!
# Its task must be registered, and the destination must listen.
until vmm tags uni 2>/dev/null | grep -q inside &&
	vmm status uni2 2>/dev/null | grep -q incoming; do
	sleep 0.1
done
vmm migrate uni "unix:$VMM_RUNTIME_DIR/in" --verify
wait "$destination"
