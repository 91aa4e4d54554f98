// The elementwise operators of a training step on a CPU, as nanochat/model/operators.py defines them, forward and
// backward. Each reads and writes memory once, computes in fp32 and rounds its results once.
//
// Numbers lie in rows: the channels of a token or of a head. No result depends on the number of threads.

#include <algorithm>
#include <cstddef>
#include <type_traits>
#include <vector>

#include "vectors.hpp"

namespace {

constexpr int64_t ROWS = 64;  // rows of a block, which one thread computes
constexpr std::integral_constant<int64_t, LANES> WHOLE;

// Vectors of which `count` lanes lie in memory; the others are 0.
template <class Number, class Count>
inline vec load(const Number* p, Count count) {
  if (count == LANES) return load(p);
  Number all[LANES]{};
  std::copy_n(p, static_cast<int64_t>(count), all);
  return load(all);
}

template <class Number, class Count>
inline void store(Number* p, vec v, Count count) {
  if (count == LANES) return store(p, v);
  Number all[LANES];
  store(all, v);
  std::copy_n(all, static_cast<int64_t>(count), p);
}

template <class Number>
inline float scalar(const Number* p) {
  return load(p, int64_t{1})[0];
}

// work(index, count) for the vectors of n numbers; the count is a constant where they are whole.
template <class Work>
inline void for_vectors(int64_t n, const Work& work) {
  int64_t at = 0;
  for (; at + LANES <= n; at += LANES) work(at, WHOLE);
  if (at < n) work(at, n - at);
}

// work(block, row) for the rows of all blocks; those of a block in order.
template <class Work>
void for_rows(int64_t rows, int threads, const Work& work) {
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t block = 0; block < (rows + ROWS - 1) / ROWS; block++)
    for (int64_t row = block * ROWS; row < std::min(rows, (block + 1) * ROWS); row++) work(block, row);
}

// What an operator gets: its inputs and then its outputs, their sizes, and a constant factor.
struct Call {
  void* const* tensors;
  const int64_t* sizes;
  float factor;
  int threads;
  template <class Number>
  const Number* in(int i) const {
    return static_cast<const Number*>(tensors[i]);
  }
  template <class Number>
  Number* out(int i) const {
    return static_cast<Number*>(tensors[i]);
  }
};

template <class Number>
void norm_row(const Number* x, Number* y, int64_t n) {
  vec squares{};
  for_vectors(n, [&](int64_t at, auto count) {
    const vec v = load(x + at, count);
    squares += v * v;
  });
  const float scale = inverse_rms(squares, n);
  for_vectors(n, [&](int64_t at, auto count) { store(y + at, load(x + at, count) * scale, count); });
}

// put(index, count, dx): with y = r x and r = 1 / √(mean(x²) + ε), dx = r dy - x r³ mean(x ∘ dy).
template <class Number, class Put>
void norm_row_gradient(const Number* x, const Number* dy, int64_t n, const Put& put) {
  vec squares{}, products{};
  for_vectors(n, [&](int64_t at, auto count) {
    const vec v = load(x + at, count);
    squares += v * v;
    products += v * load(dy + at, count);
  });
  const float r = inverse_rms(squares, n), share = r * r * (sum(products) / static_cast<float>(n));
  for_vectors(n, [&](int64_t at, auto count) {
    put(at, count, r * (load(dy + at, count) - share * load(x + at, count)));
  });
}

// x → norm(x). Sizes: rows, channels.
template <class Number>
void norm_forward(const Call& c) {
  const int64_t n = c.sizes[1];
  for_rows(c.sizes[0], c.threads,
           [&](int64_t, int64_t row) { norm_row(c.in<Number>(0) + row * n, c.out<Number>(1) + row * n, n); });
}

// x, dy → dx.
template <class Number>
void norm_backward(const Call& c) {
  const int64_t n = c.sizes[1];
  for_rows(c.sizes[0], c.threads, [&](int64_t, int64_t row) {
    Number* to = c.out<Number>(2) + row * n;
    norm_row_gradient(c.in<Number>(0) + row * n, c.in<Number>(1) + row * n, n,
                      [&](int64_t at, auto count, vec dx) { store(to + at, dx, count); });
  });
}

