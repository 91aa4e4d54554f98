// Products of a few vectors with matrices packed in fp32, bf16 or int8, which are read once for several vectors.

#pragma once

#include <algorithm>
#include <cstddef>
#include <type_traits>
#include <vector>

#include "team.hpp"
#include "vectors.hpp"

extern "C" {

// Weights in panels of 64 outputs, (panels, inputs, 64); the last panel is filled up with zeros.
struct Matrix {
  const void* weights;
  const float* scales;  // of each output, for INT8
  int32_t kind, inputs, outputs;
};
}

namespace {

constexpr int ROWS = 6;     // tokens computed together, whose sums fit the registers
constexpr int STORED = 64;  // outputs of a panel of weights, computed PANEL at a time

enum Kind : int32_t { FP32, BF16, INT8 };

inline float inverse_rms(const float* x, int n) {
  vec squares{};
  for (int i = 0; i < n; i += LANES) squares += load(x + i) * load(x + i);
  return inverse_rms(squares, n);
}

// The kinds of weights: how the weights of PANEL outputs, from one on, are read for one input, or for INPUTS at once, and
// multiplied. They lie as floats, or in words of two bf16 or four int8: WORDS of them for each input and stored panel. `In`
// is what the inputs of a token are converted to beforehand.
struct Fp32Panel {
  static constexpr int INPUTS = 1, WORDS = STORED;
  using In = float;
  using Weights = vec[VECTORS];
  static void read(const uint32_t* words, int output, Weights& w) {
    for (int v = 0; v < VECTORS; v++) w[v] = load(reinterpret_cast<const float*>(words) + output + v * LANES);
  }
  static void add(vec& total, const vec& w, float in) { total += w * in; }
};

struct Int8Panel {
  static constexpr int INPUTS = 1, WORDS = STORED / 4;  // the byte b of word i belongs to output i + WORDS * b
  using In = float;
  using Weights = vec[VECTORS];
  static void read(const uint32_t* words, int output, Weights& w) {
    for (int v = 0; v < VECTORS; v++) {
      const int at = output + v * LANES;
      const int_vec four = *reinterpret_cast<const int_vec*>(words + at % WORDS);
      w[v] = __builtin_convertvector(four << (24 - 8 * (at / WORDS)) >> 24, vec);
    }
  }
  static void add(vec& total, const vec& w, float in) { total += w * in; }
};

// Inputs are rounded to bf16 as well, so that processors with bf16 units multiply two pairs at once.
struct Bf16Panel {
  static constexpr int INPUTS = 2, WORDS = STORED;
  using In = uint32_t;  // input i, and i + half of all
  using Weights = word_vec[VECTORS];
  static void read(const uint32_t* words, int output, Weights& w) {
    for (int v = 0; v < VECTORS; v++) w[v] = *reinterpret_cast<const word_vec*>(words + output + v * LANES);
  }
  static void add(vec& total, const word_vec& w, uint32_t in) { add_pairs(total, w, in); }
};

// Whether a panel takes inputs as they are; otherwise they are converted, and normalised before that.
template <class Panel>
constexpr bool AS_THEY_ARE = std::is_same_v<typename Panel::In, float>;

// The inputs of n tokens as a panel's add takes them, in this thread's own space if they are converted.
template <class Panel>
const typename Panel::In* converted(const float* x, int64_t n, int inputs, bool normalised) {
  if constexpr (AS_THEY_ARE<Panel>) {
    return x;
  } else {
    thread_local std::vector<uint32_t> kept;
    uint32_t* const words = space(kept, n * inputs / 2);
    float* pairs = reinterpret_cast<float*>(words);
    const int half = inputs / 2;
    for (int64_t t = 0; t < n; t++, x += inputs, pairs += half) {
      const float scale = normalised ? inverse_rms(x, inputs) : 1.0f;
      int i = 0;
      for (; i + LANES <= half; i += LANES)
        store(pairs + i, (vec)(bf16(load(x + i) * scale) | bf16(load(x + i + half) * scale) << 16));
      for (; i < half; i++)  // half a vector is left
        words[t * half + i] = bf16(vec{} + x[i] * scale)[0] | bf16(vec{} + x[i + half] * scale)[0] << 16;
    }
    return words;
  }
}

// PANEL outputs of a stored panel, from one on, for N tokens. Every output is summed over the inputs in their order,
// whatever N is.
template <int N, class Panel>
void multiply_tile(const typename Panel::In* x, const Matrix& m, int64_t panel, int output, vec (*total)[VECTORS]) {
  const uint32_t* words = static_cast<const uint32_t*>(m.weights) + panel * (m.inputs / Panel::INPUTS) * Panel::WORDS;
  const int inputs = m.inputs / Panel::INPUTS;
  vec sums[N][VECTORS]{};
  for (int i = 0; i < inputs; i++, words += Panel::WORDS) {
    typename Panel::Weights w;
    Panel::read(words, output, w);
    for (int r = 0; r < N; r++)
      for (int v = 0; v < VECTORS; v++) Panel::add(sums[r][v], w[v], x[r * inputs + i]);
  }
  for (int r = 0; r < N; r++)
    for (int v = 0; v < VECTORS; v++) total[r][v] = sums[r][v];
}

template <class Panel>
constexpr void (*MULTIPLY_TILE[])(const typename Panel::In*, const Matrix&, int64_t, int, vec (*)[VECTORS]) = {
    nullptr,
    multiply_tile<1, Panel>,
    multiply_tile<2, Panel>,
    multiply_tile<3, Panel>,
    multiply_tile<4, Panel>,
    multiply_tile<5, Panel>,
    multiply_tile<6, Panel>,
};

// A stored panel's outputs for `count` tokens from `first` on, for put(token, output, vec). x and `in`: theirs, as they
// are and converted.
template <class Panel, class Put>
void multiply_panel(const float* x, const typename Panel::In* in, int64_t first, int64_t count, const Matrix& m,
                    int64_t panel, bool normalised, const Put& put) {
  float scale[ROWS];
  for (int64_t r = 0; r < count; r++)
    scale[r] = normalised && AS_THEY_ARE<Panel> ? inverse_rms(x + r * m.inputs, m.inputs) : 1.0f;
  for (int output = 0; output < STORED && panel * STORED + output < m.outputs; output += PANEL) {
    vec total[ROWS][VECTORS];
    MULTIPLY_TILE<Panel>[count](in, m, panel, output, total);
    for (int64_t r = 0; r < count; r++)
      for (int v = 0; v < VECTORS; v++) {
        const int64_t at = panel * STORED + output + v * LANES;
        const vec scales = m.scales ? load(m.scales + at) * scale[r] : vec{} + scale[r];
        if (at < m.outputs) put(first + r, at, total[r][v] * scales);
      }
  }
}

template <class Panel, class Workers, class Put>
void multiply_panels(Workers& workers, const float* x, int64_t n, const Matrix& m, bool normalised, const Put& put) {
  const int64_t tiles = (n + ROWS - 1) / ROWS, panels = (m.outputs + STORED - 1) / STORED;
  const int64_t parts = std::min<int64_t>(tiles, (workers.threads * UNITS_PER_THREAD + panels - 1) / panels);
  const auto begin_of = [&](int64_t tile) { return tile * n / tiles; };
  workers.run_ranges(panels * parts, [&](int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end;) {  // the panels of one part of the tokens after another
      const int64_t part = item / panels, last = std::min(end, (part + 1) * panels);
      const int64_t first_tile = part * tiles / parts, last_tile = (part + 1) * tiles / parts;
      const int64_t start = begin_of(first_tile);
      const auto* in = converted<Panel>(x + start * m.inputs, begin_of(last_tile) - start, m.inputs, normalised);
      for (; item < last; item++)
        for (int64_t tile = first_tile; tile < last_tile; tile++) {
          const int64_t first = begin_of(tile), count = begin_of(tile + 1) - first;
          const auto* own = in + (first - start) * (m.inputs / Panel::INPUTS);
          multiply_panel<Panel>(x + first * m.inputs, own, first, count, m, item % panels, normalised, put);
        }
    }
  });
}

// The product of a matrix with n vectors x, or with x / rms(x). put(token, output, vec) receives LANES outputs at a time.
template <class Workers, class Put>
void multiply(Workers& workers, const float* x, int64_t n, const Matrix& m, bool normalised, const Put& put) {
  switch (m.kind) {
    case FP32: return multiply_panels<Fp32Panel>(workers, x, n, m, normalised, put);
    case BF16: return multiply_panels<Bf16Panel>(workers, x, n, m, normalised, put);
    default: return multiply_panels<Int8Panel>(workers, x, n, m, normalised, put);
  }
}

}  // namespace
