#!/usr/bin/env bash
# The main job on real books: a BPE of 4096, a small LLaMA with a window of 256, PoSE to 1024, perplexity by window.
#
#   bash scripts/books.sh DIR [OUT]      DIR: a folder of at least three .txt files; the last two (by name) are held out
#
# Called again it goes on where it was stopped; what is trained is not trained again. Needs the build of scripts/demo.sh. For 5 MB of text: 15.5 minutes of CPU time (see docs/results.md).
set -euo pipefail
# Waiting threads sleep instead of spinning: beside other programs that is up to five times faster, alone it costs little.
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}
root=$(cd "$(dirname "$0")/.." && pwd)
[ $# -ge 1 ] || { echo "usage: bash scripts/books.sh DIR [OUT]" >&2; exit 2; }
books=$1
out=${2:-$root/out/books}
ropewalk=${ROPEWALK:-$root/build/demo/bin/ropewalk}
mapfile -t files < <(find "$books" -name '*.txt' | sort)
[ ${#files[@]} -ge 3 ] || { echo "books.sh: '$books' has ${#files[@]} .txt files; at least three are needed" >&2; exit 2; }
mkdir -p "$out"
train=("${files[@]:0:${#files[@]}-2}")
held=("${files[@]: -2}")
"$ropewalk" tokenizer train --data "${train[@]}" --vocab 4096 --out "$out/tokenizer" --overwrite
"$ropewalk" train --data "${train[@]}" --tokenizer "$out/tokenizer" --out "$out/base" --resume \
  --hidden 192 --layers 4 --heads 3 --ffn 512 --window 256 --batch 16 --steps 600 --lr 3e-3 --warmup 40
"$ropewalk" train --data "${train[@]}" --from "$out/base" --out "$out/pose" --resume \
  --method pose --target 1024 --batch 16 --steps 100 --lr 1e-3 --warmup 10
for model in base pose; do
  "$ropewalk" eval ppl --model "$out/$model" --data "${held[@]}" --window 128,256,512,1024 --max-tokens 8192 \
    --json "$out/$model/eval-ppl.json"
done
"$ropewalk" report "$out/base" "$out/pose" --out "$out/report.html"
