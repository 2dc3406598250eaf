// Parts that cannot be parts of one vocabulary: mergeTokenLogprob refuses them by name; on a device they give NaN.
import { describe, expect, test } from 'vitest'
import { array, mergeTokenLogprob, tokenLogprob } from '../lib/index.js'
import * as promises from '../lib/promises.js'
import { names, type Part } from './references/merge_token_logprob.js'
import { backend, cpuTest } from './support/backend_kind.js'
import { exactly, refuses } from './support/compare.js'

const f32 = (x: number) => array(Float32Array.of(x))
const part = (logp: number, entropy: number, logsumexp: number): Part => ({
  logp: f32(logp),
  entropy: f32(entropy),
  logsumexp: f32(logsumexp),
})
const only = (x: Part) => names.map((name) => x[name].data[0])

describe('a token that more than one part claims', () => {
  // The right value of a vocabulary that every rank holds whole would be one part's own, -2.44: twice it is no part of any.
  const replicated = () =>
    tokenLogprob(
      { logits: array(new Float32Array([1, 2, 3, 4]), [1, 4]), token: new Int32Array([1]) },
      { vocabStart: 0 },
    )
  const nowhere = part(-Infinity, 0.5, 1)
  const empty = part(-Infinity, 0, -Infinity)
  const lists: [string, () => Part[], string, string][] = [
    ['twice the same', () => [replicated(), replicated()], 'list[1].logp', 'as list[0].logp'],
    ['the first and the last', () => [part(-1, 1, 2), nowhere, part(-3, 1, 2)], 'list[2].logp', 'as list[0].logp'],
    ['the last two', () => [nowhere, part(-1, 1, 2), nowhere, part(0, 1, 2)], 'list[3].logp', 'as list[1].logp'],
    ['a masked token in one of them', () => [part(0, 0, 0), part(-1, 0.5, 2)], 'list[1].logp', 'as list[0].logp'],
    // Pair by pair these two would pass for a masked token, and the third for a part that adds nothing to it.
    ['0, 0, 0 in all parts but one', () => [part(0, 0, 0), part(0, 0, 0), empty], 'list[1].logp', 'as list[0].logp'],
    ['0, 0, 0 in the last two', () => [empty, part(0, 0, 0), part(0, 0, 0)], 'list[2].logp', 'as list[1].logp'],
    ['0, 0, 0 where another part holds columns', () => [nowhere, part(0, 0, 0), nowhere, part(0, 0, 0)], 'list[3].logp', 'as list[1].logp'], // biome-ignore format: a line
  ]
  test.each(lists)('%s', async (_, list, argument, words) => {
    if (backend !== 'cpu') {
      // Nobody waits for what lies on a device.
      expect(only(mergeTokenLogprob(list()))).toEqual([Number.NaN, Number.NaN, Number.NaN])
      return
    }
    const why = 'does, but one part of a vocabulary holds it: replicated logits are no parts'
    const message = exactly(`mergeTokenLogprob: ${argument} claims token 0, ${words} ${why}`)
    const error = { error: RangeError, code: 'ERR_GRPO_VALUE', argument, message }
    refuses(() => mergeTokenLogprob(list()), error)
    const refused = await promises.mergeTokenLogprob(list()).catch((reason: unknown) => reason)
    refuses(() => {
      throw refused
    }, error)
  })
  // Of the last two, which both claim, the first. Tokens go by tiles of 256, and to a thread 4096 at a time.
  cpuTest.each([3, 500, 9000])('of %i tokens one is named, and nothing is written', (T) => {
    const numbers = (of: (t: number) => number) => Float32Array.from({ length: T }, (_, t) => of(t))
    const of = (own: number) => {
      const logp = numbers((t) => (t % 2 === own || t >= T - 2 ? -1 : -Infinity))
      return { logp, entropy: numbers(() => 1), logsumexp: numbers(() => 2) }
    }
    const logp = numbers(() => 7)
    const message = new RegExp(`claims token ${T - 2},`)
    const error = { error: RangeError, code: 'ERR_GRPO_VALUE', argument: 'list[1].logp', message }
    refuses(() => mergeTokenLogprob([of(0), of(1)], { out: { logp } }), error)
    expect(logp.every((x) => x === 7)).toBe(true)
  })
})
