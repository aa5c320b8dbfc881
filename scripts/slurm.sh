#!/usr/bin/env bash
# slurm.sh submits the job array of examples/slurm to Debian's Slurm, with this machine as the only
# node, waits for it and for the job that joins its parts, and shows the report. Slurm runs in a
# fresh chroot, made by debootstrap and removed afterwards, and in namespaces of its own for
# processes, host name and network. It needs root, and bin/vmm and bin/vmm-bench.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() {
	echo "slurm: $1" >&2
	exit 1
}

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
touch "$root/dev/kvm"
mount --bind /dev/kvm "$root/dev/kvm"
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
export RESULTS=/job/results EXPERIMENT=policies
export FLAGS="--quick --policies downtime,xen --programs kv -n 2"
cd /job
array=$(sbatch --parsable --array=1-2 array.sh)
joined=$(sbatch --parsable --dependency=afterany:"$array" --export=ALL,ARRAY="$array" join.sh)
for _ in $(seq 600); do
	[ -n "$(squeue --noheader)" ] || break
	sleep 1
done
cat slurm-*.out
squeue
[ -f "$RESULTS/$array/joined/report.html" ] || { tail -n 20 /var/log/slurm*/*.log; exit 1; }
grep -q '"of": 2' "$RESULTS/$array/joined/run.json"
if grep PARTIAL "$RESULTS/$array/joined/report.txt"; then exit 1; fi
echo "slurm: job $array ran in two parts, and job $joined joined them"
END
env -i TERM=dumb PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
	unshare --mount --pid --fork --uts --net --kill-child chroot "$root" bash /job/test
