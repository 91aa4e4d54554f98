// A GPT's hidden states and logits for decoding on a CPU; nanochat/infer/native_decoder.py lays out the weights and
// calls this.
//
// The arithmetic is that of nanochat/infer/torch_decoder.py, in one call instead of a thousand. A token is computed in
// the same order whatever else is in the batch, so its result does not depend on the batch, bit for bit.
//
// Sizes: n tokens of a batch, C model width, H query heads, K key heads, D head channels, U channels of the MLP,
// V vocabulary. C, D and U are multiples of 16.

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <numeric>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#include "vectors.hpp"

namespace {

constexpr int ROWS = 6;                    // tokens computed together, whose sums fit the registers
constexpr int STORED = 64;                 // outputs of a panel of weights, computed PANEL at a time
constexpr int64_t CACHED_BYTES = 8 << 20;  // weights that are quick for every thread to read (docs/log.md)
constexpr int GROUP = 4;                   // rows that decode ahead together, whose keys fit a near cache (docs/log.md)
constexpr int UNITS_PER_THREAD = 3;        // into which work is divided, so that none waits long for the last

enum Kind : int32_t { FP32, BF16, INT8 };

}  // namespace

extern "C" {

// Weights in panels of 64 outputs, (panels, inputs, 64); the last panel is filled up with zeros.
struct Matrix {
  const void* weights;
  const float* scales;  // of each output, for INT8
  int32_t kind, inputs, outputs;
};

struct Layer {
  Matrix qkv, out, up, down;      // qkv: H queries, K keys, K values, then the value gates if there are any
  const float* value_embeddings;  // (V, K * D), or null
  void *keys, *values;            // the cache, (rows, K, slots, D)
  int32_t window;
  float stream_scale, embedding_scale;
};

// How to sample a row: from its top_k likeliest tokens (0: greedy; V or more: all), of these the nucleus top_p and those
// with min_p of the best one's probability.
struct Choice {
  float temperature, top_p, min_p;
  int32_t top_k;
};

// What is added to the logit of a token.
struct Bias {
  int32_t token;
  float value;
};

// Rows that decode up to `most` tokens each, and the results; the tables of results and random numbers are (rows, most).
struct Ahead {
  const int64_t *ids, *previous, *rows, *positions;  // the latest token of each row, as for hidden_states
  const int64_t* limits;                             // of each row's tokens, from 1 to `most`
  const Choice* choices;
  const Bias* biases;  // of all rows, one row after another
  const int64_t* bias_ends;
  const float* uniforms;
  const int64_t* last_ids;  // a row that chooses one of these stops
  int64_t last_count, most;
  int64_t *tokens, *counts;
  float *chosen, *sums;  // the tokens' logits without biases, and as log_sums; null if nobody asks
};

struct Model {
  const Layer* layers;
  Matrix head;
  const float *embeddings, *smear, *cos, *sin;  // (V, C), (V) or null, (positions, D), (positions, D)
  int32_t n_layer, width, heads, kv_heads, head_dim, mlp_width, middle_layer, slots;
  int64_t weight_bytes;  // of all layers
  int32_t bf16_cache;    // its cells are bf16, not floats
  float attention_scale, gate_scale, backout, softcap;
};
}

namespace {

// Threads that share out the units of one job after another. Nobody waits for a thread to arrive, only for units that
// a thread has begun, so that on a busy machine the running threads do the work of those that are not.
class Team {
 public:
  const int threads;
  std::mutex busy;  // one model computes at a time

  explicit Team(int threads) : threads(threads) {
    for (int i = 1; i < threads; i++) std::thread([this] { help(); }).detach();
  }

  // Call job(begin, end) for ranges that make up all items, and return when all calls have returned.
  template <class Job>
  void run_ranges(uint64_t items, const Job& job) {
    const uint64_t units = std::min<uint64_t>(items, threads * UNITS_PER_THREAD);
    share(units, [&](uint64_t unit) { job(unit * items / units, (unit + 1) * items / units); });
  }

  // The same with job(item) for every item.
  template <class Job>
  void run(uint64_t items, const Job& job) {
    run_ranges(items, [&](uint64_t begin, uint64_t end) {
      for (uint64_t item = begin; item < end; item++) job(item);
    });
  }

