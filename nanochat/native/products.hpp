// Products of small matrices that lie in a core's cache, in fp32, in pairs of bf16, or in the tiles of AMX.
//
// A product sums over inputs, one float or two bf16 at a time: a word. Its right factor lies in panels, (panels, words,
// PANEL); its left factor has ROWS rows.

#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <vector>

#include "vectors.hpp"

#if defined(__AVX512F__) && defined(__AMX_TILE__) && defined(__AMX_BF16__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#define HAS_TILES
#endif

namespace {

#ifdef __AVX512F__
// For one stage of a 16 × 16 transposition: the words of two rows that are `step` apart after exchanging the blocks
// beside the diagonal.
constexpr std::array<int32_t, 2 * LANES> exchanged(int step) {
  std::array<int32_t, 2 * LANES> found{};
  for (int i = 0; i < LANES; i++) {
    found[i] = i & step ? LANES + i - step : i;
    found[LANES + i] = i & step ? LANES + i : i + step;
  }
  return found;
}

template <int STEP>
inline void exchange(__m512i (&m)[LANES]) {
  alignas(64) static constexpr auto index = exchanged(STEP);
  const __m512i upper = _mm512_load_si512(index.data()), lower = _mm512_load_si512(index.data() + LANES);
  for (int r = 0; r < LANES; r++)
    if (!(r & STEP)) {
      const __m512i a = m[r], b = m[r + STEP];
      m[r] = _mm512_permutex2var_epi32(a, upper, b);
      m[r + STEP] = _mm512_permutex2var_epi32(a, lower, b);
    }
}
#endif

// Transposes LANES rows of words: to[i * to_stride + r] = from[r * from_stride + i].
template <class Word>
inline void transpose(const Word* from, int64_t from_stride, int64_t columns, Word* to, int64_t to_stride) {
  int64_t done = 0;
#ifdef __AVX512F__
  for (; done + LANES <= columns; done += LANES) {
    __m512i m[LANES];
    for (int r = 0; r < LANES; r++) m[r] = _mm512_loadu_si512(from + r * from_stride + done);
    exchange<8>(m), exchange<4>(m), exchange<2>(m), exchange<1>(m);
    for (int i = 0; i < LANES; i++) _mm512_storeu_si512(to + (done + i) * to_stride, m[i]);
  }
#endif
  for (; done < columns; done++)
    for (int r = 0; r < LANES; r++) to[done * to_stride + r] = from[r * from_stride + done];
}

// The products of Kind by the vectors that every processor has.
template <class Kind>
struct ByVectors {
  static constexpr int ROWS = 4;             // their sums fit the registers
  static constexpr int WORDS = 1;            // the number of words must be a multiple of this
  static constexpr bool NEIGHBOURS = false;  // whether the words of a left factor's row must be neighbours
  struct Session {};                         // what a thread needs while it multiplies

  // sums (ROWS, PANEL), its rows `stride` apart, = x times one panel; only its first `columns`, in whole vectors, if
  // they are fewer. x: row r's word i is x[r * row + i * step].
  template <class Word>
  static void multiply(const Word* x, int64_t row, int64_t step, const Word* panel, int64_t words, int64_t columns,
                       float* sums, int64_t stride) {
    if (VECTORS > 3 && columns > 3 * LANES) return multiply<4>(x, row, step, panel, words, sums, stride);
    if (VECTORS > 2 && columns > 2 * LANES) return multiply<3>(x, row, step, panel, words, sums, stride);
    if (columns > LANES) return multiply<2>(x, row, step, panel, words, sums, stride);
    multiply<1>(x, row, step, panel, words, sums, stride);
  }

  template <int COLUMNS, class Word>
  static void multiply(const Word* x, int64_t row, int64_t step, const Word* panel, int64_t words, float* sums,
                       int64_t stride) {
    vec total[ROWS][COLUMNS]{};
    for (int64_t i = 0; i < words; i++, panel += PANEL) {
      typename Kind::Weights w[COLUMNS];
      for (int v = 0; v < COLUMNS; v++) w[v] = Kind::read(panel + v * LANES);
      for (int r = 0; r < ROWS; r++)
        for (int v = 0; v < COLUMNS; v++) Kind::add(total[r][v], w[v], x[r * row + i * step]);
    }
    for (int r = 0; r < ROWS; r++)
      for (int v = 0; v < COLUMNS; v++) store(sums + r * stride + v * LANES, total[r][v]);
  }
};

struct Fp32 : ByVectors<Fp32> {
  using Number = float;
  using Word = float;
  using Weights = vec;
  static constexpr int INPUTS = 1;
  static Weights read(const Word* words) { return load(words); }
  static void add(vec& total, const Weights& w, Word in) { total += w * in; }
  // The words of two rows, for sums over rows: of one row, if a word is one input.
  template <class From>
  static void interleave(const From* first, const From*, Word* to) {
    store(to, load(first));
  }
};

struct Bf16 : ByVectors<Bf16> {
  using Number = bf16_bits;
  using Word = uint32_t;
  using Weights = word_vec;
  static constexpr int INPUTS = 2;
  static Weights read(const Word* words) { return *reinterpret_cast<const word_vec*>(words); }
  static void add(vec& total, const Weights& w, Word in) { add_pairs(total, w, in); }
  template <class From>
  static void interleave(const From* first, const From* second, Word* to) {
    *reinterpret_cast<word_vec*>(to) = bf16(load(first)) | bf16(load(second)) << 16;
  }
};

#ifdef HAS_TILES
// The same by AMX: tiles of 16 rows and 64 bytes, two by two.
struct Bf16Tiles : Bf16 {
  static constexpr int ROWS = 2 * LANES;
  static constexpr int WORDS = LANES;
  static constexpr bool NEIGHBOURS = true;