// x, y → x + y, norm(x + y). Sizes: rows, channels.
template <class Number>
void add_norm_forward(const Call& c) {
  const int64_t n = c.sizes[1];
  for_rows(c.sizes[0], c.threads, [&](int64_t, int64_t row) {
    const Number *x = c.in<Number>(0) + row * n, *y = c.in<Number>(1) + row * n;
    Number* total = c.out<Number>(2) + row * n;
    for_vectors(n, [&](int64_t at, auto count) {
      store(total + at, load(x + at, count) + load(y + at, count), count);
    });
    norm_row(total, c.out<Number>(3) + row * n, n);
  });
}

// The sum and the gradients of both results → the gradient of either addend.
template <class Number>
void add_norm_backward(const Call& c) {
  const int64_t n = c.sizes[1];
  for_rows(c.sizes[0], c.threads, [&](int64_t, int64_t row) {
    const Number* passed = c.in<Number>(1) + row * n;
    Number* to = c.out<Number>(3) + row * n;
    norm_row_gradient(
        c.in<Number>(0) + row * n, c.in<Number>(2) + row * n, n,
        [&](int64_t at, auto count, vec dx) { store(to + at, dx + load(passed + at, count), count); });
  });
}

// a, x, b, y → a x + b y and its norm. Sizes: rows, channels.
template <class Number>
void mix_norm_forward(const Call& c) {
  const int64_t n = c.sizes[1];
  const float a = scalar(c.in<Number>(0)), b = scalar(c.in<Number>(2));
  for_rows(c.sizes[0], c.threads, [&](int64_t, int64_t row) {
    const Number *x = c.in<Number>(1) + row * n, *y = c.in<Number>(3) + row * n;
    Number* mixed = c.out<Number>(4) + row * n;
    for_vectors(n, [&](int64_t at, auto count) {
      store(mixed + at, a * load(x + at, count) + b * load(y + at, count), count);
    });
    norm_row(mixed, c.out<Number>(5) + row * n, n);
  });
}

// a, x, b, y, the mix, the gradients of both results → those of a, x, b, y.
template <class Number>
void mix_norm_backward(const Call& c) {
  const int64_t rows = c.sizes[0], n = c.sizes[1];
  const float a = scalar(c.in<Number>(0)), b = scalar(c.in<Number>(2));
  struct Sums {
    vec of_a{}, of_b{};
  };
  std::vector<Sums> blocks((rows + ROWS - 1) / ROWS);
  for_rows(rows, c.threads, [&](int64_t block, int64_t row) {
    const Number *x = c.in<Number>(1) + row * n, *y = c.in<Number>(3) + row * n, *passed = c.in<Number>(5) + row * n;
    Number *dx = c.out<Number>(8) + row * n, *dy = c.out<Number>(10) + row * n;
    Sums sums = blocks[block];
    norm_row_gradient(c.in<Number>(4) + row * n, c.in<Number>(6) + row * n, n,
                      [&](int64_t at, auto count, vec of_norm) {
                        const vec gradient = of_norm + load(passed + at, count);
                        store(dx + at, a * gradient, count);
                        store(dy + at, b * gradient, count);
                        sums.of_a += gradient * load(x + at, count);
                        sums.of_b += gradient * load(y + at, count);
                      });
    blocks[block] = sums;
  });
  double of_a = 0, of_b = 0;
  for (const Sums& sums : blocks) of_a += sum(sums.of_a), of_b += sum(sums.of_b);
  store(c.out<Number>(7), vec{} + static_cast<float>(of_a), int64_t{1});
  store(c.out<Number>(9), vec{} + static_cast<float>(of_b), int64_t{1});
}

// Vectors of a head's first and second half at one index, rotated by the angles of its token.
struct Pair {
  vec first, second;
};

template <class Number, class Count>
inline Pair rotated(const Number* x, int64_t half, const Number* cos, const Number* sin, int64_t at, Count count) {
  const vec u = load(x + at, count), v = load(x + half + at, count);
  const vec c = load(cos + at, count), s = load(sin + at, count);
  return {u * c - v * s, v * c + u * s};
}

