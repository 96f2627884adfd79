#!/usr/bin/env bash
# Fetches the books of recipes/pilot.toml and recipes/papers: 168 to train on, 12 to validate, 44 to test, 150 MB.
#
#   bash scripts/fetch_books.sh [DIR] [BASE]
#     DIR   where train/, val/ and test/ are made (default: data/books)
#     BASE  address below which train/ID.txt, validation/ID.txt and test/ID.txt lie (default: the PG-19 corpus)
#
# Files that are there already are not fetched again, and a file appears whole or not at all: call it again after a
# failure. LIST=FILE names another list of books (recipes/books.txt), JOBS=N the downloads at once.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
dir=${1:-data/books}
base=${2:-https://storage.googleapis.com/deepmind-gutenberg}
list=${LIST:-$root/recipes/books.txt}

fetch_one() {  # address file
  local part="$2.part"
  [ -s "$2" ] && return 0
  if command -v curl >/dev/null; then
    curl --fail --silent --show-error --location --retry 3 --output "$part" "$1"
  else
    wget --quiet --tries 3 --output-document "$part" "$1"
  fi && [ -s "$part" ] && mv "$part" "$2" && return 0
  rm -f "$part"
  echo "fetch_books.sh: cannot fetch $1" >&2
  return 1
}
export -f fetch_one

[ -r "$list" ] || { echo "fetch_books.sh: cannot read the list '$list'" >&2; exit 2; }
mkdir -p "$dir/train" "$dir/val" "$dir/test"
failed=0
while read -r split ids; do
  case $split in
    train | test) folder=$split ;;
    val) folder=validation ;;
    *) continue ;;
  esac
  for id in $ids; do printf '%s\0%s\0' "$base/$folder/$id.txt" "$dir/$split/$id.txt"; done
done <"$list" | xargs -0 -n 2 -P "${JOBS:-8}" bash -c 'fetch_one "$1" "$2"' fetch || failed=1
for split in train val test; do
  echo "$split: $(find "$dir/$split" -name '*.txt' | wc -l) books, $(du -sh "$dir/$split" | cut -f1)"
done
[ "$failed" = 0 ] || { echo "fetch_books.sh: some books are missing; call it again" >&2; exit 1; }
