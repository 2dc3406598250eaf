import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { defineConfig, type TestProjectConfiguration } from 'vitest/config'

const here = dirname(fileURLToPath(import.meta.url))

/** The test files of operations, which run on both backends. */
const numeric = [
  'all_ops', 'discounted_sum', 'gather_rows', 'gaussian_logprob', 'group_advantage', 'group_by', 'linear_policy_loss', 'linear_policy_loss_edges',
  'linear_token_logprob', 'linear_token_logprob_edges', 'mask_index',
  'loss_stats', 'merge_token_logprob', 'moments', 'objective', 'policy_loss', 'policy_loss_surrogates', 'policy_loss_from_logits',
  'policy_loss_from_logits_edges', 'prefix_attention', 'scatter_rows', 'select_rollouts', 'select_tokens',
  'sequence_expand', 'sequence_sum', 'standardize', 'token_logprob', 'token_logprob_edges',
].map((name) => `test/${name}.test.ts`) // biome-ignore format: lines

/** What only device arrays can have wrong. */
const onDeviceOnly = [
  'test/device_contents.test.ts',
  'test/device_rows.test.ts',
  'test/device_tree_layout.test.ts',
  'test/device_linear_plan.test.ts',
  'test/device_mask_index.test.ts',
  'test/device_offsets.test.ts',
  'test/device_edges.test.ts',
  'test/device_kernels.test.ts',
]

/** Rows of logits are read twice before sm_90, and from there on brought by bulk copies to a cluster of blocks. */
const ofLogits = [
  'policy_loss_from_logits',
  'policy_loss_from_logits_edges',
  'token_logprob',
  'token_logprob_edges',
  'device_rows',
].map((name) => `test/${name}.test.ts`)

/** They start programs of their own, or need the simulated library: the sanitizers have no part in them. */
const notSanitized = process.env.GRPO_KERNELS_SANITIZED ? ['test/simt/**', 'test/device_*.test.ts', 'test/docs/**'] : []

/** The tests import lib/index.js, lib/call/run.js and lib/promises.js; here they get test/backend.ts, which computes on device arrays. */
const onDevice = {
  name: 'device arrays in place of host arrays',
  enforce: 'pre' as const,
  resolveId(source: string, importer: string | undefined) {
    const wanted = /(?:^|\/)lib\/(index|run|promises)\.js$/.exec(source)?.[1]
    const fromTest =
      importer?.startsWith(`${here}/`) && !/\/(backend|backend_promises|device_\w+\.test)\.ts$/.test(importer)
    if (wanted === undefined || !fromTest) return undefined
    return join(here, wanted === 'promises' ? 'backend_promises.ts' : 'backend.ts')
  },
}

const common = {
  pool: 'forks' as const, // native code: a crash ends one file, not the run
  setupFiles: ['./test/setup.ts'],
  testTimeout: 180_000,
}

const device = (
  name: string,
  include = [...numeric, ...onDeviceOnly],
  environment: Record<string, string> = {},
): TestProjectConfiguration => ({
  plugins: [onDevice],
  test: { ...common, name, include, env: { GRPO_TEST_BACKEND: name, ...environment } },
})

/** On the interpreter, in a mode of test/simt/runtime.hpp: by default an sm_90 whose asynchronous copies land late. */
const simulated = (name: string, include?: string[], mode: Record<string, string> = {}) =>
  device(name, include, {
    GRPO_TEST_BACKEND: 'simt',
    GRPO_KERNELS_CUDA: join(here, '../build-simt/libgrpo_kernels_cuda.so'),
    ...mode,
  })

export default defineConfig({
  test: {
    maxWorkers: 2,
    reporters: ['default', './test/closing_line.mjs'],
    projects: [
      { test: { ...common, name: 'cpu', include: ['test/**/*.test.ts'], exclude: [...onDeviceOnly, ...notSanitized] } },
      simulated('simt'),
      // Seeds with which ex2.approx in every softmax is not accurate enough.
      simulated('simt sm_80', [...ofLogits, 'test/prefix_attention.test.ts'], {
        GRPO_SIMT_ARCH: '80',
        GRPO_SIMT_SEED: '4',
        GRPO_SIMT_COPIES: 'random',
      }),
      simulated('simt early', ofLogits, { GRPO_SIMT_ARCH: '90', GRPO_SIMT_SEED: '3', GRPO_SIMT_COPIES: 'early' }),
      ...(process.env.GRPO_TEST_CUDA ? [device('cuda')] : []),
    ],
  },
})
