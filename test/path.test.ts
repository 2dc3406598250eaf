// Which kernels a call would run, and why not faster ones: for every operation that has more than one path, on the CPU,
// and on a GPU by architecture, dtype, size and address.
import { afterEach, describe, expect, test } from 'vitest'
import { native } from '../lib/addon/native.js'
import { call } from '../lib/call/run.js'
import {
  array,
  cpu,
  gatherRows,
  groupAdvantage,
  type HostArray,
  linearPolicyLoss,
  linearTokenLogprob,
  linearTokenLogprobBackward,
  maskIndex,
  mergeMoments,
  policyLossFromLogits,
  prefixAttention,
  prefixAttentionBackward,
  prefixLayout,
  tokenLogprob,
  tokenLogprobBackward,
} from '../lib/index.js'
import * as promises from '../lib/promises.js'
import { backend, cpuDescribe } from './support/backend_kind.js'

const bf16 = (shape: number[], skip = 0) => {
  const size = shape.reduce((product, axis) => product * axis, 1)
  return array(new Uint16Array(size + skip).subarray(skip), shape, 'bf16')
}
const f32 = (...shape: number[]) => array(new Float32Array(shape.reduce((product, axis) => product * axis, 1)), shape)
const token = new Int32Array(2)
const policy = { token, advantage: new Float32Array(2), sequenceStart: new Int32Array([0, 1, 2]) }
const sets = { keptStart: new Int32Array([0, 2, 2]), kept: new Int32Array([0, 3]) }
const twoPasses = /^a ratio of a sequence needs the log-probabilities of all its tokens first/

cpuDescribe('on the CPU', () => {
  const before = cpu.instructionSet
  afterEach(() => {
    cpu.instructionSet = before
  })

  test('an operation of one path is its own kernel', () => {
    const inputs = { rewards: new Float32Array(4), groupStart: new Int32Array([0, 4]) }
    expect(groupAdvantage.path(inputs)).toEqual({ kernel: 'group_advantage' })
    expect(promises.groupAdvantage.path(inputs)).toEqual({ kernel: 'group_advantage' })
    expect(maskIndex.path({ mask: new Uint8Array(3) })).toEqual({ kernel: 'mask_index' })
    expect(mergeMoments.path([])).toEqual({ kernel: 'JavaScript' })
    expect(() => mergeMoments.path(3 as never)).toThrow('list is 3, expected an array')
  })

  test('vector code is that of the instruction set, and a narrower one than the widest says why', () => {
    const best = ['amx', 'avx512_bf16', 'avx512', 'avx2', 'baseline', 'neon'].find((name) =>
      native.setInstructionSet(name),
    ) as string
    const widest = ['amx', 'avx512_bf16', 'avx512', 'neon']
    for (const set of ['baseline', 'avx2', 'avx512', 'avx512_bf16', 'amx'].filter(native.setInstructionSet)) {
      cpu.instructionSet = set
      const { kernel, reason } = tokenLogprob.path({ logits: f32(2, 5), token })
      expect(kernel).toBe(`token_logprob (${cpu.instructionSet})`)
      if (set !== best) expect(reason).toContain(`where the processor has ${best}`)
      else expect(reason).toBe(widest.includes(best) ? undefined : 'the processor has no avx512')
    }
  })

  test('kept sets, and ratios of sequences', () => {
    const linear = { hidden: f32(2, 4), head: f32(5, 4), ...policy }
    const { instructionSet } = cpu
    expect(linearPolicyLoss.path({ ...linear, ...sets }).kernel).toBe(
      `linear_policy_loss (kept sets, ${instructionSet})`,
    )
    expect(linearPolicyLoss.path(linear, { ratio: 'sequence' }).reason).toMatch(twoPasses)
    expect(policyLossFromLogits.path({ logits: f32(2, 5), ...policy }, { ratio: 'sequence' }).reason).toMatch(twoPasses)
  })

  test('what the call refuses, its path refuses', () => {
    expect(() => tokenLogprob.path({ logits: f32(2, 5), token: new Int32Array(3) })).toThrow(/token has length 3/)
    expect(() => tokenLogprob.path({ logits: f32(2, 5), token }, { softcap: -1 })).toThrow(/softcap is -1/)
    expect(() => tokenLogprob.path({ logits: f32(2, 5), token }, { validVocab: 6 })).toThrow(/validVocab is 6/)
    expect(() => policyLossFromLogits.path({ logits: f32(2, 5), ...policy }, { klCoef: 1 })).toThrow(/refLogp/)
  })
})

const hasClusters = (process.env.GRPO_SIMT_ARCH ?? '90') >= '90'
const needsClusters = 'a row is read once by clusters of blocks, which need compute capability 9.0'
const unaligned = 'rows of logits do not begin at multiples of 16 bytes: read by shifted groups'

