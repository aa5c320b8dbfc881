#!/usr/bin/env bash
# test-workloads.sh moves each guest of examples/workloads once, with the first level of each of
# its factors. Its heartbeats must say what was felt of the move. It needs what make build workloads
# makes, and /dev/kvm. Arguments choose workloads.
set -euo pipefail
cd "$(dirname "$0")/.."

out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
[ $# -gt 0 ] || set -- redis memcached sqlite build heap
for name in "$@"; do
	sed -e "s,\.\./\.\./bin,$PWD/bin," -e 's/^policies:.*/policies: [downtime]/' \
		-e 's/^rates:.*/rates: [1Gbit]/' -e '/^rtts:/d' -e 's/^repetitions:.*/repetitions: 1/' \
		"examples/workloads/$name.yaml" >"$out/$name.yaml"
	bin/vmm bench custom "$out/$name.yaml" --out "$out/$name"
	if grep -q '^\* void' "$out/$name/report.txt"; then
		echo "test-workloads: $name: the trial is void" >&2
		exit 1
	fi
	case $name in
	redis | memcached | sqlite) felt='"latency":{' ;;
	*) felt='"felt":{' ;;
	esac
	if ! grep -qF -- "$felt" "$out/$name/raw.jsonl"; then
		echo "test-workloads: $name: no heartbeat says what was felt of the move" >&2
		exit 1
	fi
done
