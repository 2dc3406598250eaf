// Forward pass of shared-prefix attention, see attention/tiles.h.
//
// One thread owns a query tile. Scores are held transposed, [keys, queries], so that the running softmax has a query
// per vector lane and never sums across lanes. Queries are packed and scaled once per tile; keys and values are copied
// a tile at a time, also where they are float32: the rows of one head lie K * D apart, a multiple of the cache's own
// stride at the usual sizes, and in place the products were 3 % slower than with the copy.
#include <cmath>

#include "attention/attention.h"
#include "attention/options_of_today.h"
#include "attention/rows.h"
#include "attention/work.h"

namespace grpo {
namespace {

struct Workspace {
  float* queries;  // [kTileRows, D]
  float* columns;  // [D, kTileRows]  the queries transposed, times scale
  float* k;        // [kTileKeys, D]
  float* v;        // [kTileKeys, E]
  float* scores;   // [kTileKeys, kTileRows]
  float* out;      // [kTileRows, E]  times sum
  float *max, *sum, *rescale;
  int32_t* visible;

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
            .visible = reinterpret_cast<int32_t*>(carver.take(kTileRows))};
  }
};

void scale_row(float* x, float factor, int64_t n) {
  for (int64_t i = 0; i < n; ++i) x[i] *= factor;
}

// out[rows, E] = rescale * out + P^T V. A hidden key has p = 0, but 0 times an infinite or NaN value would not be 0:
// then each row's sum stops at the last key that it sees, which changes no bit of the others.
void add_values(const Workspace& work, const TilePair& pair, const int32_t* visible, int64_t first, int64_t rows,
                int64_t E) {
  const VectorKernels& kernels = vector_kernels();
  float* out = work.out + first * E;
  for (int64_t r = 0; r < rows; ++r)
    if (work.rescale[r] != 1) scale_row(out + r * E, work.rescale[r], E);
  if (visible == nullptr || all_finite(work.v, pair.keys * E))
    return kernels.matmul_tile(work.scores, 1, kTileRows, work.v, E, out, E, rows, E, pair.keys, true);
  for (int64_t r = 0; r < rows; ++r)
    kernels.matmul_tile(work.scores + r, 1, kTileRows, work.v, E, out + r * E, E, 1, E, visible[r], true);
}

void prefix_attention(const void* q,  // [P,H,D]
                      const void* k,  // [P,K,D]
                      const void* v,  // [P,K,E]
                      const Segments& segments,
                      void* out,         // [P,H,E], may be null
                      float* logsumexp,  // [P,H], may be null
                      const AttentionSizes& sizes) {
  const int64_t H = sizes.H, K = sizes.K, D = sizes.D, E = sizes.E;
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
    gather(q, type, (tile.begin * H + head) * D, H * D, tokens, heads * D, work.queries);
    transpose(work.queries, rows, D, sizes.scale, work.columns);
    std::fill_n(work.max, rows, -INFINITY);
    std::fill_n(work.sum, rows, 0.0f);
    std::fill_n(work.out, rows * E, 0.0f);

    for_each_pair(segments, tile, [&](const TilePair& pair) {
      const int64_t first = (pair.token - tile.begin) * heads, count = (pair.token_end - pair.token) * heads;
      gather(k, type, (pair.key * K + key_head) * D, K * D, pair.keys, D, work.k);
      kernels.matmul_tile(work.k, D, 1, work.columns + first, kTileRows, work.scores, kTileRows, pair.keys, count, D,
                          false);
      const int32_t* visible = visible_keys(pair, heads, work.visible);
      kernels.softmax_tile(work.scores, kTileRows, pair.keys, count, visible, work.max + first, work.sum + first,
                           work.rescale);
      if (out == nullptr) return;
      gather(v, type, (pair.key * K + key_head) * E, K * E, pair.keys, E, work.v);
      add_values(work, pair, visible, first, count, E);
    });

    if (out != nullptr) {
      for (int64_t r = 0; r < rows; ++r) scale_row(work.out + r * E, 1 / work.sum[r], E);
      scatter(work.out, out, type, (tile.begin * H + head) * E, H * E, tokens, heads * E);
    }
    if (logsumexp == nullptr) return;
    for (int64_t r = 0; r < rows; ++r)
      logsumexp[(tile.begin + r / heads) * H + head + r % heads] =
          static_cast<float>(work.max[r] + std::log(static_cast<double>(work.sum[r])));
  }, sizes);
}

// Without columns all scores are 0: the logarithm of how many tokens each one sees, for which no pair is looked at.
void count_seen(const Segments& segments,
                float* logsumexp,  // [P,H]
                const AttentionSizes& sizes) {
  Scratch<int64_t> before(segments.B);  // tokens of a segment's ancestors
  for (int64_t b = 0; b < segments.B; ++b) {
    const int32_t parent = segments.parent[b];
    before[b] = parent < 0 ? 0 : before[parent] + segments.start[parent + 1] - segments.start[parent];
  }
  parallel_for(segments.B, 256, [&](int64_t first, int64_t last, int) {
    for (int64_t b = first; b < last; ++b)
      for (int64_t p = segments.start[b]; p < segments.start[b + 1]; ++p)
        std::fill_n(logsumexp + p * sizes.H, sizes.H,
                    static_cast<float>(std::log(static_cast<double>(before[b] + p - segments.start[b] + 1))));
  });
}

// ---- the C interface ------------------------------------------------------------------------------------------------

using Args = grpo_prefix_attention_args;

int run(const Args& args, const Axes& axes) {
  const Segments segments = segments_of(args, axes);
  const AttentionSizes sizes = sizes_of(args, axes);
  if (int status = check_attention(args, axes)) return status;
  if (int status = check_options_of_today(args)) return status;
  if (int status = check_layout(segments)) return status;
  const bool values = args.out != nullptr && sizes.E > 0;
  if (sizes.H == 0 || (!values && args.logsumexp == nullptr)) return GRPO_OK;
  if (sizes.D == 0 && !values) {
    count_seen(segments, data<float>(args.logsumexp), sizes);
    return GRPO_OK;
  }
  prefix_attention(data<void>(args.q), data<void>(args.k), data<void>(args.v), segments, data<void>(args.out),
                   data<float>(args.logsumexp), sizes);
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
