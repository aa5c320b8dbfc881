#!/bin/bash
# Boots guest.elf under QEMU in many configurations and checks how each ends. It needs
# qemu-system-x86_64, and uses KVM or what QEMU_ACCEL names (tcg works anywhere, slowly).
set -euo pipefail
cd "$(dirname "$0")"

accel=${QEMU_ACCEL:-kvm}
microvm=microvm,pic=off,pit=off,rtc=off
case $accel in
kvm) cpu=host,arch-capabilities=off ;;
*) cpu=max ;;
esac
failures=0
log=$(mktemp) disk=$(mktemp)
trap 'rm -f "$log" "$disk"' EXIT

# Further arguments for QEMU.
devices=()

# boot MACHINE CPUS MIB STATUS PATTERN CMDLINE: the guest must end with the status, and must have
# printed a line that matches the extended regular expression. isa-debug-exit turns the guest's
# status b into 2b+1.
boot() {
	local machine=$1 cpus=$2 mib=$3 status=$4 pattern=$5 cmdline=$6 got=0
	timeout 120 qemu-system-x86_64 -M "$machine" -accel "$accel" -cpu "$cpu" \
		-m "$mib" -smp "$cpus" -kernel guest.elf -append "$cmdline" \
		-nodefaults -no-user-config -no-reboot -display none \
		-serial stdio -device isa-debug-exit,iobase=0xf4,iosize=1 \
		"${devices[@]}" </dev/null >"$log" 2>&1 || got=$?
	if [ "$got" -eq $((2 * status + 1)) ] && grep -Eq "$pattern" "$log"; then
		echo "ok    ${machine%%,*} cpus=$cpus mib=$mib $cmdline"
		return
	fi
	echo "FAIL  ${machine%%,*} cpus=$cpus mib=$mib $cmdline"
	echo "      wanted status $((2 * status + 1)) and a line like $pattern; got status $got and:"
	sed 's/^/      /' "$log"
	failures=$((failures + 1))
}

short="workload=phased ws=4M hot=64K busy=300ms cool=300ms secs=1"
boot $microvm 1 128 0 '^done task=0 .*ticks=[1-9]' "workload=idle secs=1"
boot $microvm 1 128 0 '^done task=0' "workload=idle touch=64M fill=random verify=1 secs=1"
boot $microvm 1 128 0 '^done task=0' "workload=idle touch=64M fill=zero verify=1 spin=1 secs=1"
for cpus in 1 2 4 8; do
	boot $microvm $cpus 128 0 "^guestkernel: vcpus=$cpus .*tasks=$cpus" \
		"$short cpus=$cpus fill=random"
done
for fill in zero pattern random; do
	boot $microvm 2 128 0 '^done task=1 .*passes=[1-9]' "$short cpus=2 fill=$fill step=in"
done
boot $microvm 1 128 0 '^done task=0 ms=[0-9]+ passes=1 writes=1024 ' "$short busy=0 hot=0"
boot $microvm 2 128 0 'tasks=1$' "$short cpus=2 tasks=1"
boot $microvm 1 16 0 '^done task=0' "$short ws=8M"
boot $microvm 2 6144 0 'ram_mib=6144 heap_mib=61' "$short cpus=2"
boot pc 2 6144 0 'ram_mib=6144 heap_mib=61' "$short cpus=2"
boot $microvm 1 6144 0 '^done task=0 .*passes=[2-9]' \
	"workload=phased ws=3500M fill=zero cool=0 secs=10"

for program in matmul sort kv; do
	boot $microvm 2 128 0 "^done task=1 " \
		"workload=$program cpus=2 ws=8M busy=200ms cool=200ms secs=1"
	# Filling takes longer than the run. A run that is cut short must not look like damage.
	boot $microvm 1 128 0 '^done task=0' "workload=$program ws=64M cool=0 secs=10ms"
	boot $microvm 1 128 0 '^done task=0' "workload=$program ws=96K hot=0 busy=10ms cool=10ms secs=1"
	boot $microvm 1 128 1 '^CORRUPT task=0 ' \
		"workload=$program ws=8M busy=200ms cool=200ms inject=1"
	boot $microvm 1 128 3 'needs 200 MiB' "workload=$program ws=200M"
