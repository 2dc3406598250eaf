// What the outputs of a case are in float64, by references that know nothing of the library. How near to that a kernel has
// to come is for wrong_numbers.ts to say.
import { fromBf16, fromF16, type HostArray, type Objective, toBf16, toF16 } from '../../lib/index.js'
import { statNames } from '../../lib/loss_stats.js'
import type { OperationName } from '../../lib/ops.js'
import { attentionGradients, attentionReference } from '../references/attention.js'
import { layoutReference, type Tree } from '../references/forest.js'
import { reference as gaussianKl } from '../references/gaussian_kl.js'
import { reference as gaussian } from '../references/gaussian_logprob.js'
import { groupReference } from '../references/group_advantage.js'
import {
  type ImportanceChoices,
  type ImportanceInputs,
  reference as importance,
} from '../references/importance_weight.js'
import { linearGradients, linearLogits } from '../references/linear.js'
import { reference as merged } from '../references/merge_token_logprob.js'
import { type PolicyCase, policyObjective } from '../references/policy_objective.js'
import { reference as selectRollouts } from '../references/select_rollouts.js'
import { reference as selectTokens } from '../references/select_tokens.js'
import { reference as standardize } from '../references/standardize.js'
import { type LogitsInputs, tokenLogprobBackwardReference, tokenLogprobReference } from '../references/token_logprob.js'
import { values } from '../support/numbers.js'
import { type Arguments, attentionOf } from './arguments.js'

export type Numbers = ArrayLike<number>
export type Round = (x: number) => number
export type Expected = Record<string, Numbers>
/** With `round` = Math.fround the plain float32 formula; `types`: the dtypes of the outputs. */
type Reference = (args: Arguments, round: Round, types: Record<string, string>) => Expected

const numbersOf = ({ inputs }: Arguments) =>
  Object.fromEntries(Object.entries(inputs).map(([name, x]) => [name, values(x)])) as Record<string, Numbers>
const size = (x: HostArray | undefined, axis: number) => (x?.shape[axis] ?? 1) as number

/** The tokens or rollouts from..to of each part that a mask lets through. */
function parts(start: Numbers, mask: Numbers | undefined): number[][] {
  return Array.from({ length: start.length - 1 }, (_, s) => {
    const all = Array.from({ length: start[s + 1]! - start[s]! }, (_, i) => start[s]! + i)
    return all.filter((t) => mask?.[t] !== 0)
  })
}
const sum = (x: number[], round: Round) => x.reduce((total, v) => round(total + v), 0)
const zeros = (n: number) => new Float64Array(n)

const logitsInputs = (args: Arguments, logits: Numbers, V: number) => {
  const { token, row, rowTemperature, keptStart, kept, mask } = numbersOf(args)
  const { temperature = 1, softcap, validVocab, vocabStart } = args.options as Record<string, number | undefined>
  const beside = { row, rowTemperature, keptStart, kept, mask, temperature, softcap, validVocab, vocabStart }
  return { logits, V, token: token as Numbers, ...beside }
}

/** And what option `full` adds, of the whole vocabulary. */
function withFull({ keptStart, kept, ...whole }: LogitsInputs, round: Round): Expected {
  const { logp: fullLogp, logsumexp: fullLogsumexp } = tokenLogprobReference(whole, round)
  return { ...tokenLogprobReference({ keptStart, kept, ...whole }, round), fullLogp, fullLogsumexp }
}

/**
 * With precision 'standard' the plain formula too rounds what it computes of two factors of one dtype of 16 bits. Where
 * `round` goes either way, so does this.
 */
function roundedFactor(args: Arguments, gradLogits: Float64Array, round: Round): Float64Array {
  const { hidden, head } = args.inputs as Record<string, HostArray>
  const third = 1 / 3
  if (args.options.precision !== 'standard' || hidden!.dtype !== head!.dtype || round(third) === third)
    return gradLogits
  if (head!.dtype === 'f32') return gradLogits
  const move = round === Math.fround ? 0 : 2 ** -9
  const scale = ((args.options.gradScale as number | undefined) ?? 1) || 1
  const moved = Float32Array.from(gradLogits, (g) => scale * g * (1 + (round(third) < third ? -move : move)))
  const narrow = head!.dtype === 'bf16' ? fromBf16(toBf16(moved)) : fromF16(toF16(moved))
  return Float64Array.from(narrow, (g) => g / scale)
}

