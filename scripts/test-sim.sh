#!/usr/bin/env bash
# test-sim.sh compares the simulator with real moves on this host and fails where it misses its
# target (docs/simulator.md). The headlines and the table come first, then the entry for
# bench/sim/validated.json. It needs bin/vmm, bin/vmm-bench and /dev/kvm, takes an hour and a half,
# and wants a host that does nothing else.
#
# SIM_OUT is the folder for the results, a new one by default. A folder with a run goes on with it,
# and its noisy trials are run again.
set -euo pipefail
cd "$(dirname "$0")/.."

out=${SIM_OUT:-$(mktemp -d)/simulated}
resume=()
if [ -e "$out/run.json" ]; then
	resume=(--resume --repeat-noisy)
fi
bin/vmm bench run simulated --out "$out" "${resume[@]}"
echo "results: $out (SIM_OUT=$out make test-sim goes on with them)" >&2
bin/vmm bench report --format validation "$out"
