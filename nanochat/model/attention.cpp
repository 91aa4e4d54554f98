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

#include "vectors.hpp"

namespace {

constexpr int ROWS = 4;  // rows of a product that are computed together: 16 sums fit the registers

// A product sums over inputs, one float or two bf16 at a time: a word. Its right factor lies in panels, (panels, words,
// 64).
struct Fp32 {
  using Number = float;
  using Word = float;
  using Weights = vec;
  static constexpr int INPUTS = 1;
  static Weights read(const Word* words) { return load(words); }
  static void add(vec& total, const Weights& w, Word in) { total += w * in; }
  static void interleave(const float* first, const float*, Word* to) { store(to, load(first)); }
};

struct Bf16 {
  using Number = bf16_bits;
  using Word = uint32_t;
  using Weights = word_vec;
  static constexpr int INPUTS = 2;
  static Weights read(const Word* words) { return *reinterpret_cast<const word_vec*>(words); }
  static void add(vec& total, const Weights& w, Word in) { add_pairs(total, w, in); }
  // The words of two rows, for sums over rows.
  static void interleave(const float* first, const float* second, Word* to) {
    *reinterpret_cast<word_vec*>(to) = bf16(load(first)) | bf16(load(second)) << 16;
  }
};

inline int64_t panels(int64_t n) { return (n + PANEL - 1) / PANEL; }

// Space that a thread keeps for its next task.
template <class T>
T* space(std::vector<T>& kept, int64_t n) {
  if (static_cast<int64_t>(kept.size()) < n) kept.resize(n);
  return kept.data();
}

// sums = x (ROWS, words) times one panel. x: row r's word i is x[r * row + i * step].
template <class Kind>
void multiply(const typename Kind::Word* x, int64_t row, int64_t step, const typename Kind::Word* panel, int64_t words,
              vec (&sums)[ROWS][VECTORS]) {
  vec total[ROWS][VECTORS]{};
  for (int64_t i = 0; i < words; i++, panel += PANEL) {
    typename Kind::Weights w[VECTORS];
    for (int v = 0; v < VECTORS; v++) w[v] = Kind::read(panel + v * LANES);
    for (int r = 0; r < ROWS; r++)
      for (int v = 0; v < VECTORS; v++) Kind::add(total[r][v], w[v], x[r * row + i * step]);
  }
  std::copy_n(&total[0][0], ROWS * VECTORS, &sums[0][0]);
}

// One head's (T, D) numbers, `stride` apart, as the right factor of a product.
template <class Kind>
struct Factor {
  using Number = typename Kind::Number;
  using Word = typename Kind::Word;
  std::vector<Word> kept;
  int64_t words;

  // For products with T outputs, summed over channels.
  void of_tokens(const Number* x, int64_t stride, int64_t T, int64_t D) {
    words = D / Kind::INPUTS;
    Word* to = space(kept, panels(T) * words * PANEL);
    std::fill_n(to, panels(T) * words * PANEL, Word{});
    for (int64_t t = 0; t < T; t++) {
      const Word* from = reinterpret_cast<const Word*>(x + t * stride);
      Word* column = to + t / PANEL * words * PANEL + t % PANEL;
      for (int64_t i = 0; i < words; i++) column[i * PANEL] = from[i];
    }
  }

  // For products with D outputs, summed over tokens.
  void of_channels(const Number* x, int64_t stride, int64_t T, int64_t D) {
    words = T / Kind::INPUTS;
    Word* to = space(kept, panels(D) * words * PANEL);
    std::fill_n(to, panels(D) * words * PANEL, Word{});
    for (int64_t i = 0; i < words; i++)
      for (int64_t d = 0; d < D; d += LANES) {
        float rows[2][LANES];
        for (int64_t r = 0; r < Kind::INPUTS; r++) store(rows[r], load(x + (i * Kind::INPUTS + r) * stride + d));
        Kind::interleave(rows[0], rows[1], to + (d / PANEL * words + i) * PANEL + d % PANEL);
      }
  }

