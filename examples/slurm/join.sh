#!/bin/sh
# Joins the parts of array.sh. A part that failed is left out, and the report says PARTIAL.
#SBATCH --job-name=vmm-bench-join
#SBATCH --time=00:30:00
set -eu
: "${RESULTS:=$PWD/results}"
: "${ARRAY:?say which array to join: ARRAY=its job ID}"

exec vmm bench report "$RESULTS/$ARRAY"/[0-9]* --out "$RESULTS/$ARRAY/joined"
