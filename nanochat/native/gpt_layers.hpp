// The layers of a GPT and its logits, for tokens of several rows on a cache.
//
// Sizes: n tokens of a batch, C model width, H query heads, K key heads, D head channels, U channels of the MLP,
// V vocabulary. C, D and U are multiples of 16.

#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "cached_attention.hpp"
#include "packed_products.hpp"
#include "vectors.hpp"

extern "C" {

struct Layer {
  Matrix qkv, out, up, down;      // qkv: H queries, K keys, K values, then the value gates if there are any
  const float* value_embeddings;  // (V, K * D), or null
  void *keys, *values;            // the cache, (rows, K, slots, D)
  int32_t window;
  float stream_scale, embedding_scale;
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

// n tokens, each with the id before it (unused at position 0), its row of the cache and its position there.
struct Tokens {
  int64_t n;
  const int64_t *ids, *previous, *rows, *positions;
};

// Every token's embedding, to x0 and `middle`, and what the first layer gets of it, to x.
template <class Workers>
void embed(Workers& workers, const Model& m, const Tokens& tokens, const Work& w) {
  const int C = m.width;
  workers.run(tokens.n, [&](int64_t t) {
    const float smear = m.smear && tokens.positions[t] > 0 ? m.smear[tokens.ids[t]] : 0.0f;
    for (int i = 0; i < C; i += LANES) {
      vec e = load(m.embeddings + tokens.ids[t] * C + i);
      if (smear != 0.0f) e += load(m.embeddings + tokens.previous[t] * C + i) * smear;
      store(w.x0 + t * C + i, e);
      store(w.middle + t * C + i, e);
      store(w.x + t * C + i, e * m.layers[0].stream_scale + e * m.layers[0].embedding_scale);
    }
  });
}

// Normalises and rotates every token's queries and keys, and writes keys and values to the cache.
template <class Cell, class Workers>
void fill_cache(Workers& workers, const Model& m, const Layer& layer, const Tokens& tokens, const Work& w) {
  const int H = m.heads, K = m.kv_heads, D = m.head_dim;
  Cell *const keys = static_cast<Cell*>(layer.keys), *const values = static_cast<Cell*>(layer.values);
  workers.run(tokens.n * K, [&](int64_t item) {
    const int64_t t = item / K, h = item % K, position = tokens.positions[t];
    const int64_t slot = ((tokens.rows[t] * K + h) * m.slots + position) * D;
    const float *cos = m.cos + position * D, *sin = m.sin + position * D;
    float* qkv = w.qkv + t * w.qkv_stride;
    float* k = qkv + (H + h) * D;
    for (int64_t q = h * H / K; q < (h + 1) * H / K; q++) rotate(qkv + q * D, cos, sin, D);
    rotate(k, cos, sin, D);
    const float* v = qkv + (H + K + h) * D;
    const float* embedding = layer.value_embeddings ? layer.value_embeddings + (tokens.ids[t] * K + h) * D : nullptr;
    const float gate = embedding ? m.gate_scale / (1.0f + std::exp(-qkv[(H + 2 * K) * D + h])) : 0.0f;
    for (int i = 0; i < D; i += LANES) {
      store(keys + slot + i, load(k + i));
      store(values + slot + i, embedding ? load(v + i) + load(embedding + i) * gate : load(v + i));
    }
  });
}

// Attention of every token to its row up to itself, added to x.
template <class Cells, class Workers>
void add_attention(Workers& workers, const Model& m, const Layer& layer, const Tokens& tokens, const Work& w) {
  using Cell = typename Cells::Cell;
  const int C = m.width, H = m.heads, K = m.kv_heads, D = m.head_dim;
  const Cell *const keys = static_cast<const Cell*>(layer.keys), *const values = static_cast<const Cell*>(layer.values);
  workers.run(tokens.n * H, [&](int64_t item) {
    const int64_t t = item / H, h = item % H, position = tokens.positions[t];
    const int64_t first = std::max<int64_t>(0, position + 1 - layer.window);
    const int64_t slot = ((tokens.rows[t] * K + h * K / H) * m.slots + first) * D;
    attend<Cells>(w.qkv + t * w.qkv_stride + h * D, keys + slot, values + slot, position + 1 - first, D,
                  m.attention_scale, w.attended + item * D);
  });
  multiply(workers, w.attended, tokens.n, layer.out, false, [&](int64_t t, int64_t o, vec y) {
    store(w.x + t * C + o, load(w.x + t * C + o) + y);
  });
}

// The MLP of layer `at`, added to x, of which the next layer gets a mix with x0.
template <class Workers>
void add_mlp(Workers& workers, const Model& m, int at, int64_t n, const Work& w) {
  const int C = m.width, U = m.mlp_width;
  multiply(workers, w.x, n, m.layers[at].up, true, [&](int64_t t, int64_t o, vec y) {
    y = y > 0.0f ? y : vec{};
    store(w.up + t * U + o, y * y);
  });
  const bool last = at + 1 == m.n_layer, at_middle = at + 1 == m.middle_layer;
  const float stream = last ? 1.0f : m.layers[at + 1].stream_scale;
  const float embedding = last ? 0.0f : m.layers[at + 1].embedding_scale;
  multiply(workers, w.up, n, m.layers[at].down, false, [&](int64_t t, int64_t o, vec y) {
    y += load(w.x + t * C + o);
    if (at_middle) store(w.middle + t * C + o, y);
    store(w.x + t * C + o, y * stream + load(w.x0 + t * C + o) * embedding);
  });
}

// Write keys and values of all tokens to the cache, and the hidden states (wanted, C) of those in `which`, ascending.
// Of the last layer, the other tokens need keys and values only.
template <class Cells, class Workers>
void run_layers(Workers& workers, const Model& m, Tokens tokens, int64_t wanted, const int64_t* which,
                float* work_space, float* hidden) {
  const int C = m.width;
  const Work w(m, tokens.n, work_space);
  std::vector<int64_t> rows(wanted), positions(wanted);

  embed(workers, m, tokens, w);
  for (int at = 0; at < m.n_layer; at++) {
    const Layer& layer = m.layers[at];
    multiply(workers, w.x, tokens.n, layer.qkv, true, [&](int64_t t, int64_t o, vec y) {
      store(w.qkv + t * w.qkv_stride + o, y);
    });
    fill_cache<typename Cells::Cell>(workers, m, layer, tokens, w);
    if (at + 1 == m.n_layer && wanted < tokens.n) {
      for (int64_t t = 0; t < wanted; t++) {
        rows[t] = tokens.rows[which[t]], positions[t] = tokens.positions[which[t]];
        for (float* table : {w.x, w.x0, w.middle}) std::copy_n(table + which[t] * C, C, table + t * C);
        std::copy_n(w.qkv + which[t] * w.qkv_stride, w.qkv_stride, w.qkv + t * w.qkv_stride);
      }
      tokens = {wanted, nullptr, nullptr, rows.data(), positions.data()};
    }
    add_attention<Cells>(workers, m, layer, tokens, w);
    add_mlp(workers, m, at, tokens.n, w);
  }
  workers.run(tokens.n, [&](int64_t t) {
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
    if (cap > 0.0f) y = cap - 2.0f * cap / (limited_exponential(y * (2.0f / cap)) + 1.0f);  // cap * tanh(y / cap)
    store(out + t * stride + o, y);
  });
}

}  // namespace
