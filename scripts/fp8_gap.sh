#!/usr/bin/env bash
# What 8-bit products cost in quality: the papers' base recipe for 1000 steps in bf16 and with --matmul fp8-all, then PoSE with YaRN to
# eight windows, each in three seeds. The same batches in both. Prints a row for each run; needs a GPU with 8-bit products.
#
#   bash scripts/fetch_books.sh
#   bash scripts/fp8_gap.sh [--ropewalk build/cuda/bin/ropewalk] [--books data/books] [--out out/fp8] [--seeds "1 2 3"]
set -euo pipefail
cd "$(dirname "$0")/.."
ropewalk=build/cuda/bin/ropewalk books=data/books out=out/fp8 seeds="1 2 3"
while [ $# -gt 0 ]; do
  case $1 in
    --ropewalk) ropewalk=$2 ;;
    --books) books=$2 ;;
    --out) out=$2 ;;
    --seeds) seeds=$2 ;;
    *) echo "fp8_gap.sh: unknown option $1" >&2; exit 2 ;;
  esac
  shift 2
done
mkdir -p "$out"
run() { "$ropewalk" --quiet "$@" >>"$out/log.txt" 2>&1 || { tail -n 5 "$out/log.txt" >&2; exit 1; }; }
[ -e "$out/tokenizer/tokenizer.json" ] || run tokenizer train --data "$books/train" --vocab 8192 --out "$out/tokenizer"
mix=(--retrieval-share 0.07 --retrieval-weight 5 --batch 64 --save-every 0 --save-minutes 0)
shape=(--hidden 512 --layers 8 --heads 8 --ffn 1408 --init-std 0.02 --window 512)
# mean FILE FIRST LAST: of the training losses of these steps
mean() { sed -nE 's/.*"loss":([^,}]*).*"step":([0-9]+).*/\2 \1/p' "$1" | awk -v a="$2" -v b="$3" '$1 >= a && $1 <= b { s += $2; n++ } END { printf "%.4f", s / n }'; }
# passkey MODEL: found share by length
passkey() {
  "$ropewalk" --quiet eval passkey --model "$1" --data "$books/test" --template short --length 512,1024,2048,4096 --depth 0 --trials 64 \
    --json "$1.passkey.json" >>"$out/log.txt" 2>&1
  python3 - "$1.passkey.json" <<'P'
import json, sys

def rows(value):
    if isinstance(value, dict):
        if "accuracy" in value and "length" in value: yield value
        value = list(value.values())
    if isinstance(value, list):
        for part in value: yield from rows(part)

print(" ".join(f"{r['length']}:{r['accuracy']:.3f}" for r in rows(json.load(open(sys.argv[1])))))
P
}
printf 'seed\tproducts\tstage\tloss of the last 100 steps\tvalidation loss\tpasskey\n'
for seed in $seeds; do
  for matmul in native fp8-all; do
    base=$out/base-$matmul-$seed pose=$out/pose-$matmul-$seed
    run train --data "$books/train" --tokenizer "$out/tokenizer" "${shape[@]}" "${mix[@]}" --steps 1000 --lr 1.5e-3 --warmup 200 --min-ratio 0.02 \
      --weight-decay 0.1 --validation "$books/val" --validate-every 1000 --validation-tokens 131072 --seed "$seed" --matmul "$matmul" --out "$base"
    printf '%s\t%s\tbase\t%s\t%s\t%s\n' "$seed" "$matmul" "$(mean "$base/metrics.jsonl" 901 1000)" "$(tail -n 1 "$base/validation.jsonl")" "$(passkey "$base")"
    run train --data "$books/train" --from "$base" "${mix[@]}" --method pose --scaling yarn --target 4096 --steps 1000 --lr 4e-4 --schedule linear \
      --warmup 20 --warmup-start 0.1 --min-ratio 0 --weight-decay 0 --seed "$seed" --matmul "$matmul" --out "$pose"
    printf '%s\t%s\tpose\t%s\t\t%s\n' "$seed" "$matmul" "$(mean "$pose/metrics.jsonl" 901 1000)" "$(passkey "$pose")"
  done
done
