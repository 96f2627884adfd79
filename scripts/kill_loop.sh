#!/usr/bin/env bash
# Interrupts `ropewalk train` at random moments, inside a save too, and goes on with it, until that has happened KILLS
# times: by kill -9, Ctrl-C, SIGTERM, a disk that is full when a checkpoint is written, and a validation text that is
# not there. Runs of every method take turns. A run that reaches its last step is compared with one that was never
# stopped, and the next begins. Checks:
#   - every start goes on, and in the end weights, config, both moments and every logged loss are the same bits;
#   - kill -9 loses no more than the steps since the last checkpoint; SIGINT and SIGTERM lose none and exit 130 and 143;
#   - a start that fails changes no file;
#   - the newest checkpoint never gets older, and the finished folder holds no file under a temporary name.
#
# Usage: kill_loop.sh [--kills N] [--ropewalk PROGRAM] [--steps N] [--save-every N] [--seed N] [--device cpu|cuda]
# (default: 200 interruptions, build/cpu/bin/ropewalk, runs of 40 steps, a checkpoint every step)
set -euo pipefail
kills=200 ropewalk=$(dirname "$0")/../build/cpu/bin/ropewalk steps=40 save_every=1 seed=1 device=cpu
while [ $# -gt 0 ]; do
  case $1 in
    --kills) kills=$2 ;;
    --ropewalk) ropewalk=$2 ;;
    --steps) steps=$2 ;;
    --save-every) save_every=$2 ;;
    --seed) seed=$2 ;;
    --device) device=$2 ;;
    *) sed -n '2,14s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
  esac
  shift 2
done
work=$(mktemp -d "${TMPDIR:-/tmp}/ropewalk-kill-XXXXXX")
trap 'rm -rf "$work"' EXIT
export OMP_NUM_THREADS=1
RANDOM=$seed

die() { echo "kill_loop: $*" >&2; tail -n 3 "$work/log" >&2 || true; exit 1; }
printf '%s\n' {1..400} | sed 's/.*/Line & of the little story./' >"$work/text.txt"
extend="--from $work/base --batch 2"
methods=(
  "--hidden 32 --layers 2 --heads 2 --batch 2 --window 32"
  "$extend --method full --target 64"
  "$extend --method full --scaling ntk --target 64"
  "$extend --method pi --target 64"
  "$extend --method pose --target 128"
  "$extend --method pose --scaling yarn --target 128 --chunks 3"
  "$extend --method pose --pose-variant cream --target 128"
  "$extend --method randpos --target 128"
  "$extend --method e2 --max-factor 4"
  "$extend --method clex --max-factor 4 --accumulate 2"
)
# train METHOD OUT [OPTION...]
train() {
  local method=$1; shift
  # shellcheck disable=SC2086  # a list of options
  exec "$ropewalk" --quiet --device "$device" train --data "$work/text.txt" ${methods[$method]} --steps "$steps" --out "$@"
}
# "step loss" of every line of metrics.jsonl
losses() { sed -nE 's/.*"loss":([^,}]*).*"step":([0-9]+).*/\2 \1/p' "$1/metrics.jsonl"; }
newest() { { ls "$1" 2>/dev/null || true; } | sed -n 's/^checkpoint-0*\([0-9]\)/\1/p' | sort -n | tail -n 1; }
sums() { find "$1" -type f -exec cksum {} + 2>/dev/null | sort || true; }
now() { date +%s%N; }

(train 0 "$work/base" --save-every 0) >"$work/log" 2>&1 || die "the base failed"
whole_run() {  # of a method, once
  local whole=$work/whole$1
  if [ -e "$whole.losses" ]; then return; fi
  (train "$1" "$whole" --save-every "$steps") >"$work/log" 2>&1 || die "the uninterrupted run of '${methods[$1]}' failed"
  losses "$whole" >"$whole.losses"
  [ "$(wc -l <"$whole.losses")" = "$steps" ] || die "the uninterrupted run logged $(wc -l <"$whole.losses") of $steps losses"
}

# How long a start takes (a GPU's is seconds), and a run with its checkpoints: the moments are drawn from both, from
# shortly before the first step on.
milliseconds() {  # of a run of the base: its steps, and between saves
  local begin; begin=$(now)
  (steps=$1; train 0 "$work/timing" --save-every "$2") >"$work/log" 2>&1 || die "the timing run failed"
  rm -rf "$work/timing"
  echo $((($(now) - begin) / 1000000))
}
whole_ms=$(milliseconds "$steps" "$save_every")
start_ms=$(milliseconds 1 0)
if [ "$start_ms" -gt "$whole_ms" ]; then start_ms=$whole_ms; fi
earliest_ms=$((start_ms > 60 ? start_ms - 60 : 0))
span_ms=$((start_ms - earliest_ms + (whole_ms - start_ms) * 12 / steps + 60))   # about a dozen steps