// x, cos, sin → factor * norm(rotated x). Sizes: B, T, H, D.
template <class Number>
void rotate_norm_forward(const Call& c) {
  const int64_t T = c.sizes[1], H = c.sizes[2], n = c.sizes[3], half = n / 2;
  for_rows(c.sizes[0] * T * H, c.threads, [&](int64_t, int64_t row) {
    const Number* x = c.in<Number>(0) + row * n;
    const Number *cos = c.in<Number>(1) + row / H % T * half, *sin = c.in<Number>(2) + row / H % T * half;
    Number* y = c.out<Number>(3) + row * n;
    vec squares{};
    for_vectors(half, [&](int64_t at, auto count) {
      const Pair pair = rotated(x, half, cos, sin, at, count);
      squares += pair.first * pair.first + pair.second * pair.second;
    });
    const float scale = c.factor * inverse_rms(squares, n);
    for_vectors(half, [&](int64_t at, auto count) {
      const Pair pair = rotated(x, half, cos, sin, at, count);
      store(y + at, pair.first * scale, count);
      store(y + half + at, pair.second * scale, count);
    });
  });
}

// x, cos, sin, dy → dx: the gradient of the norm, rotated back.
template <class Number>
void rotate_norm_backward(const Call& c) {
  const int64_t T = c.sizes[1], H = c.sizes[2], n = c.sizes[3], half = n / 2;
  for_rows(c.sizes[0] * T * H, c.threads, [&](int64_t, int64_t row) {
    const Number *x = c.in<Number>(0) + row * n, *dy = c.in<Number>(3) + row * n;
    const Number *cos = c.in<Number>(1) + row / H % T * half, *sin = c.in<Number>(2) + row / H % T * half;
    Number* dx = c.out<Number>(4) + row * n;
    vec squares{}, products{};
    for_vectors(half, [&](int64_t at, auto count) {
      const Pair pair = rotated(x, half, cos, sin, at, count);
      squares += pair.first * pair.first + pair.second * pair.second;
      products += pair.first * load(dy + at, count) + pair.second * load(dy + half + at, count);
    });
    const float r = inverse_rms(squares, n), share = r * r * (sum(products) / static_cast<float>(n));
    for_vectors(half, [&](int64_t at, auto count) {
      const Pair pair = rotated(x, half, cos, sin, at, count);
      const vec u = c.factor * r * (load(dy + at, count) - share * pair.first);
      const vec v = c.factor * r * (load(dy + half + at, count) - share * pair.second);
      const vec cosine = load(cos + at, count), sine = load(sin + at, count);
      store(dx + at, u * cosine + v * sine, count);
      store(dx + half + at, v * cosine - u * sine, count);
    });
  });
}

// max(x, 0), and NaN where x is NaN, as training looks for it.
inline vec positive(vec x) { return x < 0.0f ? vec{} : x; }

// x → max(x, 0)². Sizes: rows, columns.
template <class Number>
void relu_squared_forward(const Call& c) {
  const int64_t n = c.sizes[1];
  for_rows(c.sizes[0], c.threads, [&](int64_t, int64_t row) {
    for_vectors(n, [&](int64_t at, auto count) {
      const vec x = positive(load(c.in<Number>(0) + row * n + at, count));
      store(c.out<Number>(1) + row * n + at, x * x, count);
    });
  });
}

// x, dy → dx.
template <class Number>
void relu_squared_backward(const Call& c) {
  const int64_t n = c.sizes[1];
  for_rows(c.sizes[0], c.threads, [&](int64_t, int64_t row) {
    for_vectors(n, [&](int64_t at, auto count) {
      const vec x = positive(load(c.in<Number>(0) + row * n + at, count));
      store(c.out<Number>(2) + row * n + at, 2.0f * x * load(c.in<Number>(1) + row * n + at, count), count);
    });
  });
}

}  // namespace

#define EXPORT(NAME)                                                                                          \
  extern "C" void NAME##_fp32(void* const* tensors, const int64_t* sizes, float factor, int32_t threads) {    \
    NAME<float>({tensors, sizes, factor, threads});                                                           \
  }                                                                                                           \
  extern "C" void NAME##_bf16(void* const* tensors, const int64_t* sizes, float factor, int32_t threads) {    \
    NAME<bf16_bits>({tensors, sizes, factor, threads});                                                       \
  }

EXPORT(norm_forward)
EXPORT(norm_backward)
EXPORT(add_norm_forward)
EXPORT(add_norm_backward)
EXPORT(mix_norm_forward)
EXPORT(mix_norm_backward)
EXPORT(rotate_norm_forward)
EXPORT(rotate_norm_backward)
EXPORT(relu_squared_forward)
EXPORT(relu_squared_backward)
