// Vectors of floats for the C++ of this project, by the vector extensions of GCC and Clang: as wide as the processor's,
// because a compiler keeps wider ones in memory. LANES divides 16.

#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#ifdef __AVX512F__
#include <immintrin.h>
#endif

namespace {

#ifdef __AVX512F__
constexpr int LANES = 16;   // floats of a vector
constexpr int VECTORS = 4;  // vectors of a panel
#elif defined(__AVX__)
constexpr int LANES = 8, VECTORS = 2;  // in half as many registers
#elif defined(__ARM_NEON)
constexpr int LANES = 4, VECTORS = 4;
#else
constexpr int LANES = 4, VECTORS = 2;
#endif
constexpr int PANEL = LANES * VECTORS;  // outputs of a product that are computed together

typedef float vec __attribute__((vector_size(4 * LANES), aligned(4)));
typedef int32_t int_vec __attribute__((vector_size(4 * LANES), aligned(4)));
typedef uint32_t word_vec __attribute__((vector_size(4 * LANES), aligned(4)));

// Space that a thread keeps for its next task.
template <class T>
T* space(std::vector<T>& kept, int64_t n) {
  if (static_cast<int64_t>(kept.size()) < n) kept.resize(n);
  return kept.data();
}

inline int padded(int n) { return (n + 15) / 16 * 16; }  // whole vectors on every processor
inline vec load(const float* p) { return *reinterpret_cast<const vec*>(p); }
inline void store(float* p, vec v) { *reinterpret_cast<vec*>(p) = v; }

// The lanes of v combined by `join`, which takes vectors and floats: halves first, down to four lanes.
template <class Vector, class Join>
inline float reduce(Vector v, const Join& join) {
  if constexpr (sizeof(Vector) == 4 * sizeof(float)) {
    return join(join(v[0], v[2]), join(v[1], v[3]));
  } else {
    typedef float half __attribute__((vector_size(sizeof(Vector) / 2)));
    half halves[2];
    std::memcpy(halves, &v, sizeof v);  // GCC 10 has no std::bit_cast
    return reduce<half>(join(halves[0], halves[1]), join);
  }
}

inline float sum(vec v) {
  return reduce(v, [](auto a, auto b) { return a + b; });
}

inline float greatest(vec v) {
  return reduce(v, [](auto a, auto b) { return a > b ? a : b; });
}

// A bit for each lane that reaches a value, from the lowest.
inline uint32_t reaching(vec v, float least) {
#ifdef __AVX512F__
  return _mm512_cmp_ps_mask((__m512)v, _mm512_set1_ps(least), _CMP_GE_OQ);
#else
  uint32_t bits = 0;
  const int_vec holds = v >= least;
  for (int lane = 0; lane < LANES; lane++) bits |= static_cast<uint32_t>(holds[lane] & 1) << lane;
  return bits;
#endif
}

// e^x for x <= 88, relative error 2e-7: 2^n times a polynomial of the remainder (Cephes' expf).
inline vec exponential(vec x) {
  x = x < -87.0f ? vec{} - 87.0f : x;
  const vec rounding = vec{} + 12582912.0f;  // 1.5 * 2^23: adding it leaves the nearest integer in the low bits
  const vec shifted = x * 1.44269504f + rounding;
  const vec n = shifted - rounding;
  const vec r = x - n * 0.693359375f + n * 2.12194440e-4f;
  vec p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  return p * (vec)(((int_vec)shifted + 127) << 23);
}

// e^x, but at most e^80, from which on tanh(x / 2) = 1 - 2 / (e^x + 1) is 1.
inline vec limited_exponential(vec x) { return exponential(x > 80.0f ? vec{} + 80.0f : x); }

// Of n numbers.
inline float inverse_rms(vec squares, int64_t n) {
  constexpr float EPSILON = 1.1920929e-07f;  // PyTorch's, of fp32, in all dtypes
  return 1.0f / std::sqrt(sum(squares) / static_cast<float>(n) + EPSILON);
}

// The nearest bf16, ties to even. Rounded like a number, some NaNs would become 0.
inline word_vec bf16(vec x) {
  const word_vec bits = (word_vec)x;
  const word_vec rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
  return x == x ? rounded : word_vec{} + 0x7fc0;
}

// Numbers that lie in memory as bf16 are computed with as floats.
typedef uint16_t bf16_bits;
typedef bf16_bits bits_vec __attribute__((vector_size(2 * LANES), aligned(2)));
inline vec load(const bf16_bits* p) {
  return (vec)(__builtin_convertvector(*reinterpret_cast<const bits_vec*>(p), word_vec) << 16);
}
inline void store(bf16_bits* p, vec v) { *reinterpret_cast<bits_vec*>(p) = __builtin_convertvector(bf16(v), bits_vec); }

// total += the products of two pairs of bf16 in every lane.
inline void add_pairs(vec& total, word_vec a, word_vec b) {
#ifdef __AVX512BF16__
  total = (vec)_mm512_dpbf16_ps((__m512)total, (__m512bh)a, (__m512bh)b);
#else
  total += (vec)(a << 16) * (vec)(b << 16);
  total += (vec)(a & 0xffff0000u) * (vec)(b & 0xffff0000u);
#endif
}

// The same where all lanes have the same second pair.
inline void add_pairs(vec& total, word_vec w, uint32_t pair) { add_pairs(total, w, word_vec{} + pair); }

}  // namespace
