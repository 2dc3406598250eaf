// What the errors of steps say, to the word. Those of operations are in test/call/sentences.test.ts.
import { describe } from 'vitest'
import { array } from '../../../lib/index.js'
import { fromJSON, prepareStep, recipes, toJSON } from '../../../lib/recipes/index.js'
import { say } from '../../support/sentences.js'

const f32 = (...x: number[]) => Float32Array.from(x)
const batch = { rewards: [1, 0], groupStart: [0, 2], sequenceStart: [0, 1, 2] }
const step =
  (more: object, make: () => unknown = recipes.grpo, state?: unknown) =>
  () =>
    prepareStep(make() as never, { ...batch, ...more } as never, state as never)
const loss =
  (policy: unknown, make: () => unknown = recipes.grpo) =>
  () =>
    prepareStep(make() as never, batch as never).loss(policy as never)

describe('of columns', () => {
  say({
    'grpo: rewards holds 16-bit numbers, expected number[N]: the reward of each rollout: fromBf16 and fromF16 turn them into float32':
      step({ rewards: new Uint16Array(2) }),
    'grpo: rolloutMask has 2 at 1, expected 0 or 1: which rollouts are not rejected': step({ rolloutMask: [1, 2] }),
    'grpo: rewards has 1 values, expected 2 (N = 2 from sequenceStart)': step({ rewards: [1] }),
    'grpo: sequenceStart has 2 values, expected 3 (N = 3 from groupStart)': step({ groupStart: [0, 3] }),
    'grpo: groupStart has 1 at 2, expected offsets that rise from 0': step({ groupStart: [0, 2, 1, 2] }),
    'grpo: groupStart is empty, expected 0 and what follows the last': step({ groupStart: [] }),
    'grpo: oldLogp has 1 values, expected 2 (T = 2 from sequenceStart)': step({ oldLogp: f32(1) }),
    'grpo: old_logp is no column, did you mean oldLogp? No method reads old_logp': step({ old_logp: f32(1, 1) }),
    'grpo: rewards is missing from the batch, expected number[N]: the reward of each rollout': step({
      rewards: undefined,
    }),
    'grpo: groupStart is missing from the batch, expected integer[G+1]: the first rollout of each group; ends with N':
      step({ groupStart: undefined }),
  })
})

describe('of options and states', () => {
  const saved = { method: 'dcpo', version: 1, data: {}, options: {} }
  const dcpo = (state: unknown) => step({}, recipes.dcpo, state)
  say({
    'grpo: clipLow is "x", expected a number': () => recipes.grpo({ clipLow: 'x' as never }),
    'grpo: nonsense is no option, expected one of clipLow, clipHigh, klCoef, eps, ddof, scale, singleton': () =>
      recipes.grpo({ nonsense: 1 } as never),
    'grpo: takes an object of options, got 5': () => recipes.grpo(5 as never),
    'grpo: clipLow is -1, expected a finite number >= 0': () => recipes.grpo({ clipLow: -1 }),
    'prepareStep: recipe is 5, expected a method, as recipes.grpo() makes it': step({}, () => 5),
    'dcpo: state is 5, expected what the step before returned': dcpo(5),
    'grpo: state is given, but the method has none': step({}, recipes.grpo, {}),
    'dcpo: state is one of vas, expected one of dcpo': dcpo({ ...saved, method: 'vas' }),
    'dcpo: state has version 9, expected 1': dcpo({ ...saved, version: 9 }),
    'dcpo: state has no data.prompts, expected prompts': dcpo(saved),
    "dcpo: state is no JSON: Expected property name or '}' in JSON at position 1": () => {
      try {
        fromJSON(recipes.dcpo(), '{')
      } catch (error) {
        // What V8 says of the place differs between versions of Node.
        const { message } = error as Error
        throw Object.assign(error as Error, { message: message.replace(/ \(line 1 column 2\)$/, '') })
      }
    },
    'toJSON: state is 5, expected the state that a step returned': () => toJSON(5 as never),
  })
})

describe('of policies', () => {
  say({
    'grpo: policy is missing, expected one of logp, logits, hidden, mean': loss({}),
    'grpo: policy is 5, expected one of logp, logits, hidden, mean': loss(5),
    'grpo: logits is given beside logp: the policy is one of logp, logits, hidden, mean': loss({
      logp: f32(1, 1),
      logits: array(f32(1, 2), [2, 1]),
    }),
    'drGrpo: logp has length 1, expected 2 (T from sequenceStart)': loss({ logp: f32(1) }, recipes.drGrpo),
    'drGrpo: head is missing, but hidden is given': loss({ hidden: array(f32(1, 2), [2, 1]) }, recipes.drGrpo),
    'ngrpo: entropy is missing from the batch, expected f32[T]: the entropy of the policy at each token, in nats': loss(
      { logp: f32(-1, -1) },
      () => recipes.ngrpo({ entropyCoef: 1 }),
    ),
    'gtpo: entropy is missing from the batch, expected f32[T]: the entropy of the current policy, or its logits, or its hidden states and head':
      step({}, recipes.gtpo),
    'grpo: refLogp is missing from the batch, expected f32[T]: log-probabilities under the reference policy, as klCoef is 1; with klCoef 0 there need be none':
      loss({ logp: f32(-1, -1) }, () => recipes.grpo({ klCoef: 1 })),
  })
})
