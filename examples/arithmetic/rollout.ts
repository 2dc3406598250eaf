// Packing and sampling. The rollouts of a prompt stand next to each other and share the prompt's tokens.
import * as tf from '@tensorflow/tfjs'
import { type Layout, prefixLayout } from '../../lib/index.js'
import { forward, type Parameters, packedAttention } from './model.js'
import { endToken, maxResponse, type Problem, vocabulary } from './problems.js'
import { draw, type Random } from './random.js'

export interface Rollout {
  readonly problem: Problem
  readonly response: ArrayLike<number>
}

export interface Batch {
  readonly layout: Layout
  /** [P] every prompt once, followed by its responses */
  readonly tokens: Int32Array
  /** [T] the tokens of all responses, which the loss is about */
  readonly token: Int32Array
}

export function pack(rollouts: readonly Rollout[]): Batch {
  const groups: { prefix: number; responses: number[] }[] = []
  const segments: Int32Array[] = []
  rollouts.forEach(({ problem, response }, i) => {
    if (problem !== rollouts[i - 1]?.problem) {
      groups.push({ prefix: problem.prompt.length, responses: [] })
      segments.push(problem.prompt)
    }
    groups.at(-1)?.responses.push(response.length)
    segments.push(Int32Array.from(response))
  })
  const layout = prefixLayout(groups)
  const tokens = layout.pack(segments).data
  return { layout, tokens, token: layout.place.data.map((place) => tokens[place] as number) }
}

/** Logits [P,V] of a batch. Row layout.row[t] predicts token[t]: the prompt's last row predicts every first token. */
export function packedLogits(parameters: Parameters, { layout, tokens }: Batch): tf.Tensor2D {
  return forward(parameters, tokens, layout.position.data, packedAttention(layout))
}

/** Samples `groupSize` responses per problem at temperature 1. Without a cache: the batch runs again for each token. */
export function sample(policy: Parameters, problems: readonly Problem[], groupSize: number, random: Random): Rollout[] {
  const rollouts = problems.flatMap((problem) =>
    Array.from({ length: groupSize }, () => ({ problem, response: [] as number[] })),
  )
  let open = rollouts
  for (let length = 0; length < maxResponse && open.length > 0; length++) {
    // A place for the token to be sampled: the layout then says which row of the logits predicts it.
    for (const { response } of open) response.push(endToken)
    const batch = pack(open)
    const { sequenceStart, row } = batch.layout
    const probabilities = tf.tidy(() => packedLogits(policy, batch).softmax().dataSync())
    open.forEach(({ response }, i) => {
      const last = (sequenceStart.data[i + 1] as number) - 1
      const start = (row.data[last] as number) * vocabulary
      response[length] = draw(probabilities.subarray(start, start + vocabulary), random)
    })
    open = open.filter(({ response }) => response[length] !== endToken)
  }
  return rollouts
}
