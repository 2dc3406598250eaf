// The names that a batch and a policy may have. A name that nothing reads is a mistake: old_logp in place of oldLogp would
// make a step on-policy, and say nothing.

import { grpoError } from '../../addon/errors.js'
import { describe } from '../../arrays/array.js'

/** Of the policy, in the batch of a step or the argument of `prepared.loss`. */
export const policyKinds = ['logp', 'logits', 'hidden', 'mean'] as const
export const policyFields = [
  ...policyKinds,
  'head',
  'headBias',
  'row',
  'rowTemperature',
  'keptStart',
  'kept',
  'x',
  'std',
  'oldMean',
  'refMean',
] as const
const policyNames: readonly string[] = [...policyFields, 'entropy']

/** Columns of every method and of each one: a batch for several methods has columns that not all of them read. */
const columnNames = new Set<string>()

export function knowColumns(names: readonly string[]): void {
  for (const name of names) columnNames.add(name)
}

/** completion_mask and completionMask are one word, and so are log_probs, logprobs, log_prob and logps. */
const wordOf = (name: string): string =>
  name
    .replace(/[^a-z0-9]/gi, '')
    .toLowerCase()
    .replace(/log(prob|probs|ps)$/, 'logp')

/** What trainers call things, where it is not near to the name here. */
const words: Readonly<Record<string, readonly string[]>> = {
  rewards: ['token_level_rewards', 'token_level_scores', 'reward_tensor', 'rm_scores'],
  groupStart: ['uid', 'index', 'group_id', 'group_index', 'group_ids', 'group_size', 'num_generations'],
  sequenceStart: [
    ...['cu_seqlens', 'seq_lens', 'seq_lengths', 'lengths', 'completion_lengths', 'response_length'],
    ...['response_lengths', 'input_lengths', 'offsets'],
  ],
  mask: [
    ...['completion_mask', 'completions_mask', 'response_mask', 'loss_mask', 'loss_masks', 'token_mask', 'action_mask'],
    ...['attention_mask', 'tool_mask'],
  ],
  rolloutMask: ['sample_mask', 'sequence_mask'],
  token: [
    ...['completion_ids', 'response_ids', 'responses', 'input_ids', 'token_ids', 'output_ids', 'selected_token_ids'],
    ...['labels', 'actions'],
  ],
  prompt: ['prompt_ids', 'prompt_id'],
  scores: ['rewards_per_func'],
  logp: ['per_token_logps', 'token_logprobs', 'action_log_probs', 'current_logprobs', 'curr_logprobs'],
  oldLogp: ['old_per_token_logps', 'prev_logprobs', 'previous_logprobs', 'old_action_log_probs', 'behavior_log_probs'],
  refLogp: [
    ...['ref_per_token_logps', 'reference_policy_logprobs', 'reference_log_probs', 'base_action_log_probs'],
    ...['base_log_probs', 'base_logp'],
  ],
  rolloutLogp: [
    ...['sampling_per_token_logps', 'sampling_logprobs', 'generation_logprobs', 'inference_logprobs', 'vllm_logprobs'],
    ...['importance_sampling_ratio', 'rollout_is_weights'],
  ],
  entropy: ['entropies', 'entropys', 'per_token_entropy', 'token_entropy'],
  advantage: ['advantages', 'sequence_advantages'],
  tokenAdvantage: ['token_level_advantages', 'per_token_advantages'],
  hidden: ['hidden_states', 'last_hidden_state', 'last_hidden_states'],
  head: ['lm_head', 'lm_head_weight'],
  headBias: ['lm_head_bias'],
  mean: ['prev_sample_mean'],
  std: ['std_dev_t'],
}
const known: ReadonlyMap<string, string> = new Map(
  Object.entries(words).flatMap(([name, others]) => others.map((other) => [wordOf(other), name] as const)),
)

/** How many letters have to be changed, added or left out. */
function distance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, j) => j)
  for (let i = 1; i <= a.length; i++) {
    const next = [i]
    for (let j = 1; j <= b.length; j++) {
      const changed = (row[j - 1] as number) + (a[i - 1] === b[j - 1] ? 0 : 1)
      next.push(Math.min(changed, (row[j] as number) + 1, (next[j - 1] as number) + 1))
    }
    row = next
  }
  return row[b.length] as number
}

/** The nearest of the candidates, of equally near ones the first; a trainer's word has its own. */
function nearest(name: string, candidates: readonly string[]): string {
  const word = wordOf(name)
  const own = candidates.find((candidate) => wordOf(candidate) === word) ?? known.get(word)
  if (own !== undefined && candidates.includes(own)) return own
  const off = candidates.map((candidate) => distance(word, wordOf(candidate)))
  return candidates[off.indexOf(Math.min(...off))] as string
}

const firstOf = (bag: object, allowed: (name: string) => boolean): string | undefined =>
  Object.keys(bag).find((name) => !allowed(name))

/**
 * Refuses a name in a batch that is a column of no method and no part of a policy.
 *
 * @param own  columns of a method that `recipe` did not make
 */
export function checkBatchNames(method: string, batch: unknown, own: readonly string[]): void {
  if (typeof batch !== 'object' || batch === null || Array.isArray(batch) || ArrayBuffer.isView(batch)) {
    throw grpoError('kind', method, 'batch', `is ${describe(batch)}, expected an object of columns`)
  }
  const candidates = [...own, ...columnNames, ...policyNames]
  const wrong = firstOf(batch, (name) => candidates.includes(name))
  if (wrong === undefined) return
  const problem = `is no column, did you mean ${nearest(wrong, candidates)}? No method reads ${wrong}`
  throw grpoError('unknown', method, wrong, problem)
}

/** Refuses a name in the argument of `prepared.loss` that is no part of a policy. */
export function checkPolicyNames(method: string, policy: object): void {
  const wrong = firstOf(policy, (name) => policyNames.includes(name))
  if (wrong === undefined) return
  const problem = columnNames.has(wrong)
    ? `is no part of a policy: ${wrong} belongs into the batch of prepareStep; a policy has ${policyNames.join(', ')}`
    : `is no part of a policy, did you mean ${nearest(wrong, [...policyNames, ...columnNames])}? It has ${policyNames.join(', ')}`
  throw grpoError('unknown', method, wrong, problem)
}

/** The policy among the columns of a batch. */
export function policyIn(batch: object): Record<string, unknown> {
  const given = batch as Readonly<Record<string, unknown>>
  return Object.fromEntries(policyNames.flatMap((name) => (given[name] === undefined ? [] : [[name, given[name]]])))
}
