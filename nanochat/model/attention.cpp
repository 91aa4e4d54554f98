// Causal attention over windows on a CPU, forward and backward, for rows that fit a core's cache. As in FlashAttention
// (arXiv:2205.14135) nothing of the size of tokens × tokens goes through memory: one head's weights stay in the cache
// of the core that computes it, and the backward pass computes them again.
//
// Sizes: B rows, T tokens, H query heads, K key heads, D channels of a head. T is a multiple of 4, D of 16.
// Tensors are (B, T, H or K, D) and contiguous.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <vector>

#include "products.hpp"

namespace {

// The keys that a block of queries may see, in whole vectors and tiles.
template <class Kind>
struct Range {
  static constexpr int64_t UNIT = std::max<int64_t>(LANES, Kind::ROWS);
  int64_t begin, end;
  Range(int64_t first_query, int64_t window)
      : begin(std::max<int64_t>(0, first_query + 1 - window) / UNIT * UNIT),
        end((first_query + Kind::ROWS + UNIT - 1) / UNIT * UNIT) {}
};

// rows (ROWS, T padded) = the first ROWS rows of x times a factor of tokens, for the keys of a range.
template <class Kind>
void scores(const typename Kind::Number* x, int64_t stride, const Factor<Kind>& keys, const Range<Kind>& range,
            float* rows, int64_t padded_T) {
  using Word = typename Kind::Word;
  for (int64_t s = range.begin / PANEL * PANEL; s < range.end; s += PANEL)
    Kind::multiply(reinterpret_cast<const Word*>(x), stride / Kind::INPUTS, 1, keys.panel(s / PANEL), keys.words,
                   range.end - s, rows + s, padded_T);
}

// The keys that one query sees, in whole vectors.
struct Seen {
  int64_t query, window, begin, end;
  Seen(int64_t query, int64_t window)
      : query(query),
        window(window),
        begin(std::max<int64_t>(0, query + 1 - window) / LANES * LANES),
        end(query / LANES * LANES + LANES) {}

  // x in the lanes of the vector of keys from s on that it sees, else `other`.
  vec only(int64_t s, vec x, float other) const {
    if (s > query - window && s + LANES <= query + 1) return x;
    int_vec key{};
    for (int i = 0; i < LANES; i++) key[i] = s + i;
    const int_vec seen = (key <= static_cast<int32_t>(query)) & (key > static_cast<int32_t>(query - window));
    return seen ? x : vec{} + other;
  }