compare() {  # the finished run with the uninterrupted one of its method
  local whole=$work/whole$method file last; last=$(printf 'checkpoint-%06d' "$steps")
  losses "$run" | cmp - "$whole.losses" || die "run $runs ('${methods[$method]}'): the losses differ"
  for file in model.safetensors config.json "$last/model.safetensors" "$last/optimizer.safetensors"; do
    cmp "$run/$file" "$whole/$file" || die "run $runs ('${methods[$method]}'): $file differs"
  done
  [ -z "$(find "$run" -name '*.tmp*')" ] || die "run $runs left $(find "$run" -name '*.tmp*')"
}

done_kills=0 in_save=0 runs=0 furthest=0 early=0 method=0
declare -A by=([KILL]=0 [INT]=0 [TERM]=0 [disk]=0 [validation]=0)
kinds=(KILL INT TERM KILL INT TERM disk validation)
run=$work/run
whole_run 0
while [ "$done_kills" -lt "$kills" ] || [ -e "$run" ]; do
  before=$(newest "$run")
  kind=none
  if [ "$done_kills" -lt "$kills" ]; then kind=${kinds[$((RANDOM % ${#kinds[@]}))]}; fi
  status=0
  case $kind in
    validation)
      was=$(sums "$run")
      (train "$method" "$run" --save-every "$save_every" --resume --validation "$work/nowhere") >"$work/log" 2>&1 || status=$?
      [ "$status" = 2 ] || die "a validation text that is not there gave code $status"
      [ "$was" = "$(sums "$run")" ] || die "a start that failed has changed files"
      by[validation]=$((${by[validation]} + 1)) done_kills=$((done_kills + 1))
      continue ;;
    disk)  # no file may grow beyond 16 KiB: a checkpoint fails half way
      (trap '' XFSZ; ulimit -f 16; train "$method" "$run" --save-every "$save_every" --resume) >"$work/log" 2>&1 || status=$? ;;
    none)
      (train "$method" "$run" --save-every "$save_every" --resume) >"$work/log" 2>&1 || status=$? ;;
    *)
      train "$method" "$run" --save-every "$save_every" --resume >"$work/log" 2>&1 &
      pid=$!
      delay=$((RANDOM * 32768 + RANDOM)); delay=$((earliest_ms * 1000 + delay % (span_ms * 1000)))
      sleep "$(printf '%d.%06d' $((delay / 1000000)) $((delay % 1000000)))"
      kill -"$kind" "$pid" 2>/dev/null || true
      { wait "$pid"; } 2>/dev/null || status=$? ;;
  esac
  after=$(newest "$run")
  [ "${after:-0}" -ge "${before:-0}" ] || die "after $kind the newest checkpoint is ${after:-none}, it was $before"
  if [ "$status" != 0 ]; then
    case $kind:$status in
      KILL:137 | INT:130 | TERM:143 | disk:2) ;;
      *) die "a start of '${methods[$method]}' after $done_kills interruptions ended with code $status ($kind)" ;;
    esac
    by[$kind]=$((${by[$kind]} + 1)) done_kills=$((done_kills + 1))
    if compgen -G "$run/.tmp-checkpoint-*" >/dev/null; then in_save=$((in_save + 1)); fi
    [ -n "$after" ] || early=$((early + 1))
    logged=$([ -e "$run/metrics.jsonl" ] && losses "$run" | tail -n 1 | cut -d' ' -f1 || true)
    ahead=$((${logged:--1} + 1 - ${after:-0}))
    [ "$ahead" -le "$save_every" ] || die "$kind lost $ahead steps: logged $logged, newest checkpoint ${after:-none}"
    if [ "$ahead" -gt "$furthest" ]; then furthest=$ahead; fi
    continue
  fi
  runs=$((runs + 1))
  compare
  rm -rf "$run"
  method=$(((method + 1) % ${#methods[@]}))
  if [ "$done_kills" -lt "$kills" ]; then whole_run "$method"; fi
done
echo "interrupted $done_kills times (KILL ${by[KILL]}, INT ${by[INT]}, TERM ${by[TERM]}, full disk ${by[disk]}," \
  "no validation text ${by[validation]}; $in_save inside a save, $early before the first checkpoint) in $runs runs of" \
  "$steps steps: every run ended with the uninterrupted one's bits; at most $furthest of its logged steps had to be run again"
