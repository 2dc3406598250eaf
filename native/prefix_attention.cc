// Forward pass of shared-prefix attention, see attention/tiles.h.
//
// One thread owns a query tile. Scores are held transposed, [keys, queries], so that the running softmax has a query
// per vector lane and never sums across lanes. Queries are packed once per tile, and the softmax scales the scores: of
// bf16, whose products are exact, few sums are rounded then. Keys and values are copied a tile at a time, also where
// they are float32: the rows of one head lie K * D apart, a multiple of the cache's own stride at the usual sizes, and
// in place the products were 3 % slower than with the copy.
#include <cmath>

#include "attention/attention.h"
#include "attention/products.h"
#include "attention/rows.h"
#include "attention/sink.h"
#include "attention/work.h"

namespace grpo {
namespace {

struct Workspace {
  float* queries;  // [kTileRows, D]
  float* columns;  // [D, kTileRows]  the queries transposed
  float* k;        // [kTileKeys, D]
  float* v;        // [kTileKeys, E]
  float* scores;   // [kTileKeys, kTileRows]
  float* out;      // [kTileRows, E]  times sum
  float *max, *sum, *rescale;
  float* visible;   // [kTileKeys, E]  the values that one query sees, and zeros
  float* products;  // scratch of products
  int32_t* ranges;  // [2 * kTileRows]

  static Workspace cut(Carver& carver, const AttentionSizes& sizes) {
    return {.queries = carver.take(kTileRows * sizes.D),
            .columns = carver.take(kTileRows * sizes.D),
            .k = carver.take(kTileKeys * sizes.D),
            .v = carver.take(kTileKeys * sizes.E),
            .scores = carver.take(kTileKeys * kTileRows),
            .out = carver.take(kTileRows * sizes.E),
            .max = carver.take(kTileRows),
            .sum = carver.take(kTileRows),
            .rescale = carver.take(kTileRows),
            .visible = carver.take(kTileKeys * sizes.E),
            .products = carver.take(product_scratch(sizes)),
            .ranges = reinterpret_cast<int32_t*>(carver.take(2 * kTileRows))};
  }
};

template <class Factor>
void scale_row(float* x, Factor factor, int64_t n) {
  for (int64_t i = 0; i < n; ++i) x[i] = static_cast<float>(x[i] * factor);
}

// out[rows, E] = rescale * out + P^T V. A hidden key has p = 0, but 0 times an infinite or NaN value would not be 0:
// then each row's sum has zeros for the keys that it does not see, which change no bit of the others.
void add_values(const Workspace& work, const TilePair& pair, const KeyRanges& seen, int64_t first, int64_t rows,
                const AttentionSizes& sizes) {
  const int64_t E = sizes.E;
  float* out = work.out + first * E;
  for (int64_t r = 0; r < rows; ++r)
    if (work.rescale[r] != 1) scale_row(out + r * E, work.rescale[r], E);
  const auto add = [&](int64_t r, int64_t count, const float* v) {
    multiply(sizes.standard, {work.scores + r, Float::kF32, 1, kTileRows}, rows_of(v, E), out + r * E, E, count, E,
             pair.keys, true, work.products);
  };
  if (seen.end == nullptr || all_finite(work.v, pair.keys * E)) return add(0, rows, work.v);
  for (int64_t r = 0; r < rows; ++r)
    add(r, 1, keys_seen(work.v, seen.begin[r], seen.end[r], pair.keys, E, work.visible));
}

struct Outputs {
  void* out;         // [P,H,E]  each may be null
  void* out_low;     // [P,H,E]  what rounding out loses
  float* logsumexp;  // [P,H]