  const Word* panel(int64_t p, int64_t word = 0) const { return kept.data() + (p * words + word) * PANEL; }
};

// The keys that a tile of queries may see, from a multiple of PANEL on.
struct Range {
  int64_t begin, end;
  Range(int64_t first_query, int64_t window)
      : begin(std::max<int64_t>(0, first_query + 1 - window) / PANEL * PANEL),
        end(panels(first_query + ROWS) * PANEL) {}
};

// rows (ROWS, T padded) = the first ROWS rows of x times a factor of tokens, for the keys of a range.
template <class Kind>
void scores(const typename Kind::Number* x, int64_t stride, const Factor<Kind>& keys, const Range& range, float* rows,
            int64_t padded_T) {
  using Word = typename Kind::Word;
  for (int64_t s = range.begin; s < range.end; s += PANEL) {
    vec sums[ROWS][VECTORS];
    multiply<Kind>(reinterpret_cast<const Word*>(x), stride / Kind::INPUTS, 1, keys.panel(s / PANEL), keys.words, sums);
    for (int r = 0; r < ROWS; r++)
      for (int v = 0; v < VECTORS; v++) store(rows + r * padded_T + s + v * LANES, sums[r][v]);
  }
}

// Scores of one query to its attention weights, in place; keys that it does not see get 0.
void softmax(float* row, int64_t query, int64_t window, const Range& range, float scale) {
  int_vec lane{};
  for (int i = 0; i < LANES; i++) lane[i] = i;
  const auto seen = [&](int64_t s) {
    const int_vec key = lane + static_cast<int32_t>(s);
    return (key <= static_cast<int32_t>(query)) & (key > static_cast<int32_t>(query - window));
  };
  vec high = vec{} - INFINITY;
  for (int64_t s = range.begin; s < range.end; s += LANES) {
    const vec x = seen(s) ? load(row + s) : vec{} - INFINITY;
    high = x > high ? x : high;
  }
  float highest = high[0];
  for (int i = 1; i < LANES; i++) highest = std::max(highest, high[i]);
  vec total{};
  for (int64_t s = range.begin; s < range.end; s += LANES) {
    vec e = exponential((load(row + s) - highest) * scale);
    e = seen(s) ? e : vec{};
    store(row + s, e);
    total += e;
  }
  const float share = 1.0f / sum(total);
  for (int64_t s = range.begin; s < range.end; s += LANES) store(row + s, load(row + s) * share);
}

// The rows of a tile as the left factor of sums over keys, (ROWS, padded_T) numbers.
template <class Number>
void as_numbers(const float* rows, const Range& range, Number* to, int64_t padded_T) {
  for (int r = 0; r < ROWS; r++)
    for (int64_t s = range.begin; s < range.end; s += LANES) store(to + r * padded_T + s, load(rows + r * padded_T + s));
}

// put(row, channel, vec): ROWS rows of x (numbers, of a range of keys) times a factor of channels.
template <class Kind, class Put>
void combine(const typename Kind::Number* x, int64_t padded_T, const Factor<Kind>& values, const Range& range, int64_t T,
             int64_t D, const Put& put) {
  using Word = typename Kind::Word;
  const int64_t first = range.begin / Kind::INPUTS, last = std::min(range.end, T) / Kind::INPUTS;
  for (int64_t p = 0; p < panels(D); p++) {
    vec sums[ROWS][VECTORS];
    multiply<Kind>(reinterpret_cast<const Word*>(x) + first, padded_T / Kind::INPUTS, 1, values.panel(p, first),
                   last - first, sums);
    for (int r = 0; r < ROWS; r++)
      for (int64_t d = p * PANEL; d < std::min(D, (p + 1) * PANEL); d += LANES)
        put(r, d, sums[r][(d - p * PANEL) / LANES]);
  }
}

struct Shape {
  int64_t B, T, H, K, D, window;
  int64_t padded_T() const { return panels(T) * PANEL; }
  float scale() const { return 1.0f / std::sqrt(static_cast<float>(D)); }
};

// Work(row of the batch, key head) for all of them.
template <class Work>
void for_all(const Shape& s, int threads, const Work& work) {
#pragma omp parallel for num_threads(threads) schedule(dynamic)
  for (int64_t item = 0; item < s.B * s.K; item++) work(item / s.K, item % s.K);
}

template <class Kind>
void forward(const Shape& s, const typename Kind::Number* q, const typename Kind::Number* k,
             const typename Kind::Number* v, typename Kind::Number* y, int threads) {
  using Number = typename Kind::Number;
  const int64_t padded_T = s.padded_T(), wide = s.H * s.D, narrow = s.K * s.D;
  for_all(s, threads, [&](int64_t b, int64_t key_head) {
    thread_local Factor<Kind> keys, values;
    thread_local std::vector<float> kept_rows;
    thread_local std::vector<Number> kept_numbers;
    float* rows = space(kept_rows, ROWS * padded_T);
    Number* numbers = space(kept_numbers, ROWS * padded_T);
    const int64_t at = b * s.T * narrow + key_head * s.D;
    keys.of_tokens(k + at, narrow, s.T, s.D);
    values.of_channels(v + at, narrow, s.T, s.D);
    for (int64_t h = key_head * s.H / s.K; h < (key_head + 1) * s.H / s.K; h++)
      for (int64_t t = 0; t < s.T; t += ROWS) {
        const Range range(t, s.window);
        const int64_t here = (b * s.T + t) * wide + h * s.D;
        scores<Kind>(q + here, wide, keys, range, rows, padded_T);
        for (int r = 0; r < ROWS; r++) softmax(rows + r * padded_T, t + r, s.window, range, s.scale());
        as_numbers(rows, range, numbers, padded_T);
        combine<Kind>(numbers, padded_T, values, range, s.T, s.D,
                      [&](int r, int64_t d, vec x) { store(y + here + r * wide + d, x); });
      }
  });
}

// With weights P = softmax(scale * Q Kᵀ) and Y = P V: dV = Pᵀ dY, dP = dY Vᵀ, dS = scale * P ∘ (dP - rowsum(P ∘ dP)),
// dQ = dS K, dK = dSᵀ Q.
template <class Kind>
void backward(const Shape& s, const typename Kind::Number* q, const typename Kind::Number* k,
              const typename Kind::Number* v, const typename Kind::Number* dy, typename Kind::Number* dq,
              typename Kind::Number* dk, typename Kind::Number* dv, int threads) {
  using Number = typename Kind::Number;
  using Word = typename Kind::Word;
  const int64_t padded_T = s.padded_T(), wide = s.H * s.D, narrow = s.K * s.D;
  for_all(s, threads, [&](int64_t b, int64_t key_head) {
    thread_local Factor<Kind> keys, key_channels, values, query_channels, dy_channels;
    thread_local std::vector<float> kept_p, kept_ds, kept_dk, kept_dv;
    thread_local std::vector<Number> kept_numbers;
    thread_local std::vector<Word> kept_p_words, kept_ds_words;
    float *p = space(kept_p, ROWS * padded_T), *ds = space(kept_ds, ROWS * padded_T);
    Number* numbers = space(kept_numbers, ROWS * padded_T);
    // Of all queries, in words of neighbouring queries: the left factors of sums over queries.
    Word* p_words = space(kept_p_words, s.T / Kind::INPUTS * padded_T);
    Word* ds_words = space(kept_ds_words, s.T / Kind::INPUTS * padded_T);
    float *dk_sum = space(kept_dk, s.T * s.D), *dv_sum = space(kept_dv, s.T * s.D);
    std::fill_n(dk_sum, s.T * s.D, 0.0f);
    std::fill_n(dv_sum, s.T * s.D, 0.0f);
    const int64_t at = b * s.T * narrow + key_head * s.D;
    keys.of_tokens(k + at, narrow, s.T, s.D);
    key_channels.of_channels(k + at, narrow, s.T, s.D);
    values.of_tokens(v + at, narrow, s.T, s.D);
    for (int64_t h = key_head * s.H / s.K; h < (key_head + 1) * s.H / s.K; h++) {
      const int64_t head = b * s.T * wide + h * s.D;
      query_channels.of_channels(q + head, wide, s.T, s.D);
      dy_channels.of_channels(dy + head, wide, s.T, s.D);
      for (int64_t t = 0; t < s.T; t += ROWS) {
        const Range range(t, s.window);
        const int64_t here = head + t * wide;
        scores<Kind>(q + here, wide, keys, range, p, padded_T);
        scores<Kind>(dy + here, wide, values, range, ds, padded_T);
        for (int r = 0; r < ROWS; r++) {
          float *p_row = p + r * padded_T, *ds_row = ds + r * padded_T;
          softmax(p_row, t + r, s.window, range, s.scale());
          vec products{};
          for (int64_t i = range.begin; i < range.end; i += LANES) products += load(p_row + i) * load(ds_row + i);
          const float mean = sum(products);
          for (int64_t i = range.begin; i < range.end; i += LANES)
            store(ds_row + i, load(p_row + i) * (load(ds_row + i) - mean) * s.scale());
        }
        for (int r = 0; r < ROWS; r += Kind::INPUTS)
          for (int64_t i = range.begin; i < range.end; i += LANES) {
            const int64_t to = (t + r) / Kind::INPUTS * padded_T + i, from = r * padded_T + i;
            const int64_t next = from + (Kind::INPUTS - 1) * padded_T;
            Kind::interleave(p + from, p + next, p_words + to);
            Kind::interleave(ds + from, ds + next, ds_words + to);
          }
        as_numbers(ds, range, numbers, padded_T);
        combine<Kind>(numbers, padded_T, key_channels, range, s.T, s.D,
                      [&](int r, int64_t d, vec x) { store(dq + here + r * wide + d, x); });
      }
      for (int64_t key = 0; key < s.T; key += ROWS) {  // queries from this key on, to the end of the last one's window
        const int64_t first = key / Kind::INPUTS, end = std::min(s.T, key + ROWS - 1 + std::min(s.window, s.T));
        const int64_t words = (end + Kind::INPUTS - 1) / Kind::INPUTS - first;
        for (int64_t panel = 0; panel < panels(s.D); panel++) {
          vec of_v[ROWS][VECTORS], of_k[ROWS][VECTORS];
          const int64_t start = first * padded_T + key;
          multiply<Kind>(p_words + start, 1, padded_T, dy_channels.panel(panel, first), words, of_v);
          multiply<Kind>(ds_words + start, 1, padded_T, query_channels.panel(panel, first), words, of_k);
          for (int r = 0; r < ROWS; r++)
            for (int64_t d = panel * PANEL; d < std::min(s.D, (panel + 1) * PANEL); d += LANES) {
              float *to_v = dv_sum + (key + r) * s.D + d, *to_k = dk_sum + (key + r) * s.D + d;
              store(to_v, load(to_v) + of_v[r][(d - panel * PANEL) / LANES]);
              store(to_k, load(to_k) + of_k[r][(d - panel * PANEL) / LANES]);
            }
        }
      }
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

// shape: B, T, H, K, D, window.
void attention_forward_fp32(const int64_t* shape, const float* q, const float* k, const float* v, float* y,
                            int32_t threads) {
  forward<Fp32>(Shape{shape[0], shape[1], shape[2], shape[3], shape[4], shape[5]}, q, k, v, y, threads);
}

void attention_forward_bf16(const int64_t* shape, const bf16_bits* q, const bf16_bits* k, const bf16_bits* v,
                            bf16_bits* y, int32_t threads) {
  forward<Bf16>(Shape{shape[0], shape[1], shape[2], shape[3], shape[4], shape[5]}, q, k, v, y, threads);
}

void attention_backward_fp32(const int64_t* shape, const float* q, const float* k, const float* v, const float* dy,
                             float* dq, float* dk, float* dv, int32_t threads) {
  backward<Fp32>(Shape{shape[0], shape[1], shape[2], shape[3], shape[4], shape[5]}, q, k, v, dy, dq, dk, dv, threads);
}

void attention_backward_bf16(const int64_t* shape, const bf16_bits* q, const bf16_bits* k, const bf16_bits* v,
                             const bf16_bits* dy, bf16_bits* dq, bf16_bits* dk, bf16_bits* dv, int32_t threads) {
  backward<Bf16>(Shape{shape[0], shape[1], shape[2], shape[3], shape[4], shape[5]}, q, k, v, dy, dq, dk, dv, threads);
}
}
