#!/bin/bash
# Score the pairs of a run file in eight parts with SLURM, one GPU each, beside each other on any nodes:
#
#     scoreonce prepare configs/mine.toml                            # once, before
#     sbatch configs/slurm_score.sh configs/mine.toml
#     sbatch --array=3,5 configs/slurm_score.sh configs/mine.toml    # later: parts 3 and 5 again
#
# Every node needs `out`, `score.store`, the model and `scoreonce` under the same path, on a file system whose locks work
# between nodes. The last part to finish writes the pair tables. See docs/cache.md.

#SBATCH --job-name=score
#SBATCH --array=1-8
#SBATCH --requeue
#SBATCH --gpus=1
#SBATCH --cpus-per-task=8
#SBATCH --mem=64G
#SBATCH --time=12:00:00
#SBATCH --open-mode=append
#SBATCH --output=score-%A_%a.log

PARTS=8 # as in --array above; SLURM_ARRAY_TASK_COUNT would be 2 in the third command

scoreonce score "${1:?which run file?}" --part "$SLURM_ARRAY_TASK_ID/$PARTS"
code=$?

# --requeue starts a part again when its node fails or is preempted. A process that dies is for the script to requeue:
# up to five times, and not after unusable input (2), which would be refused again.
if ((code != 0 && code != 2 && ${SLURM_RESTART_COUNT:-0} < 5)); then
  scontrol requeue "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"
fi
exit "$code"
