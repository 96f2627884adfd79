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

namespace rw::cpu {

/// One thing of a file that is compiled once per level (CMakeLists.txt): for x86-64-v4 and v3, or null where the build
/// has no levels, and with the build's own flags. RW_VERSIONS(name) is that of namespaces v4, v3 and build.
template <class V>
struct Versions {
  const V *v4, *v3, *build;
};
#ifdef ROPEWALK_CPU_LEVELS
#define RW_VERSIONS(name) \
  { &v4::name, &v3::name, &build::name }
#else
#define RW_VERSIONS(name) \
  { nullptr, nullptr, &build::name }
#endif

/// Those that this CPU can run, the fastest first; returns how many.
template <class V>
int runnable(const Versions<V>& versions, const V* (&out)[3]) {
  int n = 0;
#ifdef ROPEWALK_CPU_LEVELS
  if (__builtin_cpu_supports("x86-64-v4")) out[n++] = versions.v4;
  if (__builtin_cpu_supports("x86-64-v3")) out[n++] = versions.v3;
#endif
  out[n++] = versions.build;
  return n;
}

/// The fastest that this CPU can run.
template <class V>
const V& fastest(const Versions<V>& versions) {
  const V* all[3];
  runnable(versions, all);
  return *all[0];
}

}  // namespace rw::cpu
