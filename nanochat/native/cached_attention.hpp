// Attention of one query to the keys and values of a cache, in fp32 or bf16.

#pragma once

#include <algorithm>
#include <cmath>
#include <type_traits>
#include <utility>
#include <vector>

#include "vectors.hpp"

namespace {

// The N-lane groups of a and b in turn, each the sum of two neighbouring groups.
template <int N>
inline vec fold(vec a, vec b) {
  const auto group = [&]<int... Lane>(std::integer_sequence<int, Lane...>) {
    constexpr auto source = [](int lane, int second) {
      return lane / (2 * N) * 2 * N + lane % N + (lane / N % 2 ? LANES : 0) + second;
    };
#if __has_builtin(__builtin_shufflevector)
    return __builtin_shufflevector(a, b, source(Lane, 0)...) + __builtin_shufflevector(a, b, source(Lane, N)...);
#else  // GCC 11
    return __builtin_shuffle(a, b, int_vec{source(Lane, 0)...}) + __builtin_shuffle(a, b, int_vec{source(Lane, N)...});
#endif
  };
  return group(std::make_integer_sequence<int, LANES>());
}

// The sums of LANES vectors, which are overwritten.
template <int N = LANES / 2>
inline vec sums(vec (&v)[LANES]) {
  for (int i = 0; i < N; i++) v[i] = fold<N>(v[i], v[i + N]);
  if constexpr (N > 1) return sums<N / 2>(v);
  return v[0];
}

// The kinds of cells of the cache: how attention multiplies a query, which is rounded to them, with keys, and sums values.
// It takes CHANNELS at a time, or HALF of them at the end of a head.
struct FloatCells {
  using Cell = float;
  static constexpr int CHANNELS = LANES, HALF = 0;

  template <int COUNT>
  static void add(vec& total, const Cell* q, const Cell* k) {
    total += load(q) * load(k);
  }

  // The weighted sum of N vectors of channels over `count` slots.
  template <int N>
  static int sum_vectors(const Cell* v, int D, const Cell* weights, int64_t count, float scale, float* y) {
    vec total[N]{};
    for (int64_t s = 0; s < count; s++, v += D)
      for (int i = 0; i < N; i++) total[i] += load(v + i * LANES) * weights[s];
    for (int i = 0; i < N; i++) store(y + i * LANES, total[i] * scale);
    return N * LANES;
  }

  static void sum_slots(const Cell* v, int D, const Cell* weights, int64_t count, float scale, float* y) {
    for (int i = 0; i < D;)
      i += D - i >= 4 * LANES ? sum_vectors<4>(v + i, D, weights, count, scale, y + i)
                              : sum_vectors<1>(v + i, D, weights, count, scale, y + i);
  }
};

// Processors with bf16 units multiply pairs: of neighbouring channels, and then of neighbouring slots.
struct Bf16Cells {
  using Cell = bf16_bits;
  static constexpr int CHANNELS = 2 * LANES, HALF = LANES;

  template <int COUNT>
  static word_vec words(const Cell* p) {
    if constexpr (COUNT == CHANNELS) return *reinterpret_cast<const word_vec*>(p);
    return __builtin_convertvector(*reinterpret_cast<const bits_vec*>(p), word_vec);
  }

  template <int COUNT>
  static void add(vec& total, const Cell* q, const Cell* k) {
    add_pairs(total, words<COUNT>(k), words<COUNT>(q));
  }

  // The weighted sum of N words of channels over `count` slots.
  template <int N, int COUNT>
  static int sum_words(const Cell* v, int D, const Cell* weights, int64_t count, float scale, float* y) {
    vec even[N]{}, odd[N]{};
    const auto add_slots = [&](int i, word_vec a, word_vec b, uint32_t pair) {
      add_pairs(even[i], (a & 0xffffu) | b << 16, pair);
      if constexpr (COUNT == CHANNELS) add_pairs(odd[i], a >> 16 | (b & 0xffff0000u), pair);
    };
    for (int64_t s = 0; s + 2 <= count; s += 2, v += 2 * D) {
      const uint32_t pair = weights[s] | static_cast<uint32_t>(weights[s + 1]) << 16;
      for (int i = 0; i < N; i++) add_slots(i, words<COUNT>(v + i * COUNT), words<COUNT>(v + D + i * COUNT), pair);
    }
    if (count % 2)
      for (int i = 0; i < N; i++) add_slots(i, words<COUNT>(v + i * COUNT), word_vec{}, weights[count - 1]);
    for (int i = 0; i < N; i++)
      if constexpr (COUNT == CHANNELS) {
        for (int lane = 0; lane < LANES; lane++) {
          y[i * COUNT + 2 * lane] = even[i][lane] * scale;
          y[i * COUNT + 2 * lane + 1] = odd[i][lane] * scale;
        }
      } else {
        store(y, even[i] * scale);
      }
    return N * COUNT;
  }

  static void sum_slots(const Cell* v, int D, const Cell* weights, int64_t count, float scale, float* y) {
    for (int i = 0; i < D;) {
      const auto sum_next = D - i >= 2 * CHANNELS ? sum_words<2, CHANNELS>
                            : D - i >= CHANNELS   ? sum_words<1, CHANNELS>
                                                  : sum_words<1, HALF>;
      i += sum_next(v + i, D, weights, count, scale, y + i);
    }
  }
};

// The products of a query with LANES keys, of which `count` are there; the last one stands in for the others. Inlined,
// because a compiler's choice of fused instructions, and so the last bits, depend on it.
template <class Cells, class Count, class Cell = typename Cells::Cell>
__attribute__((always_inline)) inline vec multiply_keys(const Cell* q, const Cell* k, int D, Count count) {
  vec products[LANES]{};
  int i = 0;
  for (; i + Cells::CHANNELS <= D; i += Cells::CHANNELS) {
    const Cell* key = k + i;
    for (int j = 0; j < LANES; key += ++j < count ? D : 0)
      Cells::template add<Cells::CHANNELS>(products[j], q + i, key);
  }
  if (i < D) {
    const Cell* key = k + i;
    for (int j = 0; j < LANES; key += ++j < count ? D : 0) Cells::template add<Cells::HALF>(products[j], q + i, key);
  }
  return sums(products);
}

// Attention of one query to `count` slots.
template <class Cells, class Cell = typename Cells::Cell>
void attend(const float* q, const Cell* k, const Cell* v, int64_t count, int D, float scale, float* y) {
  thread_local std::vector<float> kept_scores;
  thread_local std::vector<Cell> kept_cells;
  float* scores = space(kept_scores, padded(count));
  Cell *query = space(kept_cells, padded(count) + D), *weights = query + D;
  for (int i = 0; i < D; i += LANES) store(query + i, load(q + i));
  vec high = vec{} - INFINITY;
  for (int64_t s = 0; s < count; s += LANES) {
    const std::integral_constant<int, LANES> whole;
    const vec each = scale * (count - s >= LANES ? multiply_keys<Cells>(query, k + s * D, D, whole)
                                                 : multiply_keys<Cells>(query, k + s * D, D, count - s));
    store(scores + s, each);
    high = each > high ? each : high;
  }
  std::fill(scores + count, scores + padded(count), -INFINITY);
  const float highest = greatest(high);
  vec total{};
  for (int64_t s = 0; s < count; s += LANES) {
    store(weights + s, exponential(load(scores + s) - highest));
    total += load(weights + s);
  }
  Cells::sum_slots(v, D, weights, count, 1.0f / sum(total), y);
}

}  // namespace
