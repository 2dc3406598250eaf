// What bench:cuda -- --plan counts: for each kernel that bounds an operation, at the shapes of large jobs, the work that
// the operation needs (its floor) and the work that today's kernel does. Counts are whole: nothing here is measured.
//
//   bytes     between memory and the chip      products  multiplications and additions on the matrix units
//   special   exponentials and reciprocals     trips     how often a warp runs the kernel's main loop, where counted
const rows = []
const row = (operation, shape, kernel, file, work) => rows.push({ operation, shape, kernel, file, ...work })

const logits = 'logits/logits_cluster.cuh'
const N = 16384
// Qwen (two sizes), Kimi, gpt-oss.
for (const V of [151936, 152064, 163840, 201088]) {
  const pass = N * V * 2
  const shape = `${N.toLocaleString('en')} x ${V.toLocaleString('en')}, bf16`
  row('policy_loss_from_logits', shape, 'one_read_kernel', logits, {
    unit: 'policy_loss_from_logits.cu',
    bytes: 2 * pass,
    special: 2 * N * V,
  })
}
{
  const V = 151936
  const pass = N * V * 2
  const shape = `16,384 x 151,936, bf16`
  row('token_logprob', shape, 'one_read_kernel', logits, { unit: 'token_logprob.cu', bytes: pass, special: N * V })
  row('token_logprob_backward', shape, 'one_read_kernel', logits, {
    unit: 'token_logprob.cu',
    bytes: 2 * pass,
    special: 2 * N * V,
  })
  row('policy_loss_from_logits', `${shape}, ratios of sequences`, 'two_read_kernel', 'logits/logits_rows.cuh', {
    unit: 'policy_loss_from_logits.cu', bytes: 3 * pass, special: 2 * N * V, of: 'the pass before with it',
  }) // biome-ignore format: a line

  // One product for log-probabilities, three with gradients. A chunk of float32 logits is written and read twice, and its
  // gradient, in float16, written once and read by two products.
  const D = 4096
  const product = 2 * N * D * V
  const linear = 'linear/matmul_mma.cuh'
  const size = `16,384 x 4,096 x 151,936, bf16`
  row('linear_token_logprob', size, 'matmul_mma_kernel', linear, {
    unit: 'linear/matmul_mma.cu',
    products: product,
    bytes: 2 * N * V * 4,
    needs: { products: product },
  })
  row('linear_policy_loss', size, 'matmul_mma_kernel', linear, {
    unit: 'linear/matmul_mma.cu', products: 3 * product, bytes: (3 * 4 + 3 * 2) * N * V, needs: { products: 3 * product },
  }) // biome-ignore format: a line
}

