#!/bin/bash
@OPTIONS@

# A worker of a study: it joins, works, and leaves when the study is complete. The address of the database comes with
# the environment, AUTODISTILL_STORAGE. When time is nearly up the worker keeps a checkpoint, hands its task back, and
# the job queues again.
set -u
: "${AUTODISTILL_STORAGE:?set it to the address of the database before sbatch}"
export AUTODISTILL_CACHE=@CACHE@
cd @FOLDER@ || exit 2

leaving=0
worker=
leave() {
  leaving=1
  [ -z "$worker" ] || kill -USR1 "$worker" 2>/dev/null
}
trap leave USR1 TERM

@WORKER@ &
worker=$!
[ "$leaving" = 0 ] || leave
# A signal ends `wait` early, so it is asked until the worker is gone; then it gives the same answer again.
while kill -0 "$worker" 2>/dev/null; do
  wait "$worker"
done
wait "$worker"
ended=$?
if [ "$leaving" = 1 ] && [ "$ended" = 0 ]; then
  scontrol requeue "${SLURM_ARRAY_JOB_ID:?}_${SLURM_ARRAY_TASK_ID:?}"
fi
exit "$ended"