  // Call range(unit) for every unit, of which there are fewer than 4096, and return when all calls have returned.
  template <class Range>
  void share(uint64_t units, const Range& range) {
    const uint64_t number = next_number();
    Slot& slot = slots[number % 2];
    slot.call = [](const void* job, uint64_t unit) { (*static_cast<const Range*>(job))(unit); };
    slot.job = &range;
    slot.ended.store(0, std::memory_order_relaxed);
    ticket.store(number << 2 * FIELD | units << FIELD, std::memory_order_release);
    ticket.notify_all();
    work();
    while (slot.ended.load(std::memory_order_acquire) < units) relax();
  }

  // Wake threads that sleep: the next job is about to come. An empty job does.
  void wake() {
    ticket.store(next_number() << 2 * FIELD, std::memory_order_release);
    ticket.notify_all();
  }

 private:
  // A ticket is (number of the job: 40 bits, its units: 12, the next unit: 12); taking a unit adds one.
  static constexpr int FIELD = 12;
  static constexpr uint64_t MASK = (1 << FIELD) - 1;
  static constexpr int SPINS = 2000;  // some forty microseconds; more would take the cores from others

  struct Slot {
    void (*call)(const void* job, uint64_t unit);
    const void* job;
    alignas(64) std::atomic<uint64_t> ended;
  };

  uint64_t next_number() const { return (ticket.load(std::memory_order_relaxed) >> 2 * FIELD) + 1; }

  // Do units of the present job until all have been taken.
  void work() {
    while (true) {
      uint64_t taken = ticket.load(std::memory_order_relaxed);
      if ((taken & MASK) >= (taken >> FIELD & MASK)) return;
      taken = ticket.fetch_add(1, std::memory_order_acq_rel);
      const uint64_t unit = taken & MASK;
      if (unit >= (taken >> FIELD & MASK)) return;
      Slot& slot = slots[(taken >> 2 * FIELD) % 2];  // kept until this unit has ended
      slot.call(slot.job, unit);
      slot.ended.fetch_add(1, std::memory_order_release);
    }
  }

  void help() {
    while (true) {
      work();
      const uint64_t seen = ticket.load(std::memory_order_relaxed);
      int spins = SPINS;
      while (spins && ticket.load(std::memory_order_relaxed) >> 2 * FIELD == seen >> 2 * FIELD) relax(), spins--;
      if (!spins) ticket.wait(seen);
    }
  }

  static void relax() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
  }

  alignas(64) std::atomic<uint64_t> ticket{0};
  alignas(64) Slot slots[2];
};

// The calling thread by itself, as a team.
struct Alone {
  static constexpr int threads = 1;

  template <class Job>
  void run_ranges(uint64_t items, const Job& job) const {
    job(0, items);
  }

  template <class Job>
  void run(uint64_t items, const Job& job) const {
    for (uint64_t item = 0; item < items; item++) job(item);
  }
};

Team* team;  // never destroyed: its threads run until the process ends

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