const simulatedDescribe = backend === 'simt' ? describe : () => undefined
simulatedDescribe('on a GPU', () => {
  const long = hasClusters ? { kernel: 'one_read_kernel' } : { kernel: 'two_read_kernel', reason: needsClusters }

  test('rows of logits: read once by a cluster, or twice', () => {
    expect(tokenLogprob.path({ logits: bf16([2, 40000]), token })).toEqual(long)
    expect(tokenLogprob.path({ logits: f32(2, 40), token })).toEqual({ kernel: 'two_read_kernel' })
    const backward = { logits: bf16([2, 40000]), token, logsumexp: f32(2), gradLogp: f32(2) }
    expect(tokenLogprobBackward.path(backward)).toEqual(long)
    expect(policyLossFromLogits.path({ logits: bf16([2, 40000]), ...policy })).toEqual(long)
    const { reason } = tokenLogprob.path({ logits: f32(2, 1000000), token })
    expect(reason).toBe(hasClusters ? 'a row is longer than the shared memory of a cluster' : needsClusters)
  })

  test('rows of logits that are not aligned, and rows with sets', () => {
    const reason = [unaligned, ...(hasClusters ? [] : [needsClusters])].join('; ')
    expect(tokenLogprob.path({ logits: bf16([2, 40001]), token })).toEqual({ ...long, reason })
    const { kernel } = tokenLogprob.path({ logits: bf16([2, 40000]), token, ...sets })
    expect(kernel).toBe(`kept_row_kernel, ${long.kernel}`)
  })

  test('ratios of sequences read the logits twice', () => {
    const { kernel, reason } = policyLossFromLogits.path({ logits: bf16([2, 40000]), ...policy }, { ratio: 'sequence' })
    expect(kernel).toBe(hasClusters ? 'one_read_kernel, two_read_kernel' : 'two_read_kernel')
    expect(reason).toMatch(twoPasses)
  })

  describe('attention', () => {
    const layout = prefixLayout([{ prefix: 2, responses: [1, 1] }])
    const inputs = (D: number, make: (shape: number[]) => HostArray<'f32' | 'bf16'>) => {
      const [q, k, v] = [make([4, 2, D]), make([4, 1, D]), make([4, 1, D])]
      return { q, k, v, layout }
    }
    const ofBackward = (D: number, make: (shape: number[]) => HostArray<'f32' | 'bf16'>) => {
      const forward = inputs(D, make)
      return { ...forward, gradOut: make([4, 2, D]), out: make([4, 2, D]), logsumexp: f32(4, 2) }
    }
    const kinds: [string, number, (shape: number[]) => HostArray<'f32' | 'bf16'>, string | undefined][] = [
      ['bf16', 64, bf16, undefined],
      ['f32', 64, (shape) => f32(...shape), 'matrix instructions take bf16 and f16, not f32'],
      ['a long head', 264, bf16, 'matrix instructions take head sizes from 8 to 256'],
      ['a short head', 7, bf16, 'matrix instructions take head sizes from 8 to 256'],
      ['an odd head', 13, bf16, undefined],
    ]
    test.each(kinds)('%s', (_, D, make, reason) => {
      const mma = reason === undefined ? '_mma' : ''
      const why = reason === undefined ? {} : { reason }
      expect(prefixAttention.path(inputs(D, make))).toEqual({ kernel: `prefix_attention${mma}_kernel`, ...why })
      const kernel = `grad_keys${mma}_kernel, grad_queries${mma}_kernel`
      expect(prefixAttentionBackward.path(ofBackward(D, make))).toEqual({ kernel, ...why })
    })
  })

  test('linear operations: matrix instructions for 16 bits in aligned rows', () => {
    const inputs = (make: (shape: number[]) => HostArray<'f32' | 'bf16'>, D: number) => ({
      hidden: make([2, D]),
      head: make([5, D]),
      ...policy,
    })
    const fast = { kernel: 'matmul_mma_kernel' }
    expect(linearPolicyLoss.path(inputs(bf16, 8))).toEqual(fast)
    const { hidden, head } = inputs(bf16, 8)
    expect(linearTokenLogprob.path({ hidden, head, token })).toEqual(fast)
    const gradients = { logsumexp: f32(2), gradLogp: f32(2) }
    expect(linearTokenLogprobBackward.path({ hidden, head, token, ...gradients })).toEqual(fast)
    expect(linearPolicyLoss.path({ ...inputs(bf16, 8), ...sets }).kernel).toBe('matmul_mma_kernel, kept_softmax_kernel')
    expect(linearPolicyLoss.path(inputs((shape) => f32(...shape), 8))).toEqual({
      kernel: 'matmul_kernel',
      reason: 'matrix instructions take bf16 and f16, not f32',
    })
    const reason = 'matrix instructions need rows of one dtype that begin at multiples of 16 bytes'
    expect(linearPolicyLoss.path(inputs(bf16, 5))).toEqual({ kernel: 'matmul_kernel', reason })
  })

  test('copies: whole words of 16 bytes, and converted vectors', () => {
    const index = new Int32Array([1, 0])
    expect(gatherRows.path({ x: f32(2, 4), index })).toEqual({ kernel: 'gather_rows' })
    expect(gatherRows.path({ x: f32(2, 3), index }).reason).toMatch(/^rows are not multiples of 16 bytes/)
    // An array of its own for each of the two, of which one begins a word later.
    const late = (rows: number) => array(new Float32Array(4 * rows + 1).subarray(1), [rows, 4])
    const reason = /^rows are not multiples of 16 bytes/
    expect(gatherRows.path({ x: late(2), index }).reason).toMatch(reason)
    expect(gatherRows.path({ x: f32(2, 4), index }, { out: { x: late(2) } }).reason).toMatch(reason)
    expect(call('convert', { x: f32(8) }, { out: { x: bf16([8]) } }).path()).toEqual({ kernel: 'convert' })
  })
})