done
boot $microvm 1 128 0 '^hb task=0 .*products=[1-9]' "workload=matmul ws=1M secs=2"
boot $microvm 1 128 0 '^hb task=0 .*sorts=[1-9].* verified=[1-9]' "workload=sort ws=1M secs=2"
latencies='p50_us=[0-9.]+ p99_us=[0-9.]+ p999_us=[0-9.]+ max_us=[0-9.]+'
boot $microvm 1 128 0 "^hb task=0 .*requests=[1-9][0-9]{2,3} $latencies updates=" \
	"workload=kv ws=4M rate=1000 secs=3"
boot $microvm 1 128 3 'needs ws=96K' "workload=matmul ws=64K"

truncate -s 64M "$disk"
devices=(-drive "if=none,id=disk,file=$disk,format=raw" -device virtio-blk-pci,drive=disk)
speed='requests=[1-9][0-9]* kib_s=[1-9][0-9]* p50_us=[0-9.]+ p99_us=[0-9.]+ max_us=[0-9.]+'
boot pc 1 128 0 "^hb task=0 .*reads=[1-9][0-9]* $speed" "workload=disk ws=4M secs=2"
boot pc 1 128 0 '^done task=0 ' "workload=disk ws=4M block=512 depth=64 keep=1000 secs=1"
boot pc 1 128 0 '^done task=0 ' "workload=disk block=1M depth=16 secs=1"
boot pc 1 128 1 '^CORRUPT task=0 .* kind=body' "workload=disk ws=4M inject=1"
boot pc 1 128 1 '^CORRUPT task=0 .* kind=lost-write' "workload=disk ws=4M inject=stale"
boot pc 1 128 1 '^CORRUPT task=0 .* kind=torn' "workload=disk ws=4M inject=torn"
boot pc 2 128 3 'disk 1 of virtio on PCI is not there' "workload=disk ws=4M tasks=2"
devices=(-drive "if=none,id=disk,file=$disk,format=raw"
	-device virtio-blk-pci,drive=disk,disable-legacy=on,event_idx=off)
boot pc 1 128 0 '^done task=0 ' "workload=disk ws=4M secs=1"
devices=(-netdev user,id=net -device virtio-net-pci,netdev=net)
boot pc 1 128 0 '^hb task=0 .*writes=[1-9][0-9]* .*lost=[1-9]' "workload=net secs=3"
devices=()
boot $microvm 1 128 3 'there is no virtio card on PCI' "workload=net"
boot $microvm 1 128 3 'disk 0 of virtio on PCI is not there' "workload=disk"

for tag in cool fast port busy random; do
	boot $microvm 1 128 0 '^tags: this machine has no tag port' "$short tag=$tag coop=1 seed=7"
done

boot $microvm 1 128 1 '^CORRUPT task=0 .* kind=body' "$short secs=0 fill=random inject=1"
boot $microvm 1 128 1 '^CORRUPT task=0 .* kind=lost-write' "$short secs=0 inject=stale"
boot $microvm 1 128 1 '^CORRUPT task=0 .* kind=torn' "$short secs=0 inject=torn"
boot $microvm 1 128 1 '^CORRUPT task=0 .* kind=zero' "workload=idle touch=1M inject=1 verify=1"
boot $microvm 1 128 2 '^FAULT cpu=0 cpl=3 vector=14 .* cr2=0x100000' "workload=fault"
boot $microvm 2 128 2 '^FAULT cpu=[01] cpl=3 vector=14' "workload=fault tasks=2 cpus=2"

boot $microvm 1 128 3 'unknown option "nonsense"' "nonsense"
boot $microvm 1 128 3 'unknown option "wss=1M"' "wss=1M"
boot $microvm 1 128 3 'cannot use "workload=chess"' "workload=chess"
boot $microvm 1 128 3 'cannot use "ws=1X"' "ws=1X"
boot $microvm 1 128 3 'cannot use "ws=99999999999999999999G"' "ws=99999999999999999999G"
boot $microvm 1 128 3 'cannot use "busy=fast"' "busy=fast"
boot $microvm 1 128 3 'needs 512 MiB' "workload=phased ws=512M"
boot $microvm 1 128 3 'needs 128 MiB' "workload=idle touch=128M"
boot $microvm 2 256 0 '^done task=1 ' \
	"workload=heap cpus=2 ws=64M busy=200ms cool=200ms secs=1"
boot $microvm 1 128 3 'too few pages' "workload=heap ws=64K"
boot $microvm 1 128 3 'needs a tag port' "workload=tagbench"
boot $microvm 1 128 3 'asks for 2 tasks' "workload=phased tasks=2"

if [ $failures -ne 0 ]; then
	echo "$failures boots failed" >&2
	exit 1
fi
