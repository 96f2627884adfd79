#!/usr/bin/env bash
# Checks data-parallel training of two ranks on this machine against one process, with what is built already:
#   a  the gradients of one step (f32), as the largest difference over the largest gradient
#   b  the losses of some dozens of steps, f32 and (on GPUs) bf16
#   c  GPUs only: tokens per second of M at T 1024 on one GPU and on two, each with the same batch (weak scaling)
#   d  kill -9 of a rank in mid-run: how long until the other ends, what it says, whether the last checkpoint is whole,
#      resumes on two ranks and on one, and ends where a run without the kill ends
#   e  the same two ranks by mpirun, if there is one
#
# Usage: ddp_check.sh [--device cuda|cpu] [--ropewalk PROGRAM] [--parts abcde]
# (default: cuda, build/cuda/bin/ropewalk; with --device cpu build/cpu/bin/ropewalk and TCP instead of NCCL)
set -euo pipefail
device=cuda ropewalk= parts=abcde
while [ $# -gt 0 ]; do
  case $1 in
    --device) device=$2 ;;
    --ropewalk) ropewalk=$2 ;;
    --parts) parts=$2 ;;
    *) sed -n '2,12s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
  esac
  shift 2
done
ropewalk=${ropewalk:-$(dirname "$0")/../build/$device/bin/ropewalk}
work=$(mktemp -d "${TMPDIR:-/tmp}/ropewalk-ddp-XXXXXX")
pids=()
trap 'kill -9 "${pids[@]}" 2>/dev/null || true; rm -rf "$work"' EXIT
failed=0

# NCCL's library, where only a Python package has it.
if [ "$device" = cuda ] && [ -z "${ROPEWALK_NCCL_LIBRARY:-}" ] && ! ldconfig -p 2>/dev/null | grep -q 'libnccl\.so\.2' &&
  [ ! -e /usr/local/cuda/lib64/libnccl.so.2 ]; then
  found=$(python3 -c 'import nvidia.nccl as n; print(list(n.__path__)[0] + "/lib/libnccl.so.2")' 2>/dev/null || true)
  if [ -n "$found" ]; then export ROPEWALK_NCCL_LIBRARY=$found; fi
fi
export NCCL_NVLS_ENABLE=${NCCL_NVLS_ENABLE:-0}
if [ "$device" = cpu ]; then export OMP_NUM_THREADS=1; fi

port=$((20000 + RANDOM % 10000))
die() { echo "ddp_check: $*" >&2; tail -n 5 "$work"/log.* >&2 2>/dev/null || true; exit 1; }
bad() { echo "FAILED: $*"; failed=1; }
now_ms() { echo $(($(date +%s%N) / 1000000)); }
# start SIZE ARGUMENTS...: that many ranks in the background, their process numbers in pids, output in out.RANK, log.RANK
start() {
  local size=$1 rank; shift
  port=$((port + 1)) pids=()
  for ((rank = 0; rank < size; rank++)); do
    RANK=$rank WORLD_SIZE=$size LOCAL_RANK=$rank LOCAL_WORLD_SIZE=$size MASTER_ADDR=127.0.0.1 MASTER_PORT=$port \
      timeout 200 "$ropewalk" --quiet "$@" >"$work/out.$rank" 2>"$work/log.$rank" &
    pids+=($!)
  done
}
run() {
  local pid
  start "$@"
  for pid in "${pids[@]}"; do wait "$pid" || die "'$*' failed"; done
  pids=()
}
if [ "$device" = cpu ]; then
  model="--hidden 32 --layers 2 --heads 2 --window 32 --batch 4" curve=20 steps=400 every=20
else
  model="--hidden 256 --layers 4 --heads 4 --window 256 --batch 16" curve=40 steps=600 every=50
