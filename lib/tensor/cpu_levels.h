// Internal: one program for every x86-64 CPU: for the library's own .cpp files.
#pragma once

// Behind the parameters of a loop body, or before a function: compiles it for x86-64, for x86-64-v3 (AVX2, FMA) and for
// x86-64-v4 (AVX-512); which one runs is decided when the program starts. What it calls is compiled for its level if it
// is inlined, else for x86-64. Nothing where CMakeLists.txt finds no use for it: in a build for this machine's CPU
// alone (ROPEWALK_NATIVE), on other architectures, with compilers but GCC.
#ifdef ROPEWALK_CPU_LEVELS
#define RW_CPU_LEVELS __attribute__((target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")))
#else
#define RW_CPU_LEVELS
#endif
