#!/usr/bin/env bash
# Kills `ropewalk train` (kill -9) at random moments, inside a save too, and resumes it, until it has been killed KILLS
# times. A run that reaches its last step is compared with one that was never stopped, and the next run begins. Checks:
#   - every start resumes, and in the end all parameters, both moments and every logged loss are the same bits;
#   - no kill loses more than the steps since the last checkpoint: what was logged is at most SAVE_EVERY steps ahead of
#     the newest whole checkpoint, and the newest checkpoint never gets older;
#   - the finished folder holds no file under a temporary name.
#
# Usage: kill_loop.sh [--kills N] [--ropewalk PROGRAM] [--steps N] [--save-every N] [--seed N] [--device cpu|cuda]
# (default: 200 kills, build/cpu/bin/ropewalk, runs of 60 steps, a checkpoint every step)
set -euo pipefail
kills=200 ropewalk=$(dirname "$0")/../build/cpu/bin/ropewalk steps=60 save_every=1 seed=1 device=cpu
while [ $# -gt 0 ]; do
  case $1 in
    --kills) kills=$2 ;;
    --ropewalk) ropewalk=$2 ;;
    --steps) steps=$2 ;;
    --save-every) save_every=$2 ;;
    --seed) seed=$2 ;;
    --device) device=$2 ;;
    *) sed -n '2,11s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
  esac
  shift 2
done
work=$(mktemp -d "${TMPDIR:-/tmp}/ropewalk-kill-XXXXXX")
trap 'rm -rf "$work"' EXIT
export OMP_NUM_THREADS=1
RANDOM=$seed

die() { echo "kill_loop: $*" >&2; tail -n 3 "$work/log" >&2 || true; exit 1; }
printf '%s\n' {1..400} | sed 's/.*/Line & of the little story./' >"$work/text.txt"
train() {
  exec "$ropewalk" --quiet --device "$device" train --data "$work/text.txt" --hidden 32 --layers 2 --heads 2 --batch 2 --window 32 \
    --steps "$steps" --out "$@"
}
# "step loss" of every line of metrics.jsonl
losses() { sed -nE 's/.*"loss":([^,}]*).*"step":([0-9]+).*/\2 \1/p' "$1/metrics.jsonl"; }
newest() { { ls "$1" 2>/dev/null || true; } | sed -n 's/^checkpoint-0*\([0-9]\)/\1/p' | sort -n | tail -n 1; }
now() { date +%s%N; }

(train "$work/whole" --save-every "$steps") >"$work/log" 2>&1 || die "the uninterrupted run failed"
losses "$work/whole" >"$work/whole.losses"
[ "$(wc -l <"$work/whole.losses")" = "$steps" ] || die "the uninterrupted run logged $(wc -l <"$work/whole.losses") of $steps losses"

# How long a start takes (a GPU's is seconds), and a step with its checkpoint: the moments are drawn from both, from
# shortly before the first step on.
milliseconds() {  # of a run: its steps, and between saves
  local begin; begin=$(now)
  (steps=$1; train "$work/timing" --save-every "$2") >"$work/log" 2>&1 || die "the timing run failed"
  rm -rf "$work/timing"
  echo $((($(now) - begin) / 1000000))
}
whole_ms=$(milliseconds "$steps" "$save_every")
start_ms=$(milliseconds 1 0)
if [ "$start_ms" -gt "$whole_ms" ]; then start_ms=$whole_ms; fi
earliest_ms=$((start_ms > 60 ? start_ms - 60 : 0))
span_ms=$((start_ms - earliest_ms + (whole_ms - start_ms) * 12 / steps + 60))   # about a dozen steps

killed=0 in_save=0 runs=0 furthest=0 early=0
run=$work/run
while [ "$killed" -lt "$kills" ] || [ -e "$run" ]; do
  before=$(newest "$run")
  train "$run" --save-every "$save_every" --resume >"$work/log" 2>&1 &
  pid=$!
  if [ "$killed" -lt "$kills" ]; then
    delay=$((RANDOM * 32768 + RANDOM)); delay=$((earliest_ms * 1000 + delay % (span_ms * 1000)))
    sleep "$(printf '%d.%06d' $((delay / 1000000)) $((delay % 1000000)))"
    kill -9 "$pid" 2>/dev/null || true
  fi
  status=0; { wait "$pid"; } 2>/dev/null || status=$?
  if [ "$status" = 137 ]; then
    killed=$((killed + 1))
    if compgen -G "$run/.tmp-checkpoint-*" >/dev/null; then in_save=$((in_save + 1)); fi
    after=$(newest "$run")
    [ "${after:-0}" -ge "${before:-0}" ] || die "after kill $killed the newest checkpoint is ${after:-none}, it was $before"
    [ -n "$after" ] || early=$((early + 1))
    logged=$([ -e "$run/metrics.jsonl" ] && losses "$run" | tail -n 1 | cut -d' ' -f1 || true)
    ahead=$((${logged:--1} + 1 - ${after:-0}))
    [ "$ahead" -le "$save_every" ] || die "kill $killed lost $ahead steps: logged $logged, newest checkpoint ${after:-none}"
    if [ "$ahead" -gt "$furthest" ]; then furthest=$ahead; fi
    continue
  fi
  [ "$status" = 0 ] || die "start after kill $killed failed with code $status"
  runs=$((runs + 1))
  losses "$run" | cmp - "$work/whole.losses" || die "run $runs: the losses differ"
  for file in model.safetensors config.json; do cmp "$run/$file" "$work/whole/$file" || die "run $runs: $file differs"; done
  last=$(printf 'checkpoint-%06d' "$steps")
  for file in model.safetensors optimizer.safetensors; do
    cmp "$run/$last/$file" "$work/whole/$last/$file" || die "run $runs: $last/$file differs"
  done
  [ -z "$(find "$run" -name '*.tmp*')" ] || die "run $runs left $(find "$run" -name '*.tmp*')"
  rm -rf "$run"
done
echo "killed $killed times ($in_save inside a save, $early before the first checkpoint) in $runs runs of $steps steps:" \
  "every run ended with the uninterrupted one's bits; at most $furthest of its logged steps had to be run again"