fi
train="--device $device train $model"
field() { sed -nE "s/.*\"$2\":([^,}]*).*/\1/p" "$1/metrics.jsonl"; }
# The largest relative difference of two columns.
difference() { paste "$1" "$2" | awk '{ d = $1 - $2; if (d < 0) d = -d; d /= ($2 < 0 ? -$2 : $2); if (d > w) w = d } END { printf "%.2e", w }'; }
above() { awk -v a="$1" -v b="$2" 'BEGIN { exit !(a + 0 > b + 0) }'; }

if [[ $parts == *a* ]]; then
  for n in 1 2; do run $n $train --dtype f32 --clip 0 --steps 1 --save-every 1 --out "$work/a$n"; done
  for n in 1 2; do field "$work/a$n" grad_norm >"$work/norm$n"; done
  echo "a  gradient norm, f32, 1 rank and 2: relative difference $(difference "$work/norm2" "$work/norm1")"
  if command -v python3 >/dev/null; then
    # AdamW's first moment after one step is 0.1 times the gradient.
    python3 - "$work/a1" "$work/a2" <<'PYTHON' || bad "the gradients differ"
import array, json, sys
def moments(folder):
    data = open(folder + "/checkpoint-000001/optimizer.safetensors", "rb").read()
    size = int.from_bytes(data[:8], "little")
    begin, end = json.loads(data[8:8 + size])["m"]["data_offsets"]
    values = array.array("f")
    values.frombytes(data[8 + size + begin:8 + size + end])
    return values
one, two = (moments(folder) for folder in sys.argv[1:])
largest = max(map(abs, one))
worst = max(abs(a - b) for a, b in zip(one, two))
norm = sum(a * a for a in one) ** 0.5
apart = sum((a - b) ** 2 for a, b in zip(one, two)) ** 0.5
print(f"a  gradients, f32, {len(one)} elements: largest difference / largest gradient {worst / largest:.2e},"
      f" norm of the difference / norm {apart / norm:.2e} (limit 1e-6)")
sys.exit(len(one) != len(two) or not worst / largest <= 1e-6)
PYTHON
  else
    echo "a  no python3: gradients compared by their norm only"
  fi
fi

if [[ $parts == *b* ]]; then
  for dtype in f32 bf16; do
    [ "$device $dtype" = "cpu bf16" ] && continue
    for n in 1 2; do
      run $n $train --dtype $dtype --steps $curve --out "$work/b$n"
      field "$work/b$n" loss >"$work/loss$n"
    done
    [ "$(wc -l <"$work/loss2")" = $curve ] || die "b: $(wc -l <"$work/loss2") of $curve losses"
    worst=$(difference "$work/loss2" "$work/loss1")
    echo "b  loss of $curve steps, $dtype: $(head -n 1 "$work/loss1") to $(tail -n 1 "$work/loss1") on 1 rank," \
      "$(tail -n 1 "$work/loss2") on 2; largest relative difference $worst"
    if above "$worst" $([ $dtype = f32 ] && echo 1e-4 || echo 1e-2); then bad "the losses differ"; fi
    rm -rf "$work"/b?
  done
fi

if [[ $parts == *c* ]] && [ "$device" = cuda ]; then
  best=(0 0 0)
  for repeat in 1 2; do
    for n in 1 2; do
      run $n bench cuda --only M --seconds 3
      line=$(grep '^M ' "$work/out.0") || die "c: no figure"
      echo "c  $n GPU: $line"
      rate=$(sed -E 's/.* ([0-9,]+) tok\/s.*/\1/; s/,//g' <<<"$line")
      if [ "$rate" -gt "${best[$n]}" ]; then best[$n]=$rate; fi
    done
  done
  echo "c  M, T 1024: ${best[1]} tok/s on one GPU, ${best[2]} on two: $(awk "BEGIN { printf \"%.3f\", ${best[2]} / ${best[1]} }")x (goal 1.85x; the better of two medians each)"
fi

