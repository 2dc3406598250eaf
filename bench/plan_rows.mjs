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

// One prompt of `prefix` tokens with `responses` of `length`; heads of 128, 32 of queries.
for (const [prefix, length, responses] of [
  [2048, 1024, 8],
  [8192, 1024, 16],
  [32768, 1024, 16],
]) {
  const pairs = 32 * (prefix ** 2 / 2 + responses * (length * prefix + length ** 2 / 2))
  const shape = `${prefix.toLocaleString('en')} + ${responses} x ${length.toLocaleString('en')}, heads 32:8 of 128, bf16`
  const column = 2 * 128 * pairs // a product of all pairs with one head size
  row('prefix_attention', shape, 'prefix_attention_mma_kernel', 'attention/forward_mma.cu', {
    products: 4 * column, special: pairs, needs: { products: 2 * column },
  }) // biome-ignore format: a line
  row('prefix_attention_backward', shape, 'grad_keys_mma_kernel', 'attention/backward_keys_mma.cu', {
    products: 8 * column, special: pairs, needs: { products: 3 * column },
  }) // biome-ignore format: a line
  row('prefix_attention_backward', shape, 'grad_queries_mma_kernel', 'attention/backward_queries_mma.cu', {
    products: 5 * column, special: pairs, needs: { products: 2 * column },
  }) // biome-ignore format: a line
}

const M = 2 ** 20
row('group_advantage', '1,048,576 in groups of 16', 'group_advantage_kernel', 'group_advantage.cu', { bytes: 8 * M })
row('policy_loss', '1,048,576 tokens', 'tokens_kernel', 'policy_loss.cu', { bytes: 17 * M, special: M })
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
