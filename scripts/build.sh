#!/usr/bin/env bash
# build.sh FOLDER [OPTION...]: cmake --build on all cores. It says how far it is; the whole output is in FOLDER/build.log, and
# the end of that is shown after an error.
set -euo pipefail
folder=$1
shift

# make says "[ 42%] Building ...", ninja "[12/30] Building ...". On a terminal one line is written over, elsewhere there is one
# for every tenth.
follow() {
  local line share last=0 step=10 head='' end='\n'
  if [ -t 1 ]; then step=1 head='\r' end=' '; fi
  while IFS= read -r line; do
    printf '%s\n' "$line" >&3
    if [[ $line =~ ^\[\ *([0-9]+)%\] ]]; then share=${BASH_REMATCH[1]}
    elif [[ $line =~ ^\[([0-9]+)/([0-9]+)\] ]]; then share=$((100 * BASH_REMATCH[1] / BASH_REMATCH[2]))
    else continue; fi
    if [ "$share" -lt $((last + step)) ]; then continue; fi
    last=$share
    printf "$head   built %d %%$end" "$share"
  done
  if [ -t 1 ] && [ "$last" -gt 0 ]; then printf '\n'; fi
}

if cmake --build "$folder" -j "$(nproc)" "$@" 2>&1 | follow 3>"$folder/build.log"; then exit 0; fi
grep -E 'error|Error' "$folder/build.log" | head -n 20 || true
tail -n 40 "$folder/build.log"
exit 1
