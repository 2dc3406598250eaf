// The tables of methods, from their descriptions, and of the columns that all of them have.
import { changes, names, presetNames, recipeOf } from '../../examples/recipes/describe.js'
import type { Batch } from '../../lib/recipes/index.js'
import { placeOfMethod } from './method_pages.js'

const cell = (text: string) => text.replace(/\|/g, '\\|').replace(/\s+/g, ' ')

export function methodsTable(): string {
  const rows = names.map(recipeOf).map((recipe) => {
    const { name, paper, source, unknown } = recipe
    const title = cell(paper.title)
    const link = paper.arxiv === undefined ? title : `[${title}](https://arxiv.org/abs/${paper.arxiv})`
    return `| [\`${name}\`](${placeOfMethod(name)}) | ${link} | ${changes(recipe).join(', ')} | ${source} | ${cell(unknown ?? '-')} |`
  })
  return ['| method | paper | what it changes | source | unknown |', '|---|---|---|---|---|', ...rows].join('\n')
}

export function presetsTable(): string {
  const rows = presetNames.map((name) => {
    const { paper, source, unknown } = recipeOf(name)
    return `| [\`${name}\`](${placeOfMethod(name)}) | ${cell(paper.title)} | ${source} | ${cell(unknown ?? '-')} |`
  })
  return ['| preset | of | source | unknown |', '|---|---|---|---|', ...rows].join('\n')
}

/** Shape, meaning, and what a batch without it means. The compiler asks for a line for each column of Batch. */
const columns: Readonly<Record<keyof Batch, readonly [shape: string, meaning: string, absent: string]>> = {
  rewards: ['number[N]', 'reward of each rollout, any unit', 'an error where the method reads them'],
  groupStart: ['integer[G+1]', 'first rollout of each group; ends with N', 'an error where the method has groups'],
  sequenceStart: [
    'integer[N+1]',
    'first loss token of each rollout; ends with T',
    'an error in the loss, and where the method reads it',
  ],
  mask: ['flag[T]', '0 = padding, tool output: no token of the policy', 'all tokens count'],
  rolloutMask: ['flag[N]', '0 = rejected: in no statistic of its group, advantage 0', 'no rollout is rejected'],
  token: ['integer[T]', 'ids of the loss tokens', 'an error with `logits` or `hidden`, or where the method reads them'],
  oldLogp: [
    'f32[T]',
    'log-probabilities under the policy that sampled, as the trainer computes them',
    'on-policy: the ratio is 1, and has a gradient; an error where the method reads them',
  ],
  refLogp: ['f32[T]', 'under the reference policy', 'an error where the method has a KL to it, or reads them'],
  rolloutLogp: [
    'f32[T]',
    'as the inference engine reported them',
    'an error where the method or a correction reads them; `presets.trl` then corrects nothing',
  ],
  entropy: [
    'f32[T]',
    'entropy of the policy at each token, in nats',
    'computed from `logits` or `hidden`; with `logp` or `mean` an error where the method reads it',
  ],
  advantage: ['number[N]', 'your own, in place of what the method makes of the rewards', 'the method makes them'],
  tokenAdvantage: ['f32[T]', 'the same for each token', 'the method makes them'],
}

export function columnsTable(): string {
  const rows = Object.entries(columns).map(([name, cells]) => `| \`${name}\` | ${cells.join(' | ')} |`)
  return ['| column | shape | meaning | absent |', '|---|---|---|---|', ...rows].join('\n')
}
