// Internal: a short hash that tells texts and token sequences apart; not against anyone who wants to deceive.
#pragma once
#include <cstdint>
#include <span>
#include <type_traits>

namespace rw {

inline constexpr uint64_t kFnvBegin = 0xcbf29ce484222325u;

/// FNV-1a, 64 bits, an element at a time; `hash`: that of what stands before.
template <class T>
uint64_t fnv1a(std::span<const T> values, uint64_t hash = kFnvBegin) {
  for (const T v : values) hash = (hash ^ static_cast<std::make_unsigned_t<T>>(v)) * 0x100000001b3u;
  return hash;
}

}  // namespace rw
