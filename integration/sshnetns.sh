#!/bin/sh
# sshnetns.sh DIR VMM SSHD: runs the experiment DIR/e.yaml with VMM, by ssh, between two network
# namespaces of this machine, and leaves the results in DIR/out and what ip counted in
# DIR/*/links.json.
#
#   control, where vmm bench is
#   |  198.51.100.0/30            |  198.51.100.4/30     ssh goes this way
#   a: its own sshd               b: its own sshd
#   |________ 192.0.2.0/30 _______|                      guests go this way, and nothing else
#
# Each line is a veth pair. The test starts this in namespaces of its own for mounts and processes,
# as their first process: when it ends, in whatever way, the kernel ends all that it has started,
# and with that the network namespaces and the mounts go.
set -eu
umask 022
dir=$1 vmm=$2 sshd=$3
PATH=$PATH:/usr/sbin:/sbin
mkdir "$dir/bin" "$dir/home" "$dir/tmp"

# instead FILE: only here, standard input takes the place of a file of the machine.
instead() {
	cat >"$dir/${1##*/}"
	mount --bind "$dir/${1##*/}" "$1"
}

# sshd wants a user and a folder of its own, and looks root up: the machine's root may be locked,
# and has a home with files for ssh and for shells. ip keeps the names of namespaces below /run.
mount -t tmpfs -o mode=755 tmpfs /run
mkdir /run/sshd
instead /etc/passwd <<END
root:x:0:0:root:$dir/home:/bin/sh
sshd:x:100:65534:sshd:/run/sshd:/bin/false
END
echo 'root:*:::::::' | instead /etc/shadow
instead /etc/hosts <<END
192.0.2.1 a
192.0.2.2 b
END

# join NETNS PEER ADDRESS ADDRESS: a veth pair between two namespaces. An end is named for what it
# leads to.
join() {
	ip -n "$1" link add name "to-$2" type veth peer name "to-$1" netns "$2"
	ip -n "$1" address add "$3/30" dev "to-$2"
	ip -n "$2" address add "$4/30" dev "to-$1"
	ip -n "$1" link set dev "to-$2" up
	ip -n "$2" link set dev "to-$1" up
}

for netns in control a b; do
	ip netns add "$netns"
	ip -n "$netns" link set dev lo up
done
join a b 192.0.2.1 192.0.2.2
join control a 198.51.100.1 198.51.100.2
join control b 198.51.100.5 198.51.100.6

# The user's ssh. The bench takes the one that comes first in $PATH.
ssh-keygen -q -t ed25519 -N '' -f "$dir/user_key"
cat >"$dir/ssh_config" <<END
User root
IdentityFile "$dir/user_key"
IdentitiesOnly yes
IdentityAgent none
UserKnownHostsFile "$dir/known_hosts"
GlobalKnownHostsFile /dev/null
StrictHostKeyChecking yes
UpdateHostKeys no
BatchMode yes
ConnectTimeout 5
LogLevel ERROR
END
cat >"$dir/bin/ssh" <<END
#!/bin/sh
exec $(command -v ssh) -F "$dir/ssh_config" "\$@"
END
chmod 755 "$dir/bin/ssh"

# serve HOST ADDRESS PORT: an sshd in a namespace, which the user's ssh knows by the host's name.
serve() {
	mkdir -p "$dir/$1/tmp"
	ssh-keygen -q -t ed25519 -N '' -f "$dir/$1/host_key"
	cp "$dir/user_key.pub" "$dir/$1/authorized_keys"
	cat >"$dir/$1/sshd_config" <<END
ListenAddress $2:$3
HostKey $dir/$1/host_key
AuthorizedKeysFile $dir/$1/authorized_keys
PidFile none
PermitRootLogin yes
PasswordAuthentication no
KbdInteractiveAuthentication no
StrictModes no
UsePAM no
SetEnv TMPDIR=$dir/$1/tmp
END
	cat >>"$dir/ssh_config" <<END
Host $1
	HostName $2
	Port $3
END
	echo "[$2]:$3 $(cut -d ' ' -f 1,2 "$dir/$1/host_key.pub")" >>"$dir/known_hosts"
	nsenter --net="/run/netns/$1" "$sshd" -D -f "$dir/$1/sshd_config" -E "$dir/$1/log" &
}

serve a 198.51.100.2 2201
serve b 198.51.100.6 2202
export PATH="$dir/bin:$PATH" TMPDIR="$dir/tmp"

# from_control COMMAND...: runs a command in the namespace control.
from_control() {
	nsenter --net=/run/netns/control "$@"
}

# fail TEXT: says what went wrong, with the logs of both sshds, and ends all of this.
fail() {
	for host in a b; do
		echo "--- sshd of $host"
		cat "$dir/$host/log" || : # there is none if it did not even start
	done >&2
	echo "sshnetns: $1" >&2
	exit 1
}

# await HOST: waits until it lets us in.
await() {
	for _ in $(seq 300); do
		if from_control ssh -n "$1" true 2>"$dir/$1/refusal"; then
			return
		fi
		sleep 0.1
	done
	fail "no login at $1: $(cat "$dir/$1/refusal")"
}

await a
await b
from_control "$vmm" bench custom "$dir/e.yaml" --seed 1 --out "$dir/out" \
	--source ssh:a --destination ssh:b || fail "vmm bench failed"
for host in a b; do
	ip -n "$host" -s -j link show >"$dir/$host/links.json"
done
