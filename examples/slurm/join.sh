#!/bin/sh
# Joins the parts of array.sh. A part that failed before it had a result is left out, and the report
# says PARTIAL.
#SBATCH --job-name=vmm-bench-join
#SBATCH --time=00:30:00
set -eu
: "${RESULTS:=$PWD/results}"
: "${ARRAY:?say which array to join: ARRAY=its job ID}"

set --
for part in "$RESULTS/$ARRAY"/[0-9]*; do
	if [ -e "$part/run.json" ] || [ -e "$part/simulation.json.gz" ]; then
		set -- "$@" "$part"
	else
		echo "left out, because it has no results: $part" >&2
	fi
done
exec vmm bench report "$@" --out "$RESULTS/$ARRAY/joined"
