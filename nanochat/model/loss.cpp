// The cross-entropy of a chunk of soft-capped logits and its gradient on a CPU, as nanochat/model/loss.py defines it:
// each row is read twice, while it is in a core's cache, and overwritten by its gradient.

#include <cmath>
#include <cstddef>
#include <vector>

#include "vectors.hpp"

namespace {

// One row of logits, V of them; `weights` is space for as many floats. Returns the nats. A row with the target -1 is
// ignored; nats and gradients of one whose target is no token are NaN.
template <class Number>
float row_loss(Number* logits, int64_t V, int64_t target, float cap, float* weights) {
  const auto padding = [&](vec x, int64_t at) {  // lanes beyond the last logit weigh nothing
    for (int64_t lane = V - at; lane < LANES; lane++) x[lane] = 0.0f;
    return x;
  };
  Number last[LANES]{};  // what is left over after whole vectors
  const int64_t whole = V / LANES * LANES;
  for (int64_t at = whole; at < V; at++) last[at - whole] = logits[at];

  // With t = tanh(x / cap): a token's weight is e^(cap * t - cap), and its gradient's share of it passes the cap by
  // the factor 1 - t².
  vec total{};
  float target_logit = 0.0f, target_slope = 0.0f, target_weight = 0.0f;
  for (int64_t at = 0; at < V; at += LANES) {
    const vec x = load(at < whole ? logits + at : last);
    const vec t = 1.0f - 2.0f / (limited_exponential(x * (2.0f / cap)) + 1.0f);
    vec weight = exponential(t * cap - cap);
    if (at >= whole) weight = padding(weight, at);
    const vec slope = 1.0f - t * t;
    total += weight;
    store(weights + at, weight * slope);
    if (target >= at && target < at + LANES) {
      const int lane = target - at;
      target_logit = cap * t[lane], target_slope = slope[lane], target_weight = weight[lane];
    }
  }
  const bool counts = target >= 0 && target < V;
  const float sum_of_weights = sum(total), scale = counts ? 1.0f / sum_of_weights : target == -1 ? 0.0f : NAN;
  for (int64_t at = 0; at < whole; at += LANES) store(logits + at, load(weights + at) * scale);
  if (whole < V) {
    store(last, load(weights + whole) * scale);
    for (int64_t at = whole; at < V; at++) logits[at] = last[at - whole];
  }
  if (!counts) return scale;
  Number corrected[LANES];
  store(corrected, vec{} + (target_weight * scale - 1.0f) * target_slope);
  logits[target] = corrected[0];
  return std::log(sum_of_weights) + cap - target_logit;
}

template <class Number>
void chunk_loss(Number* logits, const int64_t* targets, int64_t n, int64_t V, float cap, float* nats, int threads) {
#pragma omp parallel num_threads(threads)
  {
    std::vector<float> weights((V + LANES - 1) / LANES * LANES);
#pragma omp for
    for (int64_t row = 0; row < n; row++)
      nats[row] = row_loss(logits + row * V, V, targets[row], cap, weights.data());
  }
}

}  // namespace

extern "C" {

// n rows of V logits, which become their gradients; targets (n), nats (n); cap > 0.
void chunk_loss_fp32(float* logits, const int64_t* targets, int64_t n, int64_t V, float cap, float* nats,
                     int32_t threads) {
  chunk_loss(logits, targets, n, V, cap, nats, threads);
}

void chunk_loss_bf16(bf16_bits* logits, const int64_t* targets, int64_t n, int64_t V, float cap, float* nats,
                     int32_t threads) {
  chunk_loss(logits, targets, n, V, cap, nats, threads);
}
}
