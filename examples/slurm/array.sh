#!/bin/sh
# A job array: each task runs one part of an experiment on a machine of its own. Submit it, and the
# job that joins the parts once all have ended:
#
#   array=$(sbatch --parsable array.sh)
#   sbatch --dependency=afterany:"$array" --export=ALL,ARRAY="$array" join.sh
#
# EXPERIMENT is one that vmm bench list has, or the file of one of your own (.yaml). EXPERIMENT=sim
# runs vmm bench sim, with the traces among FLAGS, and EXPERIMENT=map vmm bench map: they need no
# /dev/kvm on the nodes.
#
# vmm and vmm-bench must be on the PATH of every node, and RESULTS a folder that all of them see.
#SBATCH --job-name=vmm-bench
#SBATCH --array=1-6
#SBATCH --exclusive
#SBATCH --time=02:00:00
#SBATCH --signal=B:INT@300
set -eu
: "${RESULTS:=$PWD/results}"
: "${EXPERIMENT:=tagging}" "${FLAGS:=}" # FLAGS are further ones of the command

out=$RESULTS/$SLURM_ARRAY_JOB_ID/$SLURM_ARRAY_TASK_ID
mkdir -p "$(dirname "$out")"
shard=$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT
case $EXPERIMENT in
sim | map)
	# A simulation writes its results once it is over. A task that was requeued begins again.
	[ ! -e "$out/simulation.json.gz" ] || exit 0
	rm -rf "$out"
	exec vmm bench "$EXPERIMENT" $FLAGS --out "$out" --shard "$shard"
	;;
esac
resume=
# A task that was requeued goes on where it was.
[ ! -e "$out/run.json" ] || resume=--resume
# exec: the signal before the time limit reaches the run, which ends in order and keeps its results.
case $EXPERIMENT in
*.yaml | *.yml) exec vmm bench custom "$EXPERIMENT" $FLAGS --out "$out" $resume --shard "$shard" ;;
esac
exec vmm bench run "$EXPERIMENT" $FLAGS --out "$out" $resume --shard "$shard"
