#!/bin/bash
# The poses of an archive of videos, in 20 tasks of an array:
#   sbatch archive.sh VIDEOS RESULTS [options of sharpose-archive]
# Never run under Slurm yet. What ended early goes on where it ended: sbatch --array=3,7 archive.sh …
#SBATCH --job-name=sharpose-archive
#SBATCH --array=0-19
#SBATCH --cpus-per-task=4
#SBATCH --mem=4G
#SBATCH --time=04:00:00
#SBATCH --requeue
#SBATCH --signal=B:TERM@60
#SBATCH --output=sharpose-archive-%A-%a.log
set -euo pipefail

# Not $SLURM_ARRAY_TASK_COUNT: with --array=3,7 that is 2, and other videos would be theirs.
shards=20

videos=${1:?expected the folder of videos: sbatch archive.sh VIDEOS RESULTS}
results=${2:?expected the folder of results: sbatch archive.sh VIDEOS RESULTS}
shift 2

# A task's own processors, unless the options say otherwise; with --server, none of them run the model.
mine=(--workers 1 --threads "${SLURM_CPUS_PER_TASK:-1}")
for option in "$@"; do
    case ${option%%=*} in
        --workers | --threads | --server) mine=() ;;
    esac
done

# exec: the signal a minute before the time is up reaches sharpose-archive, which ends in order.
exec sharpose-archive "$videos" --json "$results/{source}.jsonl" \
    --shard "${SLURM_ARRAY_TASK_ID:?expected to be run by sbatch}/$shards" \
    ${mine[@]+"${mine[@]}"} --json-logs "$@"