  // Linux lets a process use tiles only after it asks; a sandbox may refuse.
  static bool permitted() {
    constexpr int ASK_FOR = 0x1023, TILE_DATA = 18;
    static const bool granted = syscall(SYS_arch_prctl, ASK_FOR, TILE_DATA) == 0;
    return granted;
  }

  struct Session {
    Session() {
      struct alignas(64) {
        uint8_t palette = 1, start = 0, reserved[14]{};
        uint16_t bytes[16]{};
        uint8_t rows[16]{};
      } shapes;
      for (int tile = 0; tile < 8; tile++) shapes.bytes[tile] = 64, shapes.rows[tile] = LANES;
      asm volatile("" ::"r"(&shapes) : "memory");  // GCC's instructions for tiles do not declare what they read
      _tile_loadconfig(&shapes);
    }
    ~Session() { _tile_release(); }
  };

  static void multiply(const Word* x, int64_t row, int64_t, const Word* panel, int64_t words, int64_t columns,
                       float* sums, int64_t stride) {
    constexpr int64_t BYTES = sizeof(Word);
    asm volatile("" ::: "memory");  // as above
    for (int64_t half = 0; half < std::min<int64_t>(columns, PANEL); half += 2 * LANES) {
      _tile_zero(0);
      _tile_zero(1);
      _tile_zero(2);
      _tile_zero(3);
      for (int64_t i = 0; i < words; i += LANES) {
        _tile_loadd(4, x + i, row * BYTES);
        _tile_loadd(5, x + LANES * row + i, row * BYTES);
        _tile_loadd(6, panel + i * PANEL + half, PANEL * BYTES);
        _tile_loadd(7, panel + i * PANEL + half + LANES, PANEL * BYTES);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
      }
      float* to = sums + half;
      _tile_stored(0, to, stride * BYTES);
      _tile_stored(1, to + LANES, stride * BYTES);
      _tile_stored(2, to + LANES * stride, stride * BYTES);
      _tile_stored(3, to + LANES * stride + LANES, stride * BYTES);
    }
  }
};
#endif

inline int64_t panels(int64_t n) { return (n + PANEL - 1) / PANEL; }

// (T, D) numbers, rows `stride` apart, as the right factor of a product.
template <class Kind>
struct Factor {
  using Number = typename Kind::Number;
  using Word = typename Kind::Word;
  std::vector<Word> kept;
  int64_t words;

  // For products with T outputs, summed over columns.
  void outputs_by_row(const Number* x, int64_t stride, int64_t T, int64_t D) {
    words = D / Kind::INPUTS;
    Word* to = space(kept, panels(T) * words * PANEL);
    if (T % PANEL) std::fill_n(to, panels(T) * words * PANEL, Word{});  // what fills up the last panel
    const Word* from = reinterpret_cast<const Word*>(x);
    const int64_t row = stride / Kind::INPUTS;
    const auto place = [&](int64_t t) { return to + t / PANEL * words * PANEL + t % PANEL; };
    int64_t t = 0;
    for (; t + LANES <= T; t += LANES) transpose(from + t * row, row, words, place(t), PANEL);
    for (; t < T; t++)
      for (int64_t i = 0; i < words; i++) place(t)[i * PANEL] = from[t * row + i];
  }

  // For products with D outputs, summed over rows.
  void outputs_by_column(const Number* x, int64_t stride, int64_t T, int64_t D) {
    words = T / Kind::INPUTS;
    Word* to = space(kept, panels(D) * words * PANEL);
    if (D % PANEL) std::fill_n(to, panels(D) * words * PANEL, Word{});  // what fills up the last panel
    for (int64_t i = 0; i < words; i++)
      for (int64_t d = 0; d < D; d += LANES) {
        const Number* first = x + i * Kind::INPUTS * stride + d;
        Kind::interleave(first, first + (Kind::INPUTS - 1) * stride, to + (d / PANEL * words + i) * PANEL + d % PANEL);
      }
  }

  const Word* panel(int64_t p, int64_t word = 0) const { return kept.data() + (p * words + word) * PANEL; }
};

// The left factor of sums over rows: these rows, transposed.
template <class Kind>
struct Transposed {
  using Word = typename Kind::Word;
  std::vector<Word> kept;
  int64_t row, step;  // from one of its rows to the next, from a word to the next

  // For `rows` rows with this many columns.
  void resize(int64_t rows, int64_t columns) {
    const int64_t words = rows / Kind::INPUTS, apart = LANES + (Kind::NEIGHBOURS ? words : columns);
    row = Kind::NEIGHBOURS ? apart : 1, step = Kind::NEIGHBOURS ? 1 : apart;  // LANES: rows share no set of the cache
    space(kept, (LANES + words) * (LANES + columns));
  }

  // Columns begin to end of the ROWS rows from `first` on.
  void put(const float* rows, int64_t stride, int64_t first, int64_t begin, int64_t end) {
    for (int64_t column = begin; column < end; column += LANES) {
      Word words[Kind::ROWS / Kind::INPUTS * LANES];
      Word* to = kept.data() + column * row + first / Kind::INPUTS * step;
      for (int r = 0; r < Kind::ROWS; r += Kind::INPUTS) {
        const float* from = rows + r * stride + column;
        Kind::interleave(from, from + (Kind::INPUTS - 1) * stride,
                         Kind::NEIGHBOURS ? words + r / Kind::INPUTS * LANES : to + r / Kind::INPUTS * step);
      }
      if (Kind::NEIGHBOURS) transpose(words, LANES, LANES, to, row);
    }
  }

  const Word* at(int64_t column, int64_t word) const { return kept.data() + column * row + word * step; }
};

}  // namespace
