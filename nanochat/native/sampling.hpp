// Choosing a token by its logits: greedy, top-k, top-p, min-p, as nanochat/infer/sampler.py does.

#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <iterator>
#include <vector>

#include "vectors.hpp"

extern "C" {

// How to sample a row: from its top_k likeliest tokens (0: greedy; V or more: all), of these the nucleus top_p and those
// with min_p of the best one's probability.
struct Choice {
  float temperature, top_p, min_p;
  int32_t top_k;
};
}

namespace {

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

float log_sum(const float* logits, int64_t vocab) {
  const RowWeights weights(logits, vocab, 1.0f);
  return weights.highest + std::log(weights.sum_between(0, vocab));
}

}  // namespace