function linear(args: Arguments, round: Round) {
  const { hidden, head, headBias } = numbersOf(args) as Record<string, Numbers>
  const [R, D, V] = [size(args.inputs.hidden, 0), size(args.inputs.hidden, 1), size(args.inputs.head, 0)]
  const bias = headBias
  const logits = D > 0 ? linearLogits({ hidden: hidden!, head: head!, D, headBias: bias }, round) : Float64Array.from({ length: R * V }, (_, i) => bias?.[i % V] ?? 0) // biome-ignore format: one choice
  const gradients = (unrounded: Float64Array) => {
    const gradLogits = roundedFactor(args, unrounded, round)
    if (D > 0) return linearGradients({ hidden: hidden!, head: head!, D }, gradLogits, round)
    const gradHeadBias = zeros(V)
    for (let i = 0; i < R * V; i++) gradHeadBias[i % V]! += gradLogits[i]!
    return { gradHidden: [], gradHead: [], gradHeadBias }
  }
  return { logits, V, gradients }
}

/** In the order of `stats`; numbers of these calls are finite, and their indices in range. */
function statsOf({ stats, totals }: Pick<ReturnType<typeof policyObjective>, 'stats' | 'totals'>): number[] {
  const all: Record<string, number> = { ...totals, tokens: stats.tokens, sequences: stats.sequences }
  return statNames.map((name) => all[name] ?? 0)
}

/** The size of the terms that a gradient of logits is a sum of: kernels form those of the tokens themselves in float64. */
function termsOf(args: Arguments, gradLogp: Numbers, gradEntropy: Numbers = [], factor: readonly Numbers[] = [[1]]) {
  const largest = (lists: readonly Numbers[]) =>
    lists
      .map((x) => Array.from(x).reduce((most, v) => Math.max(most, Math.abs(v)), 0))
      .reduce((a, b) => Math.max(a, b), 0)
  const least = Array.from(numbersOf(args).rowTemperature ?? [1]).reduce((a, b) => Math.min(a, b), 1)
  return [(largest([gradLogp, gradEntropy]) * largest(factor)) / (((args.options.temperature as number) ?? 1) * least)]
}

/** The loss from logits: its policy's log-probabilities are float32, as they are handed over. */
function lossFrom(args: Arguments, logits: Numbers, V: number, round: Round) {
  const { token, row, rowTemperature, keptStart, kept, ...policy } = numbersOf(args)
  const inputs = logitsInputs(args, logits, V)
  const { logp, entropy } = tokenLogprobReference(inputs, round)
  const { temperature, softcap, chunkRows, validVocab, gradScale, precision, ...objective } = args.options
  const given = { ...policy, logp, entropy } as unknown as PolicyCase
  const { loss, gradLogp, gradEntropy, ...counted } = policyObjective(given, objective as Objective, round)
  const gradLogits = tokenLogprobBackwardReference(inputs, gradLogp, gradEntropy, round)
  const { hidden = [1], head = [1] } = policy as unknown as Record<string, Numbers>
  const terms = termsOf(args, gradLogp, gradEntropy, [hidden, head, [1]])
  return { loss: [loss], stats: statsOf(counted), logp, entropy, gradLogits, terms }
}