inline float inverse_rms(const float* x, int n) {
  vec squares{};
  for (int i = 0; i < n; i += LANES) squares += load(x + i) * load(x + i);
  return 1.0f / std::sqrt(sum(squares) / n + 1.1920929e-7f);
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
    thread_local std::vector<uint32_t> space;
    space.resize(std::max<size_t>(space.size(), n * inputs / 2));
    float* pairs = reinterpret_cast<float*>(space.data());
    const int half = inputs / 2;
    for (int64_t t = 0; t < n; t++, x += inputs, pairs += half) {
      const float scale = normalised ? inverse_rms(x, inputs) : 1.0f;
      int i = 0;
      for (; i + LANES <= half; i += LANES)
        store(pairs + i, (vec)(bf16(load(x + i) * scale) | bf16(load(x + i + half) * scale) << 16));
      for (; i < half; i++)  // half a vector is left
        space[t * half + i] = bf16(vec{} + x[i] * scale)[0] | bf16(vec{} + x[i + half] * scale)[0] << 16;
    }
    return space.data();
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
      for (; item < last; item++) {
        for (int64_t tile = first_tile; tile < last_tile; tile++) {
          const int64_t first = begin_of(tile), count = begin_of(tile + 1) - first, panel = item % panels;
          float scale[ROWS];
          for (int64_t r = 0; r < count; r++) {
            const bool scaled = normalised && AS_THEY_ARE<Panel>;
            scale[r] = scaled ? inverse_rms(x + (first + r) * m.inputs, m.inputs) : 1.0f;
          }
          for (int output = 0; output < STORED && panel * STORED + output < m.outputs; output += PANEL) {
            vec total[ROWS][VECTORS];
            MULTIPLY_TILE<Panel>[count](in + (first - start) * (m.inputs / Panel::INPUTS), m, panel, output, total);
            for (int64_t r = 0; r < count; r++)
              for (int v = 0; v < VECTORS; v++) {
                const int64_t at = panel * STORED + output + v * LANES;
                const vec scales = m.scales ? load(m.scales + at) * scale[r] : vec{} + scale[r];
                if (at < m.outputs) put(first + r, at, total[r][v] * scales);
              }
          }
        }
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

// Normalise and rotate one head's channels (RoPE) in place. sin has the sign that each half takes.
inline void rotate(float* x, const float* cos, const float* sin, int D) {
  const float scale = inverse_rms(x, D);
  const int half = D / 2;
  for (int i = 0; i < half; i++) {
    const float a = x[i] * scale, b = x[i + half] * scale;
    x[i] = a * cos[i] + b * sin[i];
    x[i + half] = b * cos[i + half] + a * sin[i + half];
  }
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

// The products of a query with LANES keys. stride(j): from key j to the next one.
template <class Cells, class Stride, class Cell = typename Cells::Cell>
inline vec multiply_keys(const Cell* q, const Cell* k, int D, const Stride& stride) {
  vec products[LANES]{};
  int i = 0;
  for (; i + Cells::CHANNELS <= D; i += Cells::CHANNELS) {
    const Cell* key = k + i;
    for (int j = 0; j < LANES; key += stride(j++)) Cells::template add<Cells::CHANNELS>(products[j], q + i, key);
  }
  if (i < D) {
    const Cell* key = k + i;
    for (int j = 0; j < LANES; key += stride(j++)) Cells::template add<Cells::HALF>(products[j], q + i, key);
  }
  return sums(products);
}

// Attention of one query to `count` slots.
template <class Cells, class Cell = typename Cells::Cell>
void attend(const float* q, const Cell* k, const Cell* v, int64_t count, int D, float scale, float* y) {
  thread_local std::vector<float> space;
  thread_local std::vector<Cell> cells;
  space.resize(std::max<size_t>(space.size(), padded(count)));
  cells.resize(std::max<size_t>(cells.size(), padded(count) + D));
  float* scores = space.data();
  Cell *query = cells.data(), *weights = query + D;
  for (int i = 0; i < D; i += LANES) store(query + i, load(q + i));
  vec high = vec{} - INFINITY;
  for (int64_t s = 0; s < count; s += LANES) {
    const int64_t left = count - s;  // a slot that stands in for one beyond the last changes nothing
    const auto multiply = [&](const auto& stride) { return multiply_keys<Cells>(query, k + s * D, D, stride); };
    const vec each = scale * (left >= LANES ? multiply([&](int) { return D; })
                                            : multiply([&](int j) { return j + 1 < left ? D : 0; }));
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

// The k-th highest of `count` values, a multiple of 16; -inf if fewer are numbers. Bisects the floats by their order, which
// takes as long for any values; a sort's branches would be predicted badly.
float kth_highest(const float* values, int64_t count, int64_t k) {
  const auto number = [](int64_t place) {
    const int32_t bits = static_cast<int32_t>(place);
    return std::bit_cast<float>(bits >= 0 ? bits : bits ^ 0x7fffffff);
  };
  const auto place_of = [](float value) -> int64_t {
    const int32_t bits = std::bit_cast<int32_t>(value);
    return bits >= 0 ? bits : bits ^ 0x7fffffff;
  };
  int64_t reached = place_of(-INFINITY), beyond = place_of(INFINITY) + 1;  // by k values, and by fewer
  while (beyond - reached > 1) {
    const int64_t middle = (reached + beyond) >> 1;
    const vec least = vec{} + number(middle);
    int_vec counts{};
    for (int64_t at = 0; at < count; at += LANES) counts -= load(values + at) >= least;
    int64_t higher = 0;
    for (int lane = 0; lane < LANES; lane++) higher += counts[lane];
    (higher >= k ? reached : beyond) = middle;
  }
  return number(reached);
}

struct Candidate {
  float value;
  float weight;  // its probability relative to the likeliest token's
  int64_t id;
};

// A value that at least k <= vocab of the logits reach, and few more: the k-th highest of the maxima of disjoint groups.
float reached_by(const float* logits, int64_t vocab, int64_t k) {
  constexpr int GROUPS = 4;  // for each of the k
  thread_local std::vector<float> highest;
  const int64_t vectors = vocab / LANES, wanted = (GROUPS * k + LANES - 1) / LANES;
  if (vectors < wanted) return -INFINITY;
  highest.resize(wanted * LANES);
  for (int64_t group = 0; group < wanted; group++) {
    vec most = vec{} - INFINITY;
    for (int64_t at = group * vectors / wanted; at < (group + 1) * vectors / wanted; at++) {
      const vec each = load(logits + at * LANES);
      most = each > most ? each : most;
    }
    store(highest.data() + group * LANES, most);
  }
  return kth_highest(highest.data(), std::ssize(highest), k);
}

// All tokens whose logit reaches a value, by id.
void find_reaching(const float* logits, int64_t vocab, float value, std::vector<Candidate>& found) {
  found.clear();
  int64_t block = 0;
  for (; block + LANES <= vocab; block += LANES)
    for (uint32_t lanes = reaching(load(logits + block), value); lanes; lanes &= lanes - 1) {
      const int64_t id = block + std::countr_zero(lanes);
      found.push_back({logits[id], 0.0f, id});
    }
  for (int64_t id = block; id < vocab; id++)
    if (logits[id] >= value) found.push_back({logits[id], 0.0f, id});
}

// The weights e^((logit - highest) * sharpness) of a row of logits, LANES at a time; beyond the vocabulary they are 0.
struct RowWeights {
  const float* logits;
  int64_t vocab;
  float highest = -INFINITY, sharpness;

  RowWeights(const float* logits, int64_t vocab, float sharpness) : logits(logits), vocab(vocab), sharpness(sharpness) {
    vec most = vec{} - INFINITY;
    for (int64_t id = 0; id < vocab; id += LANES) {
      const vec each = read(id);
      most = each > most ? each : most;
    }
    highest = greatest(most);
  }

  vec read(int64_t id) const {
    if (id + LANES <= vocab) return load(logits + id);
    vec last = vec{} - INFINITY;
    for (int64_t lane = 0; id + lane < vocab; lane++) last[lane] = logits[id + lane];
    return last;
  }

  vec at(int64_t id) const {
    const vec x = (read(id) - highest) * sharpness;
    return x < -87.0f ? vec{} : exponential(x);
  }

  float sum_between(int64_t id, int64_t end) const {
    vec total{};
    for (; id < end; id += LANES) total += at(id);
    return sum(total);
  }
};

// A token of all: the first at which the sum of the weights so far exceeds its share `uniform` of their total.
int64_t draw_of_all(const float* logits, int64_t vocab, float temperature, float uniform) {
  constexpr int64_t BLOCK = 16 * LANES;
  thread_local std::vector<float> sums;
  const RowWeights weights(logits, vocab, 1.0f / temperature);
  float total = 0.0f;
  sums.clear();
  for (int64_t id = 0; id < vocab; id += BLOCK) {
    sums.push_back(weights.sum_between(id, std::min(vocab, id + BLOCK)));
    total += sums.back();
  }
  const float share = uniform * total;
  float before = 0.0f;
  int64_t block = 0, last = 0;
  for (; block + 1 < std::ssize(sums) && share >= before + sums[block]; block++) before += sums[block];
  for (int64_t id = block * BLOCK; id < vocab; id += LANES) {
    const vec each = weights.at(id);
    for (int lane = 0; lane < LANES; lane++) {
      if (each[lane] > 0.0f) last = id + lane;
      if (share < (before += each[lane])) return last;
    }
  }
  return last;  // by rounding, the tokens of the block sum up to less than the block
}

// Tokens of a nucleus, and those whose weight min_p allows, of candidates from the likeliest one on.
void truncate(std::vector<Candidate>& best, size_t limit, const Choice& choice) {
  float total = 0.0f, before = 0.0f;
  size_t kept = 0;
  for (size_t at = 0; at < limit; at++) total += best[at].weight;
  for (; kept < limit && best[kept].weight >= choice.min_p; kept++) {
    if (choice.top_p < 1.0f && !(before < choice.top_p * total)) break;
    before += best[kept].weight;
  }
  best.resize(std::max<size_t>(kept, 1));
}

int64_t choose_row(const float* logits, int64_t vocab, const Choice& choice, float uniform) {
  thread_local std::vector<Candidate> found, best;
  thread_local std::vector<float> values;
  const bool truncated = choice.top_p < 1.0f || choice.min_p > 0.0f;
  if (choice.top_k >= vocab && !truncated) return draw_of_all(logits, vocab, choice.temperature, uniform);
  const int64_t k = std::clamp<int64_t>(choice.top_k, 1, vocab);
  find_reaching(logits, vocab, reached_by(logits, vocab, k), found);
  if (found.empty()) return 0;  // every logit is NaN
  const auto likelier = [](const Candidate& a, const Candidate& b) {
    return a.value > b.value || (a.value == b.value && a.id < b.id);
  };
  const Candidate likeliest = *std::min_element(found.begin(), found.end(), likelier);
  if (choice.top_k == 0) return likeliest.id;
  for (Candidate& each : found) each.weight = std::exp((each.value - likeliest.value) / choice.temperature);

  const size_t limit = std::min<size_t>(k, found.size());
  float least;  // tokens as likely as the last one are kept, too
  if (truncated) {
    best = found;
    std::sort(best.begin(), best.end(), likelier);
    truncate(best, limit, choice);
    least = best.back().value;
  } else {
    values.assign(padded(found.size()), -INFINITY);
    for (size_t at = 0; at < found.size(); at++) values[at] = found[at].value;
    least = kth_highest(values.data(), std::ssize(values), limit);
  }
  std::erase_if(found, [&](const Candidate& each) { return each.value < least; });

  float sum = 0.0f;
  for (const Candidate& each : found) sum += each.weight;
  const float share = uniform * sum;
  sum = 0.0f;
  for (const Candidate& each : found)
    if (share < (sum += each.weight)) return each.id;
  return found.back().id;
}

// Where the intermediate results of n tokens lie in the work space.
struct Work {
  float *x, *x0, *middle, *qkv, *attended, *up;
  int qkv_stride;
  int64_t floats;

  Work(const Model& m, int64_t n, float* start) {
    const int qkv_outputs = (m.heads + 2 * m.kv_heads) * m.head_dim + m.kv_heads;
    qkv_stride = padded(qkv_outputs);
    x = start;
    x0 = x + n * m.width;
    middle = x0 + n * m.width;
    qkv = middle + n * m.width;
    attended = qkv + n * qkv_stride;
    up = attended + n * m.heads * m.head_dim;
    floats = up + n * m.mlp_width - start;
  }
};

// As `hidden_states` below.
template <class Cells, class Workers>
void run_layers(Workers& workers, const Model& m, int64_t n, const int64_t* ids, const int64_t* previous,
                const int64_t* rows, const int64_t* positions, int64_t wanted, const int64_t* which, float* work_space,
                float* hidden) {
  using Cell = typename Cells::Cell;
  const int C = m.width, H = m.heads, K = m.kv_heads, D = m.head_dim, U = m.mlp_width;
  const Work w(m, n, work_space);
  std::vector<int64_t> kept_rows(wanted), kept_positions(wanted);

  workers.run(n, [&](int64_t t) {
    const float smear = m.smear && positions[t] > 0 ? m.smear[ids[t]] : 0.0f;
    for (int i = 0; i < C; i += LANES) {
      vec e = load(m.embeddings + ids[t] * C + i);
      if (smear != 0.0f) e += load(m.embeddings + previous[t] * C + i) * smear;
      store(w.x0 + t * C + i, e);
      store(w.middle + t * C + i, e);
      store(w.x + t * C + i, e * m.layers[0].stream_scale + e * m.layers[0].embedding_scale);
    }
  });
  for (int at = 0; at < m.n_layer; at++) {
    const Layer& layer = m.layers[at];
    multiply(workers, w.x, n, layer.qkv, true, [&](int64_t t, int64_t o, vec y) {
      store(w.qkv + t * w.qkv_stride + o, y);
    });
    Cell *const keys = static_cast<Cell*>(layer.keys), *const values = static_cast<Cell*>(layer.values);
    workers.run(n * K, [&](int64_t item) {
      const int64_t t = item / K, h = item % K, slot = ((rows[t] * K + h) * m.slots + positions[t]) * D;
      const float *cos = m.cos + positions[t] * D, *sin = m.sin + positions[t] * D;
      float* qkv = w.qkv + t * w.qkv_stride;
      float* k = qkv + (H + h) * D;
      for (int64_t q = h * H / K; q < (h + 1) * H / K; q++) rotate(qkv + q * D, cos, sin, D);
      rotate(k, cos, sin, D);
      const float* v = qkv + (H + K + h) * D;
      const float* embedding = layer.value_embeddings ? layer.value_embeddings + (ids[t] * K + h) * D : nullptr;
      const float gate = embedding ? m.gate_scale / (1.0f + std::exp(-qkv[(H + 2 * K) * D + h])) : 0.0f;
      for (int i = 0; i < D; i += LANES) {
        store(keys + slot + i, load(k + i));
        store(values + slot + i, embedding ? load(v + i) + load(embedding + i) * gate : load(v + i));
      }
    });
    if (at + 1 == m.n_layer && wanted < n) {
      for (int64_t t = 0; t < wanted; t++) {
        kept_rows[t] = rows[which[t]], kept_positions[t] = positions[which[t]];
        for (float* table : {w.x, w.x0, w.middle}) std::copy_n(table + which[t] * C, C, table + t * C);
        std::copy_n(w.qkv + which[t] * w.qkv_stride, w.qkv_stride, w.qkv + t * w.qkv_stride);
      }
      n = wanted, rows = kept_rows.data(), positions = kept_positions.data();
    }
    workers.run(n * H, [&](int64_t item) {
      const int64_t t = item / H, h = item % H, first = std::max<int64_t>(0, positions[t] + 1 - layer.window);
      const int64_t slot = ((rows[t] * K + h * K / H) * m.slots + first) * D;
      attend<Cells>(w.qkv + t * w.qkv_stride + h * D, keys + slot, values + slot, positions[t] + 1 - first, D,
             m.attention_scale, w.attended + item * D);
    });
    multiply(workers, w.attended, n, layer.out, false, [&](int64_t t, int64_t o, vec y) {
      store(w.x + t * C + o, load(w.x + t * C + o) + y);
    });
    multiply(workers, w.x, n, layer.up, true, [&](int64_t t, int64_t o, vec y) {
      y = y > 0.0f ? y : vec{};
      store(w.up + t * U + o, y * y);
    });
    const bool last = at + 1 == m.n_layer, at_middle = at + 1 == m.middle_layer;
    const float stream = last ? 1.0f : m.layers[at + 1].stream_scale;
    const float embedding = last ? 0.0f : m.layers[at + 1].embedding_scale;
    multiply(workers, w.up, n, layer.down, false, [&](int64_t t, int64_t o, vec y) {
      y += load(w.x + t * C + o);
      if (at_middle) store(w.middle + t * C + o, y);
      store(w.x + t * C + o, y * stream + load(w.x0 + t * C + o) * embedding);
    });
  }
  workers.run(n, [&](int64_t t) {
    float* x = w.x + t * C;
    for (int i = 0; i < C; i += LANES) store(x + i, load(x + i) - load(w.middle + t * C + i) * m.backout);
    const float scale = inverse_rms(x, C);
    for (int i = 0; i < C; i += LANES) store(hidden + t * C + i, load(x + i) * scale);
  });
}

// Soft-capped logits of n hidden states, (n, V rounded up to a multiple of 16).
template <class Workers>
void compute_logits(Workers& workers, const Model& m, int64_t n, const float* hidden, float* out) {
  const int64_t stride = padded(m.head.outputs);
  const float cap = m.softcap;
  multiply(workers, hidden, n, m.head, false, [&](int64_t t, int64_t o, vec y) {
    if (cap > 0.0f) {  // cap * tanh(y / cap)
      const vec twice = y * (2.0f / cap);
      y = cap - 2.0f * cap / (exponential(twice > 80.0f ? vec{} + 80.0f : twice) + 1.0f);
    }
    store(out + t * stride + o, y);
  });
}

float log_sum(const float* logits, int64_t vocab) {
  const RowWeights weights(logits, vocab, 1.0f);
  return weights.highest + std::log(weights.sum_between(0, vocab));
}

// Choose the token at `place` of the tables for a row whose logits are given, and changed.
void choose_ahead(const Ahead& a, int64_t row, int64_t place, int64_t vocab, float* logits) {
  const int64_t first = row ? a.bias_ends[row - 1] : 0;
  thread_local std::vector<float> plain;
  plain.clear();
  if (a.sums) a.sums[place] = log_sum(logits, vocab);
  for (int64_t at = first; at < a.bias_ends[row]; at++) {
    float& logit = logits[a.biases[at].token];
    plain.push_back(logit);
    logit += a.biases[at].value;
  }
  const int64_t token = choose_row(logits, vocab, a.choices[row], a.uniforms[place]);
  a.tokens[place] = token;
  if (!a.chosen) return;
  for (int64_t at = a.bias_ends[row]; at-- > first;) logits[a.biases[at].token] = plain[at - first];
  a.chosen[place] = logits[token];
}

// Decode ahead rows from `begin` to `end`.
template <class Cells, class Workers>
void run_ahead(Workers& workers, const Model& m, const Ahead& a, int64_t begin, int64_t end) {
  const int64_t most_rows = end - begin, stride = padded(m.head.outputs);
  thread_local std::vector<float> space;
  space.resize(std::max<size_t>(space.size(), most_rows * (m.width + stride) + Work(m, most_rows, nullptr).floats));
  float *const hidden = space.data(), *const logits = hidden + most_rows * m.width;
  float* const work_space = logits + most_rows * stride;
  std::vector<int64_t> running(most_rows), ids(most_rows), previous(most_rows), rows(most_rows), positions(most_rows);
  std::iota(running.begin(), running.end(), begin);
  for (int64_t step = 0; !running.empty(); step++) {
    const int64_t n = std::ssize(running);
    for (int64_t i = 0; i < n; i++) {
      const int64_t row = running[i];
      const int64_t* tokens = a.tokens + row * a.most + step;  // the next one's place
      previous[i] = step == 0 ? a.previous[row] : step == 1 ? a.ids[row] : tokens[-2];
      ids[i] = step == 0 ? a.ids[row] : tokens[-1];
      rows[i] = a.rows[row], positions[i] = a.positions[row] + step;
    }
    run_layers<Cells>(workers, m, n, ids.data(), previous.data(), rows.data(), positions.data(), n, nullptr, work_space,
                      hidden);
    compute_logits(workers, m, n, hidden, logits);
    workers.run(n, [&](int64_t i) {
      choose_ahead(a, running[i], running[i] * a.most + step, m.head.outputs, logits + i * stride);
    });
    std::erase_if(running, [&](int64_t row) {
      const int64_t token = a.tokens[row * a.most + step];
      const bool last = step + 1 == a.limits[row] || std::count(a.last_ids, a.last_ids + a.last_count, token);
      if (last) a.counts[row] = step + 1;
      return last;
    });
  }
}

// A group of rows decodes all its tokens before the next group does, so that its keys and values stay in a near cache, and
// no thread waits for another one. Weights that are slow to read are read for all rows at once.
template <class Cells>
void share_ahead(const Model& m, int64_t n, const Ahead& a) {
  constexpr int BYTES[] = {4, 2, 1};  // of a weight, by its kind
  const int64_t head_bytes = int64_t{BYTES[m.head.kind]} * m.head.inputs * m.head.outputs;
  if (n < 2 || std::max(m.weight_bytes, head_bytes) > CACHED_BYTES) return run_ahead<Cells>(*team, m, a, 0, n);
  const int64_t rounds = (n + GROUP * team->threads - 1) / (GROUP * team->threads);
  const int64_t groups = std::min<int64_t>(n, rounds * team->threads);
  team->share(groups, [&](int64_t group) {
    Alone alone;
    run_ahead<Cells>(alone, m, a, group * n / groups, (group + 1) * n / groups);
  });
}

// Where each thread's own tokens end if every thread runs all layers for its own: whole rows, because a token sees those of
// its row. Empty unless all weights fit the cache of the processor, from which every thread reads them, and no thread has
// much more to do than the others; then threads meet after each product.
std::vector<int64_t> ends_of_shares(const Model& m, int64_t n, const int64_t* rows) {
  const int64_t shares = std::min<int64_t>(n, team->threads);
  if (n < 2 || m.weight_bytes > CACHED_BYTES) return {};
  std::vector<int64_t> ends;
  int64_t begin = 0, largest = 0;
  for (int64_t t = 1; t <= n; t++) {
    if (t < n && (rows[t] == rows[t - 1] || t < (std::ssize(ends) + 1) * n / shares)) continue;
    ends.push_back(t);
    largest = std::max(largest, t - begin);
    begin = t;
  }
  const bool even = 2 * shares * largest <= 3 * n;  // meeting costs about as much as a share half as large again
  return even ? ends : std::vector<int64_t>();
}

template <class Cells>
void share_layers(const Model& m, int64_t n, const int64_t* ids, const int64_t* previous, const int64_t* rows,
                  const int64_t* positions, int64_t wanted, const int64_t* which, float* work_space, float* hidden) {
  const std::vector<int64_t> ends = ends_of_shares(m, n, rows);
  if (ends.empty())
    return run_layers<Cells>(*team, m, n, ids, previous, rows, positions, wanted, which, work_space, hidden);
  team->run(ends.size(), [&](int64_t share) {
    const int64_t first = share ? ends[share - 1] : 0, own = ends[share] - first;
    const int64_t* const own_which = std::lower_bound(which, which + wanted, first);
    std::vector<int64_t> places(own_which, std::lower_bound(own_which, which + wanted, ends[share]));
    for (int64_t& place : places) place -= first;
    Alone alone;
    run_layers<Cells>(alone, m, own, ids + first, previous + first, rows + first, positions + first, places.size(),
                      places.data(), work_space + Work(m, first, nullptr).floats, hidden + (own_which - which) * m.width);
  });
}

}  // namespace

extern "C" {

// Call before anything else. Only the first call starts threads, also if several come at once.
void start(int32_t threads) {
  static Team* const first = new Team(threads);
  team = first;
}

// Wake the threads some microseconds before the next call, which they then need not wait for.
void wake() {
  std::unique_lock<std::mutex> alone(team->busy, std::try_to_lock);
  if (alone) team->wake();
}

int64_t work_floats(const Model* m, int64_t n) { return Work(*m, n, nullptr).floats; }

// Write the keys and values of n tokens to the cache, and the hidden states (wanted, C) of those in `which`, ascending.
// A token sees the tokens of its cache row up to itself, those of this batch included. `previous`: the id before each
// token; unused at position 0. Of the last layer, the other tokens need keys and values only.
void hidden_states(const Model* model, int64_t n, const int64_t* ids, const int64_t* previous, const int64_t* rows,
                   const int64_t* positions, int64_t wanted, const int64_t* which, float* work_space, float* hidden) {
  std::lock_guard<std::mutex> alone(team->busy);
  const auto run = model->bf16_cache ? share_layers<Bf16Cells> : share_layers<FloatCells>;
  run(*model, n, ids, previous, rows, positions, wanted, which, work_space, hidden);
}

// Soft-capped logits of n hidden states, (n, V rounded up to a multiple of 16).
void logits(const Model* model, int64_t n, const float* hidden, float* out) {
  std::lock_guard<std::mutex> alone(team->busy);
  compute_logits(*team, *model, n, hidden, out);
}

// Decode several tokens of each of n rows: hidden states, logits and choice again and again, to the same bits.
void decode_ahead(const Model* model, int64_t n, const Ahead* ahead) {
  std::lock_guard<std::mutex> alone(team->busy);
  const auto run = model->bf16_cache ? share_ahead<Bf16Cells> : share_ahead<FloatCells>;
  run(*model, n, *ahead);
}

// Choose a token for each of n rows of logits, as nanochat/infer/sampler.py does, by its number of `uniforms` in [0, 1).
// `stride`: floats of a row.
void choose(int64_t n, int64_t vocab, int64_t stride, const float* logits, const Choice* choices, const float* uniforms,
            int64_t* ids) {
  std::lock_guard<std::mutex> alone(team->busy);
  team->run(n, [&](int64_t row) { ids[row] = choose_row(logits + row * stride, vocab, choices[row], uniforms[row]); });
}

// The logarithm of the sum of e^logit of each of n rows.
void log_sums(int64_t n, int64_t vocab, int64_t stride, const float* logits, float* out) {
  std::lock_guard<std::mutex> alone(team->busy);
  team->run(n, [&](int64_t row) { out[row] = log_sum(logits + row * stride, vocab); });
}
}
