// Internal: one program for every x86-64 CPU: for the library's own .cpp files.
#pragma once

// Stands behind the parameters of a loop body, or before a function. It compiles the function for x86-64, for x86-64-v3
// (AVX2, FMA) and for x86-64-v4 (AVX-512). The start of the program decides which one runs. Functions that it calls are
// compiled for its level if they are inlined, else for x86-64. The macro is empty in a build for this machine's CPU
// alone (ROPEWALK_NATIVE), on other architectures, and with compilers other than GCC.
#ifdef ROPEWALK_CPU_LEVELS
#define RW_CPU_LEVELS __attribute__((target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")))
#else
#define RW_CPU_LEVELS
#endif