  bool values() const { return out != nullptr || out_low != nullptr; }
};

// Divides the sums of a tile's rows by those of their exponentials, and writes them.
void write_tile(const Workspace& work, const Outputs& outputs, const float* sink, const AttentionSizes& sizes,
                int32_t begin, int64_t tokens, int64_t head, int64_t heads) {
  const int64_t H = sizes.H, E = sizes.E, first = begin * H + head;
  for (int64_t r = 0; r < tokens * heads; ++r) {
    const int64_t h = head + r % heads;
    const RowSoftmax row = softmax_of_row(work.max[r], work.sum[r], sink == nullptr ? nullptr : sink + h);
    if (outputs.logsumexp != nullptr) outputs.logsumexp[(begin + r / heads) * H + h] = row.logsumexp;
    if (!outputs.values()) continue;
    if (sink == nullptr) scale_row(work.out + r * E, 1 / work.sum[r], E);
    else scale_row(work.out + r * E, row.scale, E);
    if (outputs.out_low == nullptr) continue;
    char* low = static_cast<char*>(outputs.out_low) + ((begin + r / heads) * H + h) * E * size_of(sizes.type);
    convert_rest(work.out + r * E, low, sizes.type, E, work.v);
  }
  if (outputs.out != nullptr) scatter(work.out, outputs.out, sizes.type, first * E, H * E, tokens, heads * E);
}

void prefix_attention(const Heads& q,     // [P,H,D]
                      const Heads& k,     // [P,K,D]
                      const Heads& v,     // [P,K,E]
                      const float* sink,  // [H], may be null
                      const Segments& segments, const Outputs& outputs, const AttentionSizes& sizes) {
  const int64_t K = sizes.K, D = sizes.D, E = sizes.E;
  const Float type = sizes.type;
  const VectorKernels& kernels = vector_kernels();
  const HeadBlocks blocks(sizes);
  TileList tiles([&](auto&& add) { for_each_query_tile(segments, 0, segments.B, blocks.tokens, add); });

  // Key head by key head, so that threads at work together read the same keys and values.
  for_each_task<Workspace>(K * blocks.count * tiles.count, [&](int64_t task, const Workspace& work) {
    const TokenTile& tile = tiles[task % tiles.count];
    const int64_t key_head = task / tiles.count / blocks.count, block = task / tiles.count % blocks.count;
    const int64_t head = blocks.head(key_head, block), heads = blocks.heads(block);
    const int64_t tokens = tile.end - tile.begin, rows = tokens * heads;
    gather(q.data, type, tile.begin * q.stride + head * D, q.stride, tokens, heads * D, work.queries);
    if (!sizes.bf16) transpose(work.queries, rows, D, work.columns);
    std::fill_n(work.max, rows, -INFINITY);
    std::fill_n(work.sum, rows, 0.0f);
    std::fill_n(work.out, rows * E, 0.0f);

    for_each_pair(segments, tile, [&](const TilePair& pair) {
      const int64_t first = (pair.token - tile.begin) * heads, count = (pair.token_end - pair.token) * heads;
      gather(k.data, type, pair.key * k.stride + key_head * D, k.stride, pair.keys, D, work.k);
      multiply_rows(sizes.bf16, work.k, work.queries + first * D, work.columns + first, D, work.scores, pair.keys,
                    count, work.products);
      const KeyRanges seen = seen_keys(segments, pair, heads, work.ranges);
      kernels.softmax_tile(work.scores, kTileRows, pair.keys, count, seen, sizes.scale, sizes.softcap,
                           work.max + first, work.sum + first, work.rescale);
      if (!outputs.values()) return;
      gather(v.data, type, pair.key * v.stride + key_head * E, v.stride, pair.keys, E, work.v);
      add_values(work, pair, seen, first, count, sizes);
    });
    write_tile(work, outputs, sink, sizes, tile.begin, tokens, head, heads);
  }, sizes);
}

// Without columns all scores are 0: the logarithm of how many tokens each one sees, for which no pair is looked at.
void count_seen(const Segments& segments,
                const int32_t* position,  // [P]
                const float* sink,        // [H], may be null
                float* logsumexp,         // [P,H]
                const AttentionSizes& sizes) {
  parallel_for(sizes.P, 1024, [&](int64_t begin, int64_t end, int) {
    for (int64_t p = begin; p < end; ++p) {
      const double seen = std::min<int64_t>(int64_t{position[p]} + 1, segments.window);
      for (int64_t h = 0; h < sizes.H; ++h)
        logsumexp[p * sizes.H + h] = softmax_of_row(0, seen, sink == nullptr ? nullptr : sink + h).logsumexp;
    }
  });
}

// ---- the C interface ------------------------------------------------------------------------------------------------

using Args = grpo_prefix_attention_args;

int run(const Args& args, const Axes& axes) {
  Segments segments = segments_of(args, axes);
  const AttentionSizes sizes = sizes_of(args, axes);
  if (int status = check_attention(args, axes)) return status;
  if (int status = check_layout(segments)) return status;
  const Outputs outputs{sizes.E > 0 ? data<void>(args.out) : nullptr, sizes.E > 0 ? data<void>(args.out_low) : nullptr,
                        data<float>(args.logsumexp)};
  if (sizes.H == 0 || (!outputs.values() && outputs.logsumexp == nullptr)) return GRPO_OK;
  const float* sink = data<float>(args.sink);
  const bool count = sizes.D == 0 && !outputs.values();
  Scratch<int32_t> position(count || segments.window != kNoWindow ? sizes.P : 0);
  if (count || segments.window != kNoWindow) find_positions(segments, position.data());
  if (count) {
    count_seen(segments, position.data(), sink, outputs.logsumexp, sizes);
    return GRPO_OK;
  }
  if (segments.window != kNoWindow) segments.position = position.data();
  prefix_attention(heads_of(args.q), heads_of(args.k), heads_of(args.v), sink, segments, outputs, sizes);
  return GRPO_OK;
}

const grpo_field kFields[] = {
    GRPO_IN(q, "f32|bf16|f16[P,H,D] strided"),
    GRPO_IN(k, "=q[P,K,D] strided"),
    GRPO_IN(v, "=q[P,K,E] strided"),
    GRPO_IN(segment_start, "i32[B+1] offsets P"),
    GRPO_IN(segment_parent, "i32[B]"),
    GRPO_IN(segment_end, "i32[B]"),
    GRPO_IN(sink, "f32[H] ?"),
    GRPO_OUT(out, "=q[P,H,E]"),
    GRPO_OUT(logsumexp, "f32[P,H]"),
    GRPO_OUT(out_low, "=q[P,H,E] asked"),
    GRPO_OPT(scale, "number? = null f32 inverse"),
    GRPO_OPT(window, "integer? = null >= 1"),
    GRPO_OPT(softcap, "number? = null > 0 f32 inverse"),
    GRPO_OPT(precision, "enum high|standard"),
};

}  // namespace

GRPO_OPERATION_BY(by_vectors, kPrefixAttention, prefix_attention, kFields);

}  // namespace grpo
