import { grpoError } from './addon/errors.js'
import { array, describe } from './arrays/array.js'
import { type Call, checkNames, checkSignal, operation } from './call/run.js'
import type { CallOptions } from './call/types.js'
import { integers, type Layout, layoutCall } from './tree_layout.js'

type Signal = Pick<CallOptions, 'signal'>

/** A prompt of `prefix` tokens and its responses' lengths. */
export interface PromptGroup {
  prefix: number
  responses: readonly number[]
}

/**
 * The packed layout of prompts with their responses, [prompt, response, response, ..., prompt, ...]: each prompt's
 * tokens stand once, however many responses share them.
 *
 *   position: 0, 1, ... in the prompt; every response goes on from the prompt's length
 *   row[t]:   the place that predicts loss token t: the one before it, for a response's first token the prompt's last
 *
 * A prompt without responses and a response without tokens are allowed. After an empty prompt the first token of a
 * response has row -1: nothing predicts it, so mask it. Responses of different prompts never see each other.
 *
 * @param groups  one entry per prompt: tokens of the prompt, and of each response
 * @returns the arrays of Layout (N = responses, T = response tokens, G = prompts), and pack([prompt, ...responses, ...])
 * @throws TypeError or RangeError if a length is not a whole number from 0, or the tokens reach 2^31
 * @see Prefix Grouper, arXiv:2506.05433
 * @example
 * import { prefixLayout } from 'grpo-kernels'
 *
 * const layout = prefixLayout([{ prefix: 3, responses: [2, 1] }])
 * console.log('position', layout.position.data.join(' '))
 * console.log('place   ', layout.place.data.join(' '))
 * console.log('row     ', layout.row.data.join(' '))
 * const packed = layout.pack([Int32Array.of(11, 12, 13), Int32Array.of(21, 22), Int32Array.of(31)])
 * console.log('packed  ', packed.data.join(' '))
 */
export const prefixLayout = operation((groups: readonly PromptGroup[], options: Signal = {}): Call<Layout> => {
  const name = 'prefixLayout'
  if (!Array.isArray(groups))
    throw grpoError('kind', name, 'groups', `is ${describe(groups)}, expected a list of prompts`)
  checkSignal(name, options)
  for (const [g, group] of groups.entries()) {
    if (typeof group !== 'object' || group === null) {
      throw grpoError('kind', name, 'groups', `has ${describe(group)} at ${g}, expected { prefix, responses }`)
    }
    checkNames(name, group, ['prefix', 'responses'], 'field')
  }
  const prefix = integers(
    name,
    'prefix',
    groups.map((group) => group.prefix),
    0,
  ).data
  const length: number[] = []
  const parent: number[] = []
  const end: number[] = []
  groups.forEach(({ responses }, g) => {
    const root = length.length
    length.push(prefix[g] as number)
    parent.push(-1)
    for (const tokens of integers(name, 'responses', responses, 0).data) {
      end.push(length.length)
      length.push(tokens)
      parent.push(root)
    }
  })
  // Of a tree its lengths would be at fault, which nobody has passed here.
  const tokens = length.reduce((sum, n) => sum + n, 0)
  if (tokens >= 2 ** 31) {
    throw grpoError('value', name, 'groups', `has ${tokens} tokens, expected less than 2147483648 packed ones`)
  }
  return layoutCall(array(Int32Array.from(length)), array(Int32Array.from(parent)), array(Int32Array.from(end)))
})