  template <class Range>
  void clear_others(float* row, const Range& range) const {
    std::fill(row + range.begin, row + begin, 0.0f);
    std::fill(row + end, row + range.end, 0.0f);
  }
};

// Scores of one query to its attention weights, in place, for the vectors of keys that it sees.
void softmax(float* row, const Seen& seen, float scale) {
  vec high = vec{} - INFINITY;
  for (int64_t s = seen.begin; s < seen.end; s += LANES) {
    const vec x = seen.only(s, load(row + s), -INFINITY);
    high = x > high ? x : high;
  }
  const float highest = greatest(high);
  vec total{};
  for (int64_t s = seen.begin; s < seen.end; s += LANES) {
    const vec e = seen.only(s, exponential((load(row + s) - highest) * scale), 0.0f);
    store(row + s, e);
    total += e;
  }
  const float share = 1.0f / sum(total);
  for (int64_t s = seen.begin; s < seen.end; s += LANES) store(row + s, load(row + s) * share);
}

// The rows of a block as the left factor of sums over keys, (ROWS, padded_T) numbers.
template <class Kind>
void as_numbers(const float* rows, const Range<Kind>& range, typename Kind::Number* to, int64_t padded_T) {
  for (int r = 0; r < Kind::ROWS; r++)
    for (int64_t s = range.begin; s < range.end; s += LANES) store(to + r * padded_T + s, load(rows + r * padded_T + s));
}

// put(row, channel, vec): ROWS rows of x (numbers, of a range of keys) times a factor of channels.
template <class Kind, class Put>
void combine(const typename Kind::Number* x, int64_t padded_T, const Factor<Kind>& values, const Range<Kind>& range,
             int64_t T, int64_t D, const Put& put) {
  using Word = typename Kind::Word;
  const int64_t first = range.begin / Kind::INPUTS, last = std::min(range.end, T) / Kind::INPUTS;
  for (int64_t p = 0; p < panels(D); p++) {
    float sums[Kind::ROWS * PANEL];
    Kind::multiply(reinterpret_cast<const Word*>(x) + first, padded_T / Kind::INPUTS, 1, values.panel(p, first),
                   last - first, D - p * PANEL, sums, PANEL);
    for (int r = 0; r < Kind::ROWS; r++)
      for (int64_t d = p * PANEL; d < std::min(D, (p + 1) * PANEL); d += LANES)
        put(r, d, load(sums + r * PANEL + d - p * PANEL));
  }
}

struct Shape {
  int64_t B, T, H, K, D, window;
  explicit Shape(const int64_t* s) : B(s[0]), T(s[1]), H(s[2]), K(s[3]), D(s[4]), window(s[5]) {}
  int64_t padded_T() const { return panels(T) * PANEL; }
  float scale() const { return 1.0f / std::sqrt(static_cast<float>(D)); }
};

#ifdef HAS_TILES
bool fits_tiles(const Shape& s) {
  return s.T % Bf16Tiles::ROWS == 0 && s.D % (Bf16Tiles::WORDS * Bf16Tiles::INPUTS) == 0 && Bf16Tiles::permitted();
}
#endif

// Work(row of the batch, key head) for all of them.
template <class Kind, class Work>
void for_all(const Shape& s, int threads, const Work& work) {
#pragma omp parallel num_threads(threads)
  {
    [[maybe_unused]] const typename Kind::Session session;
#pragma omp for schedule(dynamic)
    for (int64_t item = 0; item < s.B * s.K; item++) work(item / s.K, item % s.K);
  }
}

template <class Kind>
void forward(const Shape& s, const typename Kind::Number* q, const typename Kind::Number* k,
             const typename Kind::Number* v, typename Kind::Number* y, int threads) {
  using Number = typename Kind::Number;
  const int64_t padded_T = s.padded_T(), wide = s.H * s.D, narrow = s.K * s.D;
  for_all<Kind>(s, threads, [&](int64_t b, int64_t key_head) {
    thread_local Factor<Kind> keys, values;
    thread_local std::vector<float> kept_rows;
    thread_local std::vector<Number> kept_numbers;
    float* rows = space(kept_rows, Kind::ROWS * padded_T);
    Number* numbers = space(kept_numbers, Kind::ROWS * padded_T);
    const int64_t at = b * s.T * narrow + key_head * s.D;
    keys.outputs_by_row(k + at, narrow, s.T, s.D);
    values.outputs_by_column(v + at, narrow, s.T, s.D);
    for (int64_t h = key_head * s.H / s.K; h < (key_head + 1) * s.H / s.K; h++)
      for (int64_t t = 0; t < s.T; t += Kind::ROWS) {
        const Range<Kind> range(t, s.window);
        const int64_t here = (b * s.T + t) * wide + h * s.D;
        scores<Kind>(q + here, wide, keys, range, rows, padded_T);
        for (int r = 0; r < Kind::ROWS; r++) {
          const Seen seen(t + r, s.window);
          softmax(rows + r * padded_T, seen, s.scale());
          seen.clear_others(rows + r * padded_T, range);
        }
        as_numbers<Kind>(rows, range, numbers, padded_T);
        combine<Kind>(numbers, padded_T, values, range, s.T, s.D,
                      [&](int r, int64_t d, vec x) { store(y + here + r * wide + d, x); });
      }
  });
}

// to (T, D) += for every key the sum over the queries that see it: weights times a factor of channels.
template <class Kind>
void add_sums(const Shape& s, const Transposed<Kind>& weights, const Factor<Kind>& factor, float* to) {
  constexpr int64_t ROWS = Kind::ROWS, UNIT = Kind::INPUTS * Kind::WORDS;
  for (int64_t key = 0; key < s.T; key += ROWS) {  // queries from this key on, to the end of the last one's window
    const int64_t first = key / Kind::INPUTS, end = std::min(s.T, key + ROWS - 1 + s.window);
    const int64_t words = (end + UNIT - 1) / UNIT * Kind::WORDS - first;
    for (int64_t panel = 0; panel < panels(s.D); panel++) {
      float sums[ROWS * PANEL];
      Kind::multiply(weights.at(key, first), weights.row, weights.step, factor.panel(panel, first), words,
                     s.D - panel * PANEL, sums, PANEL);
      for (int64_t r = 0; r < ROWS; r++)
        for (int64_t d = panel * PANEL; d < std::min(s.D, (panel + 1) * PANEL); d += LANES) {
          float* total = to + (key + r) * s.D + d;
          store(total, load(total) + load(sums + r * PANEL + d - panel * PANEL));
        }
    }
  }
}

// With weights P = softmax(scale * Q Kᵀ) and Y = P V: dV = Pᵀ dY, dP = dY Vᵀ, dS = scale * P ∘ (dP - rowsum(P ∘ dP)),
// dQ = dS K, dK = dSᵀ Q.
template <class Kind>
void backward(const Shape& s, const typename Kind::Number* q, const typename Kind::Number* k,
              const typename Kind::Number* v, const typename Kind::Number* dy, typename Kind::Number* dq,
              typename Kind::Number* dk, typename Kind::Number* dv, int threads) {
  using Number = typename Kind::Number;
  constexpr int ROWS = Kind::ROWS;
  const int64_t padded_T = s.padded_T(), wide = s.H * s.D, narrow = s.K * s.D;
  for_all<Kind>(s, threads, [&](int64_t b, int64_t key_head) {
    thread_local Factor<Kind> keys, key_channels, values, query_channels, dy_channels;
    thread_local std::vector<float> kept_p, kept_ds, kept_dk, kept_dv;
    thread_local std::vector<Number> kept_numbers;
    thread_local Transposed<Kind> p_by_key, ds_by_key;
    float *p = space(kept_p, ROWS * padded_T), *ds = space(kept_ds, ROWS * padded_T);
    Number* numbers = space(kept_numbers, ROWS * padded_T);
    p_by_key.resize(s.T, padded_T);
    ds_by_key.resize(s.T, padded_T);
    float *dk_sum = space(kept_dk, s.T * s.D), *dv_sum = space(kept_dv, s.T * s.D);
    std::fill_n(dk_sum, s.T * s.D, 0.0f);
    std::fill_n(dv_sum, s.T * s.D, 0.0f);
    const int64_t at = b * s.T * narrow + key_head * s.D;
    keys.outputs_by_row(k + at, narrow, s.T, s.D);
    key_channels.outputs_by_column(k + at, narrow, s.T, s.D);
    values.outputs_by_row(v + at, narrow, s.T, s.D);
    for (int64_t h = key_head * s.H / s.K; h < (key_head + 1) * s.H / s.K; h++) {
      const int64_t head = b * s.T * wide + h * s.D;
      query_channels.outputs_by_column(q + head, wide, s.T, s.D);
      dy_channels.outputs_by_column(dy + head, wide, s.T, s.D);
      for (int64_t t = 0; t < s.T; t += ROWS) {
        const Range<Kind> range(t, s.window);
        const int64_t here = head + t * wide;
        scores<Kind>(q + here, wide, keys, range, p, padded_T);
        scores<Kind>(dy + here, wide, values, range, ds, padded_T);
        for (int r = 0; r < ROWS; r++) {
          float *p_row = p + r * padded_T, *ds_row = ds + r * padded_T;
          const Seen seen(t + r, s.window);
          softmax(p_row, seen, s.scale());
          vec products{};
          for (int64_t i = seen.begin; i < seen.end; i += LANES) products += load(p_row + i) * load(ds_row + i);
          const float mean = sum(products);
          for (int64_t i = seen.begin; i < seen.end; i += LANES)
            store(ds_row + i, load(p_row + i) * (load(ds_row + i) - mean) * s.scale());
          seen.clear_others(p_row, range);
          seen.clear_others(ds_row, range);
        }
        p_by_key.put(p, padded_T, t, range.begin, range.end);
        ds_by_key.put(ds, padded_T, t, range.begin, range.end);
        as_numbers<Kind>(ds, range, numbers, padded_T);
        combine<Kind>(numbers, padded_T, key_channels, range, s.T, s.D,
                      [&](int r, int64_t d, vec x) { store(dq + here + r * wide + d, x); });
      }
      add_sums<Kind>(s, p_by_key, dy_channels, dv_sum);
      add_sums<Kind>(s, ds_by_key, query_channels, dk_sum);
    }
    for (int64_t t = 0; t < s.T; t++)
      for (int64_t d = 0; d < s.D; d += LANES) {
        store(dk + at + t * narrow + d, load(dk_sum + t * s.D + d));
        store(dv + at + t * narrow + d, load(dv_sum + t * s.D + d));
      }
  });
}

}  // namespace

