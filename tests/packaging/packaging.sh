#!/usr/bin/env bash
# Installs a build into a fresh folder and embeds it in every way the README names: find_package, pkg-config (C++ and C),
# add_subdirectory, FetchContent, and as a shared library; runs the example each time. Then looks at what the library
# brings with it: its symbols and what a program that uses it is linked with.
#
# Usage: packaging.sh BUILD_FOLDER [CMAKE_OPTION...]    (the options of the library's second build, by add_subdirectory)
set -euo pipefail
build=$(cd "$1" && pwd)
shift
source=$(cd "$(dirname "$0")/../.." && pwd)
work=$(mktemp -d "${TMPDIR:-/tmp}/ropewalk-packaging-XXXXXX")
trap 'rm -rf "$work"' EXIT
export OMP_NUM_THREADS=2 LD_LIBRARY_PATH=
jobs=$(nproc)

say() { echo "ok: $*"; }
die() { echo "packaging: $*" >&2; exit 1; }
quietly() { "$@" >"$work/log" 2>&1 || { cat "$work/log" >&2; die "failed: $*"; }; }
# The example prints ten losses and ten token ids, and must have learned something.
check_run() {
  "$@" "$work/model" "$work/text.txt" >"$work/out" || die "the example failed: $*"
  [ "$(grep -c '^step' "$work/out")" = 10 ] || die "expected ten steps: $(cat "$work/out")"
  awk '/^step/ { loss = $4; if (!first) first = loss } END { exit !(loss < first) }' "$work/out" || die "the loss did not fall"
  [ "$(tail -n 1 "$work/out" | wc -w)" = 10 ] || die "expected ten tokens: $(tail -n 1 "$work/out")"
}
# What a program needs at run time: C and C++ runtime, OpenMP and zlib, with CUDA its runtime and cuBLAS, and nothing else.
check_links() {
  local allowed='linux-vdso|ld-linux[^ ]*|libstdc\+\+|libm|libgomp|libz|libc|libgcc_s|libpthread|libdl|librt'
  [ -n "$with_cuda" ] && allowed+='|libcudart|libcublas|libcublasLt'
  [ "${2:-}" = shared ] && allowed+='|libropewalk'
  local others
  others=$(ldd "$1" | awk '{ print $1 }' | sed 's|.*/||' | grep -vE "^($allowed)\.so" || true)
  [ -z "$others" ] || die "$1 is linked with more than it should: $others"
}
# What the link line put into a program, apart from the C and C++ runtime.
linked_with() { readelf -d "$1" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p' | grep -vE '^(libstdc\+\+|libm|libc|libgcc_s|ld-linux.*)\.so' | sort | tr '\n' ' '; }
# Every external symbol is ours (namespace rw, the C API, the types of functions over our types), the C++ standard library's or the compiler's own; with CUDA also
# its C++ library's (namespace cuda, inline functions of a version of their own), nvcc's stubs of our kernels, and NVTX's
# hooks, which every program that includes its header shares by design.
check_symbols() {
  local ours='^_Z(GV|GR|TV|TI|TS|TC|TT|TW|TH|Z|Th[n0-9]+_|Tv[n0-9]+_[n0-9]+_|L)*N?[VKRO]*2rw|^_ZT[IS]P?F.*N2rw' c_api='^_ZN?K?[0-9]+ropewalk_|^ropewalk_'
  local standard='^_Z(GV|GR|TV|TI|TS|TC|TT|Z|L)*P?N?[VKRO]*(S[tabsiod]|9__gnu_cxx|10__cxxabiv1)|^_Zn[wa]|^_Zd[la]'
  local compiler='^DW\.ref\.(__gxx_personality_v0$|_ZTI)|^_init$|^_fini$|^__bss_start$|^_edata$|^_end$'
  [ -n "$with_cuda" ] && compiler+='|^__fatbinwrap|^__cudaRegister|^fatbinData|^__nv_|^_Z[0-9]+__device_stub__ZN2rw'
  [ -n "$with_cuda" ] && standard+='|^_Z(GV|TI|TS|TV|Z|L)*N?K?4cuda|^(_ZZ[0-9]+)?nvtx[A-Z]|^InitializeInjectionNvtx2_fnptr$'
  nm "${@:2}" --extern-only --defined-only -P "$1" 2>/dev/null | awk 'NF > 1 { print $1 }' | sort -u >"$work/symbols"
  [ "$(grep -cE "$ours" "$work/symbols")" -gt 200 ] || die "nm found too few symbols in $1"
  grep -vE "$ours|$c_api|$standard|$compiler" "$work/symbols" >"$work/others" || true
  [ ! -s "$work/others" ] || die "$(wc -l <"$work/others") symbols of $1 are outside namespace rw: $(head -n 20 "$work/others" | c++filt)"
}

with_cuda=$(sed -n 's/^ROPEWALK_CUDA:BOOL=ON$/yes/p' "$build/CMakeCache.txt")
printf '%s\n' {1..400} | sed 's/.*/Line & of the little story./' >"$work/text.txt"
quietly "$build/bin/ropewalk" --quiet --device cpu train --data "$work/text.txt" --out "$work/model" --hidden 32 --layers 2 --heads 2 \
  --batch 2 --window 16 --steps 3

quietly cmake --install "$build" --prefix "$work/first"
mv "$work/first" "$work/prefix"   # an installed tree may be moved
library=$(find "$work/prefix" -name 'libropewalk.*' ! -type l | head -n 1)
export PKG_CONFIG_PATH=$(dirname "$(find "$work/prefix" -name ropewalk.pc)")
case $library in
  *.a) check_symbols "$library"; kind=static ;;
  *) check_symbols "$library" -D; kind=shared; export LD_LIBRARY_PATH=$(dirname "$library") ;;
