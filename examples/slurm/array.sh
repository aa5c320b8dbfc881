#!/bin/sh
# A job array: each task runs one part of an experiment on a machine of its own. Submit it, and the
# job that joins the parts once all have ended:
#
#   array=$(sbatch --parsable array.sh)
#   sbatch --dependency=afterany:"$array" --export=ALL,ARRAY="$array" join.sh
#
# vmm and vmm-bench must be on the PATH of every node, and RESULTS a folder that all of them see.
#SBATCH --job-name=vmm-bench
#SBATCH --array=1-6
#SBATCH --exclusive
#SBATCH --time=02:00:00
#SBATCH --signal=B:INT@300
set -eu
: "${RESULTS:=$PWD/results}"
: "${EXPERIMENT:=tagging}" "${FLAGS:=}" # FLAGS are further ones of vmm bench run

out=$RESULTS/$SLURM_ARRAY_JOB_ID/$SLURM_ARRAY_TASK_ID
resume=
# A task that was requeued goes on where it was.
[ ! -e "$out/run.json" ] || resume=--resume
mkdir -p "$(dirname "$out")"
# exec: the signal before the time limit reaches the run, which ends in order and keeps its results.
exec vmm bench run "$EXPERIMENT" $FLAGS --out "$out" $resume \
	--shard "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT"