// Attention of one layer: a prompt of `prefix` tokens with `responses` of `length`.
for (const layer of [
  { prefix: 2048, length: 1024, responses: 8 },
  { prefix: 8192, length: 1024, responses: 16 },
  { prefix: 32768, length: 1024, responses: 16 },
  { prefix: 8192, length: 1024, responses: 16, window: 1024 },
  { like: 'gpt-oss', prefix: 8192, length: 1024, responses: 16, H: 64, D: 64, window: 128, sinks: true },
  { like: 'gpt-oss', prefix: 8192, length: 1024, responses: 16, H: 64, D: 64, sinks: true },
  { like: 'Gemma 3', prefix: 8192, length: 1024, responses: 16, H: 16, D: 256, window: 1024 },
  { like: 'Gemma 2', prefix: 8192, length: 1024, responses: 16, H: 16, D: 256, softcap: true },
  { like: 'Qwen3-Next', prefix: 8192, length: 1024, responses: 16, H: 16, K: 2, D: 256 },
  { like: 'DeepSeek', prefix: 8192, length: 1024, responses: 16, H: 16, K: 16, D: 192, E: 128 },
]) {
  const { like, prefix, length, responses, H = 32, K = 8, D = 128, E = D, window, softcap, sinks } = layer
  const number = (x) => x.toLocaleString('en')
  const what = [
    like && `as ${like}`,
    `${number(prefix)} + ${responses} x ${number(length)}`,
    `heads ${H}:${K} of ${D === E ? D : `${D}/${E}`}`,
    window && `window ${number(window)}`,
    softcap && 'soft-cap',
    sinks && 'sinks',
  ]
  const shape = [...what, 'bf16'].filter(Boolean).join(', ')
  const P = prefix + responses * length
  const heads = (H / K) % 4 === 0 ? 4 : (H / K) % 2 === 0 ? 2 : 1 // of a tile
  /** Pairs of query and key in tiles of `tokens` queries and `keys` keys that see each other. */
  const pairs = (tokens, keys) => {
    const from = (begin, end) => {
      let sum = 0
      for (let t = begin; t < end; t += tokens) {
        const first = window === undefined ? 0 : Math.max(0, t - window + 1)
        sum += tokens * keys * (Math.ceil((t + tokens) / keys) - Math.floor(first / keys))
      }
      return sum
    }
    return H * (from(0, prefix) + responses * from(prefix, prefix + length))
  }
  const needed = pairs(1, 1)
  const work = (columns, touched, bytes, needs) => ({
    ...{ bytes, products: 2 * columns * touched, special: touched * (softcap ? 3 : 1) },
    needs: { products: 2 * needs.columns * needed, bytes: needs.bytes },
  })
  // Tensors of queries and of keys, in bf16; what goes through matrix instructions is copied first, and read again.
  const [q, out, kv] = [2 * P * H * D, 2 * P * H * E, 2 * P * K * (D + E)]
  const file = (name) => `attention/${name}_mma.cu`
  row('prefix_attention', shape, 'prefix_attention_mma_kernel', file('forward'), {
    ...work(E > 128 ? 2 * D + E : D + E, pairs((D > 128 ? 64 : 128) / heads, 64), 3 * (q + kv) + out, {
      columns: D + E,
      bytes: q + kv + out,
    }),
  })
  // Where one kernel does not form both, probabilities are formed again.
  const both = window === undefined && !softcap && E <= 128
  row('prefix_attention_backward', shape, 'grad_keys_mma_kernel', file('backward_keys'), {
    ...work((both ? 2 : 3) * D + 2 * E, pairs(64, 64), 3 * (q + out + kv) + kv, {
      columns: 2 * D + E,
      bytes: q + out + 2 * kv,
    }),
  })
  row('prefix_attention_backward', shape, 'grad_queries_mma_kernel', file('backward_queries'), {
    ...work(2 * D + E, pairs(64 / heads, 64), 2 * q + out + kv, { columns: D + E, bytes: q }),
  })
}

const M = 2 ** 20
row('group_advantage', '1,048,576 in groups of 16', 'group_advantage_kernel', 'group_advantage.cu', { bytes: 8 * M })
row('policy_loss', '1,048,576 tokens', 'tokens_kernel', 'policy_loss.cu', { bytes: 17 * M, special: M })
row('importance_weight', '2,097,152 tokens', 'importance_weight_kernel', 'importance_weight.cu', {
  bytes: 13 * 2 * M, special: 2 * M,
}) // biome-ignore format: a line
row('select_tokens', '16,777,216 tokens', 'keys_kernel', 'select_tokens.cu', {
  bytes: 23 * 16 * M, needs: { bytes: (4 * 2 + 1) * 16 * M },
}) // biome-ignore format: a line
row('select_rollouts', '65,536 groups of 16', 'small_groups_kernel', 'select_rollouts.cu', {
  bytes: 6 * M, needs: { bytes: 5 * M },
}) // biome-ignore format: a line
row('discounted_sum', '16 x 32,768', 'earlier_pieces_kernel', 'discounted_sum.cu', {
  bytes: 12 * 16 * 32768, needs: { bytes: 8 * 16 * 32768 },
}) // biome-ignore format: a line
row('scatter_rows', '147,456 rows into 24,576 of 4,096, bf16', 'scatter_rows_kernel', 'scatter_rows.cu', {
  bytes: (147456 + 24576) * 4096 * 2,
}) // biome-ignore format: a line
row('gather_rows', '147,456 rows of 4,096, bf16', 'gather_rows_kernel', 'gather_rows.cu', {
  bytes: 2 * 147456 * 4096 * 2,
})
row('standardize', '1,048,576 values', 'standardize_kernel', 'standardize.cu', { bytes: 8 * M })

export { rows }
