// A step of any method on the arithmetic task: the columns that this trainer has, the method's decisions, and its loss.
import type * as tf from '@tensorflow/tfjs'
import { array } from '../../lib/index.js'
import { type AnyRecipe, prepareStep, type SavedState } from '../../lib/recipes/index.js'
import type { Parameters } from '../arithmetic/model.js'
import type { Problem } from '../arithmetic/problems.js'
import { pack } from '../arithmetic/rollout.js'
import { gradients, logprobs, type ScoredBatch } from '../arithmetic/train.js'
import { nameOf } from './problems.js'

export interface Rollouts {
  /** One per group. */
  readonly problems: readonly Problem[]
  readonly scored: ScoredBatch
  /** Of the steps of the whole run, 0 to 1. */
  readonly progress: number
}

/** The last response to each problem, with its log-probabilities as they were after that step. */
export type History = Map<string, { problem: Problem; response: Int32Array; logp: Float32Array }>

/** Of each problem: how far its last response has moved since, as the mean of |logp then - logp now|; 0 without one. */
function driftOf(history: History, policy: Parameters, problems: readonly Problem[]): number[] {
  const known = problems.map((problem) => history.get(nameOf(problem))).filter((last) => last !== undefined)
  if (known.length === 0) return problems.map(() => 0)
  const batch = pack(known)
  const { logp } = logprobs(policy, batch)
  const drift = known.map(({ problem, logp: then }, i) => {
    const now = logp.data.subarray(batch.layout.sequenceStart.data[i], batch.layout.sequenceStart.data[i + 1])
    const distance = then.reduce((sum, x, t) => sum + Math.abs(x - (now[t] as number)), 0)
    return [nameOf(problem), distance / then.length] as const
  })
  const named = new Map(drift)
  return problems.map((problem) => named.get(nameOf(problem)) ?? 0)
}

function remember(history: History, policy: Parameters, { problems, scored }: Rollouts): void {
  const { logp } = logprobs(policy, scored)
  const { groupStart, sequenceStart } = scored.layout
  problems.forEach((problem, g) => {
    const last = (groupStart.data[g + 1] as number) - 1
    const [begin, end] = [sequenceStart.data[last], sequenceStart.data[last + 1]]
    const response = scored.token.slice(begin, end)
    history.set(nameOf(problem), { problem, response, logp: logp.data.slice(begin, end) })
  })
}

/** What this trainer can tell a method beside the common columns; a method that needs more says what it lacks. */
function extraColumns(
  recipe: AnyRecipe,
  { problems, scored, progress }: Rollouts,
  drift: readonly number[] | undefined,
): Record<string, unknown> {
  const start = scored.layout.groupStart.data
  const perRollout = <T>(list: readonly T[]) =>
    list.flatMap((x, g) => Array<T>((start[g + 1] as number) - (start[g] as number)).fill(x))
  const prompts = problems.map(nameOf)
  const perGroup = recipe.description.columns?.prompt?.includes('[G]')
  return {
    prompt: perGroup ? prompts : perRollout(prompts),
    correct: scored.rewards,
    progress,
    drift: drift && perRollout(drift),
  }
}

export interface StepReport {
  readonly state: SavedState | undefined
  /** Tokens in the loss, over all updates. */
  readonly tokens: number
}

/** Moves the policy by `updates` optimizer steps on one batch of its own rollouts, by the method. */
export function recipeStep(
  recipe: AnyRecipe,
  state: SavedState | undefined,
  policy: Parameters,
  reference: Parameters,
  optimizer: tf.Optimizer,
  rollouts: Rollouts,
  updates: number,
  history: History,
): StepReport {
  const { problems, scored } = rollouts
  const asksForDrift = recipe.description.columns?.drift !== undefined
  const drift = asksForDrift ? driftOf(history, policy, problems) : undefined
  const { row, sequenceStart, groupStart } = scored.layout
  const { logp: oldLogp, entropy } = logprobs(policy, scored)
  const { logp: refLogp } = logprobs(reference, scored)
  const { rewards, token } = scored
  const columns = { rewards, groupStart, sequenceStart, token, oldLogp, refLogp, entropy }
  const batch = { ...extraColumns(recipe, rollouts, drift), ...columns }
  const prepared = prepareStep(recipe, batch, state as never)
  let tokens = 0
  for (let i = 0; i < updates; i++) {
    const { grads } = gradients(policy, scored, (logits) => {
      const { loss, gradLogits, weights } = prepared.loss({ logits, row })
      tokens += countOf(prepared.mask as Uint8Array, weights.mask, weights.weight)
      if (gradLogits === undefined) throw new Error(`${recipe.name} has no loss of logits`)
      return { loss: array(Float32Array.of(loss)), gradLogits }
    })
    optimizer.applyGradients(grads)
    for (const gradient of Object.values(grads)) gradient.dispose()
  }
  if (asksForDrift) remember(history, policy, rollouts)
  return { state: prepared.state, tokens }
}

/** Tokens that the masks keep and whose weight is not 0. */
const countOf = (mask: Uint8Array, second: Uint8Array | undefined, weight: Float32Array | undefined): number =>
  mask.reduce((sum, keep, t) => sum + (keep && second?.[t] !== 0 && weight?.[t] !== 0 ? 1 : 0), 0)