extern "C" {

// The number of tokens, and its multiples, for which attention of heads of D channels in bf16 is fastest.
int32_t attention_unit_bf16([[maybe_unused]] int64_t D) {
#ifdef HAS_TILES
  const int64_t shape[] = {1, Bf16Tiles::ROWS, 1, 1, D, 1};
  if (fits_tiles(Shape(shape))) return Bf16Tiles::ROWS;
#endif
  return Bf16::ROWS;
}

// shape: B, T, H, K, D, window, which is at most T.
void attention_forward_fp32(const int64_t* shape, const float* q, const float* k, const float* v, float* y,
                            int32_t threads) {
  forward<Fp32>(Shape(shape), q, k, v, y, threads);
}

void attention_forward_bf16(const int64_t* shape, const bf16_bits* q, const bf16_bits* k, const bf16_bits* v,
                            bf16_bits* y, int32_t threads) {
  const Shape s(shape);
#ifdef HAS_TILES
  if (fits_tiles(s)) return forward<Bf16Tiles>(s, q, k, v, y, threads);
#endif
  forward<Bf16>(s, q, k, v, y, threads);
}

void attention_backward_fp32(const int64_t* shape, const float* q, const float* k, const float* v, const float* dy,
                             float* dq, float* dk, float* dv, int32_t threads) {
  backward<Fp32>(Shape(shape), q, k, v, dy, dq, dk, dv, threads);
}

void attention_backward_bf16(const int64_t* shape, const bf16_bits* q, const bf16_bits* k, const bf16_bits* v,
                             const bf16_bits* dy, bf16_bits* dq, bf16_bits* dk, bf16_bits* dv, int32_t threads) {
  const Shape s(shape);
#ifdef HAS_TILES
  if (fits_tiles(s)) return backward<Bf16Tiles>(s, q, k, v, dy, dq, dk, dv, threads);
#endif
  backward<Bf16>(s, q, k, v, dy, dq, dk, dv, threads);
}
}