if [[ $parts == *d* ]]; then
  run 2 $train --dtype f32 --steps $steps --save-every $every --keep 0 --out "$work/whole"
  for victim in 1 0; do
    survivor=$((1 - victim))
    rm -rf "$work/killed"
    start 2 $train --dtype f32 --steps $steps --save-every $every --out "$work/killed"
    begin=$(now_ms)
    until compgen -G "$work/killed/checkpoint-*" >/dev/null; do
      kill -0 "${pids[0]}" 2>/dev/null || die "d: rank 0 ended before its first checkpoint"
      [ $(($(now_ms) - begin)) -lt 100000 ] || die "d: no checkpoint in 100 s"
      sleep 0.02
    done
    # timeout(1) started the rank: its child is the one to kill.
    kill -9 $(cat /proc/${pids[$victim]}/task/${pids[$victim]}/children 2>/dev/null || pgrep -P ${pids[$victim]})
    begin=$(now_ms) code=0
    { wait "${pids[$survivor]}" || code=$?; } 2>/dev/null
    took=$(($(now_ms) - begin))
    { wait "${pids[$victim]}"; } 2>/dev/null || true
    pids=()
    message=$(tail -n 1 "$work/log.$survivor")
    echo "d  rank $victim killed: rank $survivor ended after $took ms with code $code: $message"
    [ "$code" = 1 ] || bad "code $code"
    [ "$took" -lt 30000 ] || bad "it took longer than 30 s"
    [[ $message =~ ^"ropewalk: rank $victim of 2 is gone (127.0.0.1:"[0-9]+") at step "[0-9]+"; last checkpoint: $work/killed/checkpoint-"[0-9]+$ ]] ||
      bad "not the message that was expected"
    [ -e "${message##*: }/trainer_state.json" ] || bad "the checkpoint that it names is not there"
    cp -r "$work/killed" "$work/killed1"
    run 2 $train --dtype f32 --steps $steps --save-every $every --out "$work/killed" --resume
    run 1 $train --dtype f32 --steps $steps --save-every $every --out "$work/killed1" --resume
    for r in whole killed killed1; do field "$work/$r" loss >"$work/$r.loss"; done
    same="are the same bits"
    if ! cmp -s "$work/killed/model.safetensors" "$work/whole/model.safetensors" || ! cmp -s "$work/killed.loss" "$work/whole.loss"; then
      same=differ
      bad "the resumed run's weights and losses are not those of the run without a kill"
    fi
    # One rank adds the same numbers in another order. The first steps show whether it goes on from the right state;
    # some hundred steps later two such runs have parted, on one GPU, too.
    early=$((10#${message##*checkpoint-} + 30))
    for r in whole killed1; do head -n $early "$work/$r.loss" >"$work/$r.early"; done
    one=$(difference "$work/killed1.early" "$work/whole.early")
    echo "d  resumed on 2 ranks: weights and losses $same as without the kill; on 1 rank the largest relative difference" \
      "of the first 30 losses is $one"
    if above "$one" 1e-3; then bad "the run resumed on one rank differs"; fi
    rm -rf "$work/killed1"
  done
fi

if [[ $parts == *e* ]]; then
  if command -v mpirun >/dev/null; then
    # The same run as plain variables give.
    run 2 $train --steps 5 --out "$work/e1"
    ROPEWALK_PORT=$((port + 1)) timeout 100 mpirun -n 2 --allow-run-as-root --oversubscribe "$ropewalk" --quiet $train --steps 5 \
      --out "$work/e2" >"$work/out.0" 2>"$work/log.0" || die "mpirun failed"
    for n in 1 2; do field "$work/e$n" loss >"$work/loss$n"; done
    echo "e  by mpirun: largest relative difference of a loss $(difference "$work/loss2" "$work/loss1")"
  else
    echo "e  there is no mpirun here"
  fi
fi
[ $failed = 0 ] && echo "ddp_check: all right"
exit $failed
