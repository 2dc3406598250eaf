// Where the parts of an objective contradict each other or the inputs: the same errors in every operation that takes one.
import { describe, expect, test } from 'vitest'
import { array, type Objective, policyLoss, policyLossFromLogits } from '../lib/index.js'
import { refuses } from './support/compare.js'

type Extra = Record<string, Float32Array | undefined>
const shared = {
  oldLogp: new Float32Array([-1, -1, -1]),
  advantage: new Float32Array([1, -1]) as Float32Array | undefined,
  sequenceStart: new Int32Array([0, 2, 3]),
}
const operations: Record<string, (extra: Extra, objective: Objective) => unknown> = {
  policyLoss: (extra, objective) =>
    policyLoss({ logp: new Float32Array([-1, -2, -3]), ...shared, ...extra }, objective),
  policyLossFromLogits: (extra, objective) => {
    const logits = array(new Float32Array(6), [3, 2])
    return policyLossFromLogits({ logits, token: new Int32Array(3), ...shared, ...extra }, objective)
  },
}
const three = new Float32Array([1, 1, 1])
const geometric = { ratio: 'geometric' } as const
const option = { error: RangeError, code: 'ERR_GRPO_OPTION' }
const value = { error: RangeError, code: 'ERR_GRPO_VALUE' }
const missing = { error: TypeError, code: 'ERR_GRPO_MISSING' }

describe.each(Object.keys(operations))('%s', (name) => {
  const run = operations[name]!

  test.each<[string, Extra, Objective, object, string]>([
    ['neither advantage', { advantage: undefined }, {}, missing, 'advantage'],
    ['both advantages', { tokenAdvantage: three }, {}, value, 'tokenAdvantage'],
    ['a KL without its reference', {}, { klCoef: 0.1 }, option, 'klCoef'],
    ['constant without maxLength', {}, { aggregate: 'constant' }, option, 'maxLength'],
    ['constant without maxLength', {}, { entropyAggregate: 'constant' }, option, 'maxLength'],
    ['dualClip of another surrogate', {}, { surrogate: 'sapo', dualClip: 3 }, option, 'dualClip'],
    ['dualClip, geometric', {}, { ...geometric, dualClip: 3 }, option, 'dualClip'],
    ['geometric with another surrogate', {}, { ...geometric, surrogate: 'cispo' }, option, 'surrogate'],
    ['geometric with klWeight', {}, { ...geometric, klWeight: 'ratio' }, option, 'klWeight'],
    ['klWeightClamp without a klWeight', { refLogp: three }, { klCoef: 1, klWeightClamp: 2 }, option, 'klWeightClamp'],
    ['klWeightClamp of 0', { refLogp: three }, { klWeight: 'ratio', klWeightClamp: 0 }, option, 'klWeightClamp'],
    ['klTermClamp of 0', { refLogp: three }, { klCoef: 1, klTermClamp: 0 }, option, 'klTermClamp'],
    ['geometric per token', { advantage: undefined, tokenAdvantage: three }, geometric, value, 'tokenAdvantage'],
    ['ratioLow of a sequence', { ratioLow: three }, { ratio: 'sequence' }, value, 'ratioLow'],
    ['ratioHigh of a sequence', { ratioHigh: three }, { ratio: 'sequence_token' }, value, 'ratioHigh'],
    ['vespo of another ratio', {}, { surrogate: 'vespo' }, option, 'ratio'],
    ['dro of another ratio', {}, { surrogate: 'dro', droBeta: 1, ratio: 'sequence' }, option, 'ratio'],
    ['dppo of another ratio', {}, { surrogate: 'dppo_kl', ratio: 'sequence_token' }, option, 'ratio'],
    ['dro without droBeta', {}, { surrogate: 'dro' }, option, 'droBeta'],
    ['droBeta of another surrogate', {}, { droBeta: 1 }, option, 'droBeta'],
    ['ratioCap of another surrogate', {}, { surrogate: 'cispo', ratioCap: 3 }, option, 'ratioCap'],
    ['ratioLow of dppo', { ratioLow: three }, { surrogate: 'dppo_tv' }, value, 'ratioLow'],
    ['a decay of vespo below 1e-4', {}, { decayPositive: 1e-5 }, option, 'decayPositive'],
    ['an interval without inside', {}, { clipLow: 0.2, clipHigh: -0.3 }, option, 'clipHigh'],
    ['dualClip of 1', {}, { dualClip: 1 }, option, 'dualClip'],
    ['a normalizer below 0', {}, { normalizer: -1 }, option, 'normalizer'],
  ])('%s', (_, extra, objective, error, argument) => {
    refuses(() => run(extra, objective), { ...(error as typeof option), argument, message: new RegExp(`^${name}: `) })
  })

  test('what is near them is allowed', () => {
    const fine: [Extra, Objective][] = [
      [{ advantage: undefined, tokenAdvantage: three }, { ratio: 'sequence' }],
      [{ refLogp: three }, { klCoef: 0.1, klWeight: 'ratio' }],
      [{ refLogp: three }, { ...geometric, klCoef: 0.1 }],
      [{ refLogp: three }, { ...geometric, klCoef: 0.1, klWeight: 'token_ratio', klWeightClamp: 2 }],
      [{ refLogp: three }, { klCoef: 0.1, klTermClamp: 2 }],
      [{}, { aggregate: 'constant', maxLength: 4 }],
      [{ ratioLow: three, ratioHigh: three }, { surrogate: 'cispo' }],
      [{ ratioHigh: three }, { clipLow: 0.2, clipHigh: -0.3 }],
      [{}, { surrogate: 'cispo', clipLow: null, clipHigh: -0.8 }],
      [{}, { normalizer: 0 }],
      [{}, { surrogate: 'vespo', ratio: 'sequence_product', decayPositive: 1e-4, powerPositive: 0 }],
      [
        { advantage: undefined, tokenAdvantage: three },
        { surrogate: 'dro', droBeta: 1 },
      ],
      [{ refLogp: three }, { surrogate: 'dppo_tv', clipLow: null, ratioCap: 0.5, klCoef: 0.1, klWeight: 'ratio' }],
    ]
    for (const [extra, objective] of fine) expect(() => run(extra, objective)).not.toThrow()
  })
})

test('an entropy bonus needs the entropies where they are not computed', () => {
  const error = { ...option, argument: 'entropyCoef', message: /entropy is missing/ }
  refuses(() => operations.policyLoss!({}, { entropyCoef: 0.1 }), error)
  expect(() => operations.policyLoss!({ entropy: three }, { entropyCoef: 0.1 })).not.toThrow()
  expect(() => operations.policyLossFromLogits!({}, { entropyCoef: 0.1 })).not.toThrow()
})
