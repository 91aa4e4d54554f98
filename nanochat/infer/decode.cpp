// A GPT's hidden states and logits for decoding on a CPU; nanochat/infer/native_decoder.py lays out the weights and
// calls this.
//
// The arithmetic is that of nanochat/infer/torch_decoder.py, in one call instead of a thousand. A token is computed in
// the same order whatever else is in the batch, so its result does not depend on the batch, bit for bit.

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <mutex>
#include <numeric>
#include <vector>

#include "gpt_layers.hpp"
#include "sampling.hpp"
#include "team.hpp"
#include "vectors.hpp"

extern "C" {

// What is added to the logit of a token.
struct Bias {
  int32_t token;
  float value;
};

// Rows that decode up to `most` tokens each, and the results; the tables of results and random numbers are (rows, most).
struct MultiStep {
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
}

namespace {

constexpr int64_t CACHED_BYTES = 8 << 20;  // weights that are quick for every thread to read (docs/log.md)
constexpr int GROUP = 4;                   // rows that decode together, whose keys fit a near cache (docs/log.md)

Team* team;  // never destroyed: its threads run until the process ends

// Choose the token at `place` of the tables for a row whose logits are given, and changed.
void choose_step(const MultiStep& a, int64_t row, int64_t place, int64_t vocab, float* logits) {
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

// Decode the rows from `begin` to `end`.
template <class Cells, class Workers>
void run_steps(Workers& workers, const Model& m, const MultiStep& a, int64_t begin, int64_t end) {
  const int64_t most_rows = end - begin, stride = padded(m.head.outputs);
  thread_local std::vector<float> kept;
  float* const hidden = space(kept, most_rows * (m.width + stride) + Work(m, most_rows, nullptr).floats);
  float *const logits = hidden + most_rows * m.width, *const work_space = logits + most_rows * stride;
  std::vector<int64_t> running(most_rows), ids(most_rows), previous(most_rows), rows(most_rows), positions(most_rows);
  std::iota(running.begin(), running.end(), begin);
  for (int64_t step = 0; !running.empty(); step++) {
    const int64_t n = std::ssize(running);
    for (int64_t i = 0; i < n; i++) {
      const int64_t row = running[i];
      const int64_t* next = a.tokens + row * a.most + step;
      previous[i] = step == 0 ? a.previous[row] : step == 1 ? a.ids[row] : next[-2];
      ids[i] = step == 0 ? a.ids[row] : next[-1];
      rows[i] = a.rows[row], positions[i] = a.positions[row] + step;
    }
    const Tokens tokens{n, ids.data(), previous.data(), rows.data(), positions.data()};
    run_layers<Cells>(workers, m, tokens, n, nullptr, work_space, hidden);
    compute_logits(workers, m, n, hidden, logits);
    workers.run(n, [&](int64_t i) {
      choose_step(a, running[i], running[i] * a.most + step, m.head.outputs, logits + i * stride);
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
void share_steps(const Model& m, int64_t n, const MultiStep& a) {
  constexpr int BYTES[] = {4, 2, 1};  // of a weight, by its kind
  const int64_t head_bytes = int64_t{BYTES[m.head.kind]} * m.head.inputs * m.head.outputs;
  if (n < 2 || std::max(m.weight_bytes, head_bytes) > CACHED_BYTES) return run_steps<Cells>(*team, m, a, 0, n);
  const int64_t rounds = (n + GROUP * team->threads - 1) / (GROUP * team->threads);
  const int64_t groups = std::min<int64_t>(n, rounds * team->threads);
  team->share(groups, [&](int64_t group) {
    Alone alone;
    run_steps<Cells>(alone, m, a, group * n / groups, (group + 1) * n / groups);
  });
}

// Where each thread's own tokens end if every thread runs all layers for its own: whole rows, because a token sees those of
// its row. Empty unless all weights fit the cache of the processor, from which every thread reads them, and no thread has
// much more to do than the others; then threads meet after each product.
std::vector<int64_t> ends_of_shares(const Model& m, const Tokens& tokens) {
  const int64_t n = tokens.n, *const rows = tokens.rows;
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
void share_layers(const Model& m, const Tokens& all, int64_t wanted, const int64_t* which, float* work_space,
                  float* hidden) {
  const std::vector<int64_t> ends = ends_of_shares(m, all);
  if (ends.empty()) return run_layers<Cells>(*team, m, all, wanted, which, work_space, hidden);
  team->run(ends.size(), [&](int64_t share) {
    const int64_t first = share ? ends[share - 1] : 0;
    const Tokens own{ends[share] - first, all.ids + first, all.previous + first, all.rows + first,
                     all.positions + first};
    const int64_t* const own_which = std::lower_bound(which, which + wanted, first);
    std::vector<int64_t> places(own_which, std::lower_bound(own_which, which + wanted, ends[share]));
    for (int64_t& place : places) place -= first;
    Alone alone;
    run_layers<Cells>(alone, m, own, places.size(), places.data(), work_space + Work(m, first, nullptr).floats,
                      hidden + (own_which - which) * m.width);
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
  run(*model, {n, ids, previous, rows, positions}, wanted, which, work_space, hidden);
}

// Soft-capped logits of n hidden states, (n, V rounded up to a multiple of 16).
void logits(const Model* model, int64_t n, const float* hidden, float* out) {
  std::lock_guard<std::mutex> alone(team->busy);
  compute_logits(*team, *model, n, hidden, out);
}

// Decode several tokens of each of n rows: hidden states, logits and choice again and again, to the same bits.
void decode_steps(const Model* model, int64_t n, const MultiStep* steps) {
  std::lock_guard<std::mutex> alone(team->busy);
  const auto run = model->bf16_cache ? share_steps<Bf16Cells> : share_steps<FloatCells>;
  run(*model, n, *steps);
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
