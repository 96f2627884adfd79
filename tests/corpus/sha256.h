// SHA-256 (FIPS 180-4), for comparing with published digests.
#pragma once
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <string>
#include <string_view>

namespace test {

/// First 32 bits of the fractional part of a root of the n-th prime: where SHA-256's constants come from.
inline uint32_t prime_root_bits(int n, int root) {
  int prime = 1;
  for (int found = -1; found < n;) {
    ++prime;
    bool is_prime = true;
    for (int d = 2; d * d <= prime; ++d) is_prime = is_prime && prime % d != 0;
    found += is_prime;
  }
  const long double r =
      root == 2 ? std::sqrt(static_cast<long double>(prime)) : std::cbrt(static_cast<long double>(prime));
  return static_cast<uint32_t>((r - std::floor(r)) * 4294967296.0L);
}

inline std::string sha256(std::string_view message) {
  std::array<uint32_t, 8> state;
  std::array<uint32_t, 64> k;
  for (int i = 0; i < 8; ++i) state[i] = prime_root_bits(i, 2);
  for (int i = 0; i < 64; ++i) k[i] = prime_root_bits(i, 3);
  std::string padded(message);
  padded += '\x80';
  padded.append((64 + 56 - padded.size() % 64) % 64, '\0');
  for (int i = 7; i >= 0; --i) padded += static_cast<char>(uint64_t{message.size()} * 8 >> (8 * i));
  for (size_t block = 0; block < padded.size(); block += 64) {
    std::array<uint32_t, 64> w;
    for (size_t i = 0; i < 16; ++i) {
      w[i] = 0;
      for (size_t j = 0; j < 4; ++j) w[i] = w[i] << 8 | static_cast<unsigned char>(padded[block + 4 * i + j]);
    }
    for (size_t i = 16; i < 64; ++i) {
      const uint32_t s0 = std::rotr(w[i - 15], 7) ^ std::rotr(w[i - 15], 18) ^ w[i - 15] >> 3;
      const uint32_t s1 = std::rotr(w[i - 2], 17) ^ std::rotr(w[i - 2], 19) ^ w[i - 2] >> 10;
      w[i] = w[i - 16] + s0 + w[i - 7] + s1;
    }
    auto [a, b, c, d, e, f, g, h] = state;
    for (size_t i = 0; i < 64; ++i) {
      const uint32_t t1 =
          h + (std::rotr(e, 6) ^ std::rotr(e, 11) ^ std::rotr(e, 25)) + ((e & f) ^ (~e & g)) + k[i] + w[i];
      const uint32_t t2 = (std::rotr(a, 2) ^ std::rotr(a, 13) ^ std::rotr(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));
      h = g, g = f, f = e, e = d + t1, d = c, c = b, b = a, a = t1 + t2;
    }
    const std::array<uint32_t, 8> add = {a, b, c, d, e, f, g, h};
    for (size_t i = 0; i < 8; ++i) state[i] += add[i];
  }
  std::string hex;
  for (const uint32_t word : state) {
    for (int shift = 28; shift >= 0; shift -= 4) hex += "0123456789abcdef"[word >> shift & 15];
  }
  return hex;
}

}  // namespace test
