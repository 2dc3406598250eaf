// Every option of a method and of a preset decides something: on one of a few batches another value of it changes a bit
// of a step, with the other options at their defaults or one of them at another value.
import { expect, test } from 'vitest'
import { makeOf, names, presetNames, recipeOf } from '../../examples/recipes/describe.js'
import { columns, exampleBatch } from '../../examples/recipes/example_batch.js'
import { parseOption } from '../../lib/addon/signatures.js'
import { type AnyRecipe, prepareStep } from '../../lib/recipes/index.js'
import { rangeOf } from '../../lib/recipes/step/columns.js'
import { policyIn } from '../../lib/recipes/step/names.js'
import { onlyMethods } from '../support/only.js'

type Bag = Record<string, unknown>

/** Other values of an option than its default. */
function othersOf(name: string, text: string): unknown[] {
  const { kind, choices, fallback, nullable } = parseOption(name, text)
  const none = nullable ? [null] : []
  if (kind === 'boolean') return [!fallback]
  if (kind === 'enum') return [...none, ...choices].filter((choice) => choice !== fallback)
  const holds = rangeOf(text.replace(/^\w+\?? ?(= \S+)? ?/, ''))
  const numbers = kind === 'integer' ? [0, 1, 2, 3, 5] : [0, 0.01, 0.3, 0.9, 1, 1.2, 2, 30, -0.5, -10]
  return [...none, ...numbers.filter((x) => holds(x) && x !== fallback)]
}

const bits = (x: unknown): string =>
  JSON.stringify(x, (_, value) => {
    if (ArrayBuffer.isView(value)) return Buffer.from(value.buffer, value.byteOffset, value.byteLength).toString('hex')
    return typeof value === 'number' ? String(value) : value
  })

/** Ratios beyond every bound, and trainer and engine apart. */
const far = [3, -2, 0.4, -0.6, 0, 1.5, -1.1, 0.2, 0.01, -0.02, 6, -7]
const batchesOf = (recipe: AnyRecipe): Bag[] => {
  const example = exampleBatch(recipe) as Bag & Record<'logp' | 'oldLogp' | 'rolloutLogp', Float32Array | undefined>
  const moved = (x: Float32Array | undefined, by: number) => x?.map((value, t) => value - by * far[t % far.length]!)
  const apart = { ...example, oldLogp: moved(example.oldLogp, 1), rolloutLogp: moved(example.rolloutLogp, 0.3) }
  const masks = { mask: [1, 1, 1, 0, 1, 1, 1, 1, 0, 1, 1, 1], rolloutMask: [1, 1, 0, 1, 1, 1, 1, 1] }
  const spread = { ...example, rewards: [0.7, 0.1, 1, 0, 0.2, -2, 40, 0.2] }
  const solved = [1, 1, 1, 0, 0, 1, 1, 0]
  const right = { ...example, rewards: solved, ...('correct' in example && { correct: solved }) }
  const ragged = { ...right, sequenceStart: [0, 0, 3, 5, 6, 7, 9, 10, 12], groupStart: [0, 1, 8] }
  // Columns in whose place options stand, and one that an option needs.
  const without = { ...ragged, path: undefined, progress: undefined, time: columns.token.map((id) => 0.1 + id / 8) }
  return [example, apart, { ...apart, ...masks }, spread, right, ragged, without]
}

/** What a step returns, and one on the state that it leaves; undefined if it is refused. */
function outcome(name: string, options: Bag, batch: Bag): string | undefined {
  try {
    const recipe = makeOf(name)(options)
    const step = (state?: unknown) => {
      const prepared = prepareStep(recipe, batch as never, state as never)
      return [prepared, recipe.objective === null ? undefined : prepared.loss(policyIn(batch) as never)] as const
    }
    const first = step()
    return bits([first, first[0].state === undefined ? undefined : step(first[0].state)]).replaceAll(/"options":\{[^}]*\}/g, '') // biome-ignore format: a line
  } catch {
    return undefined
  }
}

/** Options that matter together. */
const together: Record<string, Bag[]> = {
  dapo: [{ maxLength: 1.5, buffer: 1 }],
  thyme: [{ aggregate: 'constant', maxLength: 4 }],
  d3s: [{ steps: 5 }],
  grpoGuard: [{ stepScale: 'dance' }],
  nemo: ['tis', 'icepop'].map((correction) => ({ correction, correctionMin: 0.5, correctionMax: 5 })),
  trl: [{ lossType: 'vespo', importanceSamplingMode: 'none' }],
  verl: [{ lossMode: 'dro', droBeta: 0.5 }],
  liger: [{ lossType: 'dr_grpo', maxCompletionLength: 5 }],
}

/** Of what is decided beside the step: parameters of the functions of `sample`, which the tests of the methods call. */
const beside: Record<string, string[]> = {
  apo: ['alpha'],
  dynamicRewardWeighting: ['learningRate', 'regularization', 'accumulate'],
  harpg: ['eta0', 'step0', 'normalize', 'schedule'],
  igpo: ['hintLow', 'hintHigh', 'chunkLow', 'chunkHigh', 'freeEnd', 'maxScale', 'maxSpacing', 'maxReplacements'],
  latr: ['task', 'tauAbs', 'tauRel', 'editBelow', 'suffixAbove', 'rougeAbove', 'forceStep', 'maxBranch', 'stopShare', 'stopDecay'], // biome-ignore format: a list
  npgIgt: ['eta0', 'step0', 'schedule'],
  sGrpo: ['exits'],
  scafGrpo: ['warmup', 'planning', 'replace'],
  spo: ['firstRollouts', 'smoothing'],
  spoChain: ['interval'],
  spoTree: ['maxAge', 'maxEdges'],
  thyme: ['temperature', 'codeTemperature'],
  vas: ['mix'],
}

/** The options of a method of which no value changes anything. */
function idle(name: string): string[] {
  const recipe = recipeOf(name)
  const table = Object.entries(recipe.description.options ?? {})
  const batches = batchesOf(recipe)
  const bases = [
    {},
    ...(together[name] ?? []),
    ...table.flatMap(([key, [text]]) => othersOf(key, text).map((value) => ({ [key]: value }))),
  ]
  const known = new Map<string, string | undefined>()
  const once = (options: Bag, k: number) => {
    const key = JSON.stringify([options, k])
    if (!known.has(key)) known.set(key, outcome(name, options, batches[k]!))
    return known.get(key)
  }
  const changes = (option: string, values: unknown[]) =>
    (beside[name]?.includes(option) ? [{}] : bases).some((base) =>
      batches.some((_, k) => {
        const plain = once(base, k)
        return values.some((value) => {
          const other = once({ ...base, [option]: value }, k)
          return plain !== undefined && other !== undefined && plain !== other
        })
      }),
    )
  return table.filter(([option, [text]]) => !changes(option, othersOf(option, text))).map(([option]) => option)
}

test.each([...onlyMethods(names), ...presetNames])('%s', (name) => {
  expect(idle(name)).toEqual(beside[name] ?? [])
})
