// Names that nothing reads: refused, with the nearest one that something does.
import { describe, expect, test } from 'vitest'
import {
  type AnyRecipe,
  type Description,
  optimizationStep,
  prepareStep,
  presets,
  recipe,
  recipes,
  withCorrection,
} from '../../../lib/recipes/index.js'
import { refuses } from '../../support/compare.js'
import { advantage, fixture } from '../fixture.js'

const { dapo, dcpo, d3s } = recipes
type Making = { readonly description: Description }
const batch = { ...fixture, advantage }
const refused = (argument: string, suggestion: string) => ({
  error: TypeError,
  code: 'ERR_GRPO_OPTION',
  argument,
  message: new RegExp(`^dapo: ${argument} is no column, did you mean ${suggestion}\\?`),
})

describe('a name that no method knows', () => {
  test.each([
    // of ours, misspelled or written in another way
    ['old_logp', 'oldLogp'],
    ['oldLogP', 'oldLogp'],
    ['reflogp', 'refLogp'],
    ['rollout_logp', 'rolloutLogp'],
    ['group_start', 'groupStart'],
    ['sequenceStarts', 'sequenceStart'],
    ['reward', 'rewards'],
    ['advantages', 'advantage'],
    ['token_advantage', 'tokenAdvantage'],
    ['tokens', 'token'],
    ['masks', 'mask'],
    ['rows', 'row'],
    ['head_bias', 'headBias'],
    ['toolcalls', 'toolCalls'],
    // TRL's
    ['completion_mask', 'mask'],
    ['completionMask', 'mask'],
    ['completion_ids', 'token'],
    ['prompt_ids', 'prompt'],
    ['old_per_token_logps', 'oldLogp'],
    ['ref_per_token_logps', 'refLogp'],
    ['per_token_logps', 'logp'],
    ['sampling_per_token_logps', 'rolloutLogp'],
    // verl's
    ['old_log_probs', 'oldLogp'],
    ['ref_log_prob', 'refLogp'],
    ['rollout_log_probs', 'rolloutLogp'],
    ['log_probs', 'logp'],
    ['response_mask', 'mask'],
    ['responses', 'token'],
    ['loss_mask', 'mask'],
    ['token_level_rewards', 'rewards'],
    ['uid', 'groupStart'],
    ['entropys', 'entropy'],
    // NeMo-RL's and OpenRLHF's
    ['generation_logprobs', 'rolloutLogp'],
    ['prev_logprobs', 'oldLogp'],
    ['reference_policy_logprobs', 'refLogp'],
    ['sample_mask', 'rolloutMask'],
    ['action_mask', 'mask'],
    ['base_action_log_probs', 'refLogp'],
  ])('%s: did you mean %s', (wrong, suggestion) => {
    refuses(() => optimizationStep(dapo(), { ...batch, [wrong]: undefined }), refused(wrong, suggestion))
    refuses(() => prepareStep(dapo(), { ...batch, [wrong]: [1] }), refused(wrong, suggestion))
  })

  test('it is refused before a column is found missing', () => {
    const { prompt: _, ...visit } = { ...batch, prompt: ['a', 'b'] }
    const expected = { error: TypeError, code: 'ERR_GRPO_OPTION', argument: 'prompts' }
    refuses(() => prepareStep(dcpo(), { ...visit, prompts: ['a', 'b'] } as never), {
      ...expected,
      message: /did you mean prompt\?/,
    })
  })

  test('names of Object.prototype are names like any other', () => {
    refuses(() => prepareStep(dapo(), { ...batch, constructor: [1] } as never), {
      error: TypeError,
      code: 'ERR_GRPO_OPTION',
      argument: 'constructor',
    })
  })
})

describe('a batch may hold more than the method reads', () => {
  test('columns of other methods and of presets, and a policy', () => {
    const both = { ...batch, prompt: ['a', 'b'], progress: 0.5, toolCalls: [1, 2], scores: [1, 0] }
    const expected = optimizationStep(dapo(), batch).loss
    expect(optimizationStep(dapo(), both).loss).toBe(expected)
    const rewards = [1, 0]
    const { advantage: _, ...visit } = { ...both, rewards, entropy: fixture.logp }
    expect(prepareStep(dcpo(), visit).state.data.prompts).toHaveProperty('a')
    expect(prepareStep(d3s({ rolloutsStart: 1 }), visit).state.data.step).toBe(1)
    for (const preset of Object.values(presets)) {
      const columns = Object.keys((preset as Making).description.columns ?? {})
      const others = Object.fromEntries(columns.map((name) => [name, undefined]))
      expect(optimizationStep(dapo(), { ...batch, ...others }).loss).toBe(expected)
    }
  })

  test('columns of a method of one’s own, also of one that was put together by hand', () => {
    const paper = { title: 'A method of a test' }
    const columns = { brightness: 'number[N] how bright' }
    const own = recipe({ name: 'own', paper, source: 'inferred', equation: 'A = R', columns }, () => ({}))
    expect(own.description.columns).toBe(columns)
    expect(() => prepareStep(dapo(), { ...batch, brightness: [1, 2] } as never)).not.toThrow()
    const { grpo } = recipes
    const description = { ...grpo.description, columns: { loudness: 'number[N]? how loud' } }
    const byHand = { ...grpo({ klCoef: 0 }), description }
    expect(() => prepareStep(byHand as AnyRecipe, { ...batch, loudness: [1, 2] })).not.toThrow()
    expect(() => prepareStep(dapo(), { ...batch, loudness: [1, 2] } as never)).toThrow('loudness is no column')
  })

  test('a correction reads columns of every method', () => {
    const corrected = withCorrection(dapo(), { importance: { mode: 'token_mask' } })
    expect(() => optimizationStep(corrected, { ...batch, rolloutLogp: batch.oldLogp })).not.toThrow()
    expect(() => optimizationStep(corrected, { ...batch, rolloutLogps: batch.oldLogp } as never)).toThrow(
      'dapo: rolloutLogps is no column, did you mean rolloutLogp?',
    )
  })
})

describe('the argument of prepared.loss', () => {
  const prepared = prepareStep(dapo(), batch)
  test.each([
    ['rows', /^dapo: rows is no part of a policy, did you mean row\?/],
    ['logits_', /^dapo: logits_ is no part of a policy, did you mean logits\?/],
    ['lm_head', /^dapo: lm_head is no part of a policy, did you mean head\?/],
    ['old_logp', /^dapo: old_logp is no part of a policy, did you mean oldLogp\?/],
    ['completion_mask', /^dapo: completion_mask is no part of a policy, did you mean mask\?/],
    ['oldLogp', /^dapo: oldLogp is no part of a policy: oldLogp belongs into the batch of prepareStep/],
    ['prompt', /^dapo: prompt is no part of a policy: prompt belongs/],
  ])('%s', (argument, message) => {
    const policy = { logp: fixture.logp, [argument]: fixture.oldLogp }
    refuses(() => prepared.loss(policy), { error: TypeError, code: 'ERR_GRPO_OPTION', argument, message })
  })

  test('in optimizationStep the policy is part of the batch', () => {
    expect(optimizationStep(dapo(), batch).loss).toBe(prepared.loss({ logp: fixture.logp }).loss)
  })
})
