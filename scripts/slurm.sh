#!/usr/bin/env bash
# slurm.sh submits the job array of examples/slurm to Debian's Slurm, with this machine as the only
# node, waits for it and for the job that joins its parts, and shows the report. Slurm runs in a
# fresh chroot, made by debootstrap and removed afterwards, and in namespaces of its own for
# processes, host name and network. It needs root, and bin/vmm and bin/vmm-bench.
#
#   slurm.sh        an experiment with real moves, which needs /dev/kvm
#   slurm.sh sim    simulations alone: a sweep over a synthetic trace, and a map
#
# With OUT=DIR, the results are copied there. SWEEP and MAP are the flags of the simulations, and
# PARTS is how many parts each has.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() {
	echo "slurm: $1" >&2
	exit 1
}

kind=${1:-kvm}
[ "$kind" = kvm ] || [ "$kind" = sim ] || fail "$kind is unknown: use nothing, or sim"
[ "$(id -u)" = 0 ] || fail "debootstrap and chroot need root: run it with sudo"
command -v debootstrap >/dev/null || fail "no debootstrap: install it (apt-get install debootstrap)"
[ -x bin/vmm-bench ] || fail "no bin/vmm-bench: run make build"
. /etc/os-release
# The new Debian gets its packages from where this machine gets them.
mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' |
	grep -v -e security -e updates -e backports | head -n 1)
[ -n "$mirror" ] || fail "apt knows of no repository yet: run apt-get update"

root=$(mktemp -d)
chmod 755 "$root" # munge is not root
cleanup() {
	! mountpoint -q "$root/dev/kvm" || umount "$root/dev/kvm"
	# Nothing of this machine may be mounted below it when it is removed.
	! grep -q " $root/" /proc/mounts || fail "something is still mounted in $root"
	rm -rf "$root"
}
trap cleanup EXIT

debootstrap --variant=minbase --include=iproute2 \
	"$VERSION_CODENAME" "$root" "$mirror" >"$root/debootstrap.log" 2>&1 ||
	fail "debootstrap failed: $(tail -n 1 "$root/debootstrap.log")"
# Packages are set up, but no daemon is started yet.
printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
chmod +x "$root/usr/sbin/policy-rc.d"
cp /etc/resolv.conf "$root/etc"
cp -r /etc/apt/apt.conf.d "$root/etc/apt"
DEBIAN_FRONTEND=noninteractive chroot "$root" apt-get install -q -y --no-install-recommends \
	slurm-wlm munge >"$root/install.log" 2>&1 ||
	fail "apt-get failed: $(tail -n 1 "$root/install.log")"
if [ "$kind" = kvm ]; then
	touch "$root/dev/kvm"
	mount --bind /dev/kvm "$root/dev/kvm"
fi
cp bin/vmm bin/vmm-bench "$root/usr/local/bin"
mkdir -p "$root/job" "$root/var/spool/slurmd" "$root/var/spool/slurmctld" "$root/run/munge"
cp examples/slurm/*.sh "$root/job"

# One node, without control groups and accounting, which a chroot does not have.
cat >"$root/etc/slurm/slurm.conf" <<END
ClusterName=one
SlurmctldHost=node
AuthType=auth/munge
SlurmUser=root
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/linear
ReturnToService=2
StateSaveLocation=/var/spool/slurmctld
SlurmdSpoolDir=/var/spool/slurmd
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
NodeName=node CPUs=$(nproc) State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
END
echo CgroupPlugin=cgroup/v1 >"$root/etc/slurm/cgroup.conf" # the one that may be absent

cat >"$root/job/test" <<'END'
set -euo pipefail
mount -t proc proc /proc
mount -t sysfs sys /sys
# Slurm finds no name where there is only the loopback.
echo 10.0.0.1 node >/etc/hosts
hostname node
ip link set lo up
ip link add one type veth peer name other
ip address add 10.0.0.1/24 dev one
ip link set one up
chown -R munge: /run/munge
su -s /bin/sh munge -c munged
slurmctld
slurmd
cd /job
export RESULTS=/job/results
# submit PARTS: sends off a job array and the job that joins it, and waits for both.
submit() {
	array=$(sbatch --parsable --array=1-"$1" array.sh)
	joined=$(sbatch --parsable --dependency=afterany:"$array" --export=ALL,ARRAY="$array" join.sh)
	for _ in $(seq "$LIMIT"); do
		[ -n "$(squeue --noheader)" ] || break
		sleep 1
	done
	cat slurm-"$array"*.out slurm-"$joined".out
	squeue
	[ -e "$RESULTS/$array/joined" ] || { tail -n 20 /var/log/slurm*/*.log; exit 1; }
	if grep -r PARTIAL "$RESULTS/$array/joined" slurm-"$joined".out; then exit 1; fi
	echo "slurm: job $array ran in $1 parts, and job $joined joined them"
}
if [ "$KIND" = kvm ]; then
	export EXPERIMENT=policies FLAGS="--quick --policies downtime,xen --programs kv -n 2"
	submit 2
	[ -f "$RESULTS/$array/joined/report.html" ]
	grep -q '"of": 2' "$RESULTS/$array/joined/run.json"
	exit
fi
vmm bench trace-gen --out /job/trace $TRACE
export EXPERIMENT=sim FLAGS="/job/trace $SWEEP"
submit "$PARTS"
mv "$RESULTS/$array/joined" "$RESULTS/sweep"
[ -n "$MAP" ] || exit 0
export EXPERIMENT=map FLAGS="$MAP"
submit "$PARTS"
mv "$RESULTS/$array/joined" "$RESULTS/map"
END
quick="--moments 4 --max-defer 5s"
env -i TERM=dumb PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin KIND="$kind" \
	LIMIT="${LIMIT:-600}" PARTS="${PARTS:-2}" \
	TRACE="${TRACE:---memory 64M --working-set 16M --for 20s --jitter 20}" \
	SWEEP="${SWEEP:---bandwidth 1Gbit,10Gbit --memory 64M,1T $quick}" \
	MAP="${MAP---busy 1s,4s --rates 0.5,2 --downtime-limits 100ms $quick}" \
	unshare --mount --pid --fork --uts --net --kill-child chroot "$root" bash /job/test
if [ -n "${OUT:-}" ] && [ "$kind" = sim ]; then
	mkdir -p "$OUT"
	cp -r "$root/job/results/." "$OUT"
fi