esac
say "symbols of the installed library ($kind): namespace rw, the C API and the standard library${with_cuda:+, and what nvcc and NVTX add,} only"
[ -z "$(find "$work/prefix" -name '*.cuh' -o -name '*.cpp')" ] || die "sources were installed"
if grep -rlE '#include [<"](Eigen|nlohmann|CLI|cuda_runtime|cublas)' "$work/prefix/include"; then die "a header needs more than a C++20 compiler"; fi

quietly cmake -S "$source/tests/example" -B "$work/package" -DHOW=package -DCMAKE_PREFIX_PATH="$work/prefix" -DCMAKE_BUILD_TYPE=Release
quietly cmake --build "$work/package"
check_run "$work/package/example"
check_links "$work/package/example" $kind
say "find_package; linked with $(linked_with "$work/package/example")"

quietly sh -c "c++ '$source/tests/example/main.cpp' \$(pkg-config --cflags --libs ropewalk) -o '$work/by-pkg-config'"
check_run "$work/by-pkg-config"
check_links "$work/by-pkg-config" $kind
cat >"$work/version.c" <<'C'
#include <ropewalk.h>
#include <stdio.h>
int main(void) { return printf("%s\n", ropewalk_version()) < 0; }
C
quietly sh -c "cc -std=c99 -Wall -Wextra -Werror -pedantic '$work/version.c' \$(pkg-config --cflags --libs ropewalk-c) -o '$work/version'"
[ "$("$work/version")" = "$(pkg-config --modversion ropewalk)" ] || die "ropewalk_version() and ropewalk.pc differ"
say "pkg-config, from C++ and from C; linked with $(linked_with "$work/by-pkg-config")"

# One build folder for all three: FetchContent and the shared library use the same objects, so they cost a link each.
quietly cmake -S "$source/tests/example" -B "$work/source" -DHOW=subdirectory -DROPEWALK_SOURCE="$source" "$@"
quietly cmake --build "$work/source" -j "$jobs"
check_run "$work/source/example"
check_links "$work/source/example"
say "add_subdirectory"
# Products for newer CPUs must leave the linker nothing to share: it would keep one copy for the whole program.
objects=$(find "$work/source" -path '*/ropewalk_level_v*' -name '*.o')
for object in $objects; do
  nm --defined-only -P "$object" | awk '$2 ~ /[WVu]/ && $1 !~ /^DW\.ref/ { print $1 }' >"$work/others"
  [ ! -s "$work/others" ] || die "code for newer CPUs that others may be given: $(head -n 20 "$work/others" | c++filt)"
done
[ -z "$objects" ] || say "code for newer CPUs stays apart"
quietly cmake -S "$source/tests/example" -B "$work/source" -DHOW=fetch
rm "$work/source/example"
quietly cmake --build "$work/source" -j "$jobs"
check_run "$work/source/example"
say "FetchContent"
quietly cmake -S "$source/tests/example" -B "$work/source" -DROPEWALK_SHARED=ON
quietly cmake --build "$work/source" -j "$jobs"
check_run "$work/source/example"
check_links "$work/source/example" shared
shared=$(find "$work/source" -name 'libropewalk.so*' ! -type l)
[ -n "$shared" ] || die "no shared library was built"
check_symbols "$shared" -D
say "shared library"