export const references: Record<Exclude<OperationName, 'linearPolicyLossPlan'>, Reference> = {
  groupAdvantage: (args, round) => {
    const { rewards, groupStart, mask } = numbersOf(args)
    const all = [...Array.from(rewards!), (args.options.virtualReward as number) ?? 0]
    const terms = [(all.length + ((args.options.virtualCount as number) ?? 0)) * Math.max(...all.map(Math.abs))]
    return { ...groupReference(rewards!, groupStart!, mask, args.options, round), terms }
  },
  moments: (args) => {
    const { x, mask } = numbersOf(args)
    const counted = Array.from(x!).filter((_, i) => mask?.[i] !== 0)
    const n = counted.length
    const mean = n === 0 ? 0 : counted.every((v) => v === counted[0]) ? counted[0]! : sum(counted, Number) / n
    const m2 = counted.reduce((total, v) => total + (v - mean) ** 2, 0)
    // float64 as the output is: how far sums of n numbers may be apart by the order of their terms.
    return { moments: [n, mean, m2], terms: [n * Math.max(m2, ...counted.map(Math.abs))] }
  },
  standardize: (args, round) => {
    const { x, mask, moments } = numbersOf(args)
    const [count, mean, m2] = Array.from(moments!) as [number, number, number]
    return { x: standardize(x!, mask, { count, mean, m2 }, args.options, round) }
  },
  tokenLogprob: (args, round) =>
    withFull(logitsInputs(args, numbersOf(args).logits!, size(args.inputs.logits, 1)), round),
  tokenLogprobBackward: (args, round) => {
    const { logits, gradLogp, gradEntropy } = numbersOf(args)
    const inputs = logitsInputs(args, logits!, size(args.inputs.logits, 1))
    const { logsumexp, entropy } = args.whole ?? {}
    const vocabStart = args.options.vocabStart as number
    const whole = logsumexp && { logsumexp: logsumexp.map(round), entropy: entropy!.map(round), vocabStart }
    const gradLogits = tokenLogprobBackwardReference({ ...inputs, whole }, gradLogp!, gradEntropy, round)
    return { gradLogits, terms: termsOf(args, gradLogp!, gradEntropy) }
  },
  mergeTokenLogprob: ({ inputs }, round) => {
    const { logp, entropy, logsumexp, otherLogp, otherEntropy, otherLogsumexp } = inputs as Record<string, HostArray>
    const [N, T] = otherLogp!.shape as [number, number]
    const row = (x: HostArray | undefined, i: number) => ({ data: x!.data.subarray(i * T, (i + 1) * T) })
    const others = Array.from({ length: N }, (_, i) => ({ logp: row(otherLogp, i), entropy: row(otherEntropy, i), logsumexp: row(otherLogsumexp, i) })) // biome-ignore format: a line
    const all = [{ logp, entropy, logsumexp }, ...others]
    const tokens = Array.from((logp as HostArray).data, (_, t) => merged(all as never, t, round))
    return Object.fromEntries((['logp', 'entropy', 'logsumexp'] as const).map((x) => [x, tokens.map((t) => t[x])]))
  },
  gaussianLogprob: (args, round) => {
    const { x, mean, std, oldMean = mean, mask } = numbersOf(args)
    const D = size(args.inputs.x, 1)
    if (D === 0) return { logp: zeros(std!.length), logRatio: zeros(std!.length) }
    const { logp, logRatio } = gaussian(
      { x: x!, mean: mean!, std: std!, oldMean: oldMean!, mask },
      D,
      std!,
      std!,
      round,
    )
    return { logp, logRatio }
  },
  gaussianLogprobBackward: (args, round) => {
    const { x, mean, std, oldMean = mean, mask, ...grads } = numbersOf(args)
    const D = size(args.inputs.x, 1)
    const { gradLogp = zeros(std!.length), gradLogRatio = zeros(std!.length) } = grads
    const c = { x: x!, mean: mean!, std: std!, oldMean: oldMean!, mask }
    return { gradMean: gaussian(c, D, gradLogp, gradLogRatio, round).gradMean }
  },
  gaussianKl: (args, round) => {
    const { mean, refMean, std, mask } = numbersOf(args)
    const c = { mean: mean!, refMean: refMean!, std: std!, mask }
    return { kl: gaussianKl(c, size(args.inputs.mean, 1), std!, round).kl }
  },
  gaussianKlBackward: (args, round) => {
    const { mean, refMean, std, mask, gradKl } = numbersOf(args)
    const c = { mean: mean!, refMean: refMean!, std: std!, mask }
    return { gradMean: gaussianKl(c, size(args.inputs.mean, 1), gradKl!, round).gradMean }
  },
  logRatio: (args, round) => {
    const { x, y, mask } = numbersOf(args)
    return { logRatio: Array.from(x!, (value, t) => (mask?.[t] === 0 ? 0 : round(value - y![t]!))) }
  },
  policyLoss: (args, round) => {
    const { loss, gradLogp, gradEntropy, ...counted } = policyObjective(numbersOf(args) as never, args.options, round)
    return { loss: [loss], gradLogp, gradEntropy, stats: statsOf(counted) }
  },
  policyLossFromLogits: (args, round) => lossFrom(args, numbersOf(args).logits!, size(args.inputs.logits, 1), round),
  linearPolicyLoss: (args, round) => {
    const { logits, V, gradients } = linear(args, round)
    const { gradLogits, ...rest } = lossFrom(args, logits, V, round)
    return { ...rest, ...gradients(gradLogits) }
  },
  linearTokenLogprob: (args, round) => {
    const { logits, V } = linear(args, round)
    return withFull(logitsInputs(args, logits, V), round)
  },
  linearTokenLogprobBackward: (args, round) => {
    const { logits, V, gradients } = linear(args, round)
    const { gradLogp, gradEntropy, hidden, head } = numbersOf(args)
    const gradLogits = tokenLogprobBackwardReference(logitsInputs(args, logits, V), gradLogp!, gradEntropy, round)
    return { ...gradients(gradLogits), terms: termsOf(args, gradLogp!, gradEntropy, [hidden!, head!, [1]]) }
  },
  treeLayout: ({ tree }) => {
    const { segmentParent, ...layout } = layoutReference(tree as Tree)
    const { position, sequenceStart, row, groupStart } = layout
    return { ...layout, sizes: [position.length, sequenceStart.length - 1, row.length, groupStart.length - 1] }
  },
  prefixAttention: (args, round) => {
    const { s, sees } = attentionOf(args)
    const { q, k, v } = numbersOf(args)
    return attentionReference({ q: q!, k: k!, v: v! }, sees, s, round)
  },
  prefixAttentionBackward: (args, round) => {
    const { s, sees } = attentionOf(args)
    const { outLow, ...numbers } = numbersOf(args)
    const out = Float64Array.from(numbers.out!, (x, i) => x + (outLow?.[i] ?? 0))
    return attentionGradients({ ...numbers, out } as never, sees, s, round)
  },
  selectRollouts: (args) => {
    const { score, groupStart, mask } = numbersOf(args)
    if (args.options.scope === 'batch') return { mask: selectRollouts(score!, mask, args.options) }
    const kept = Array.from({ length: groupStart!.length - 1 }, (_, g) => {
      const [from, to] = [groupStart![g], groupStart![g + 1]]
      return selectRollouts(
        (score as Float32Array).slice(from, to),
        (mask as Uint8Array)?.slice(from, to),
        args.options,
      )
    })
    return { mask: kept.flat() }
  },
  selectTokens: (args) => {
    const data = Object.fromEntries(Object.entries(args.inputs).map(([name, x]) => [name, x.data]))
    return { mask: selectTokens(data as never, args.options) }
  },
  maskIndex: (args) => {
    const index = Array.from(numbersOf(args).mask!).flatMap((kept, i) => (kept ? [i] : []))
    return { count: [index.length], index }
  },
  gatherRows: (args) => {
    const { x, index } = numbersOf(args)
    const D = size(args.inputs.x, 1)
    return { x: Array.from(index!).flatMap((r) => Array.from(x!).slice(r * D, (r + 1) * D)) }
  },
  scatterRows: (args, _, types) => {
    const { x, index } = numbersOf(args)
    const D = size(args.inputs.x, 1)
    const out = zeros((args.options.rows as number) * D)
    const add = { i32: (v: number) => v | 0, u8: (v: number) => v & 255, f64: Number }[types.x as 'i32'] ?? Math.fround
    Array.from(index!).forEach((r, m) => {
      for (let d = 0; d < D; d++) out[r * D + d] = add(out[r * D + d]! + x![m * D + d]!)
    })
    return { x: out }
  },
  sequenceSum: (args, round) => {
    const { x, sequenceStart, mask } = numbersOf(args)
    return {
      x: parts(sequenceStart!, mask).map((tokens) => {
        const total = sum(
          tokens.map((t) => x![t]!),
          round,
        )
        return args.options.mean && tokens.length > 0 ? round(total / tokens.length) : total
      }),
    }
  },
  sequenceExpand: (args) => {
    const { x, sequenceStart, mask } = numbersOf(args)
    const out = zeros(sequenceStart![sequenceStart!.length - 1] ?? 0)
    parts(sequenceStart!, mask).forEach((tokens, s) => {
      for (const t of tokens) out[t] = x![s]! / (args.options.mean ? tokens.length : 1)
    })
    return { x: out }
  },
  discountedSum: (args, round) => {
    const { x, sequenceStart, mask } = numbersOf(args)
    const out = zeros(x!.length)
    for (const tokens of parts(sequenceStart!, mask)) {
      let later = 0
      for (const t of tokens.reverse()) out[t] = later = round(x![t]! + round(((args.options.decay as number) ?? 1) * later)) // biome-ignore format: one chain
    }
    return { x: out }
  },
  importanceWeight: (args, round) =>
    importance(numbersOf(args) as unknown as ImportanceInputs, args.options as ImportanceChoices, round),
  groupBy: (args) => {
    const ids = Array.from(numbersOf(args).ids!)
    const order = ids.map((_, i) => i).sort((a, b) => ids[a]! - ids[b]! || a - b)
    const starts = order.flatMap((i, place) => (place === 0 || ids[i] !== ids[order[place - 1]!] ? [place] : []))
    return { count: [starts.length], order, groupStart: [...starts, ids.length] }
  },
  convert: (args) => ({ x: numbersOf(args).x! }),
}
