// What holds for every method: swept over whatever lib/recipes/index.ts has.
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { changes, names, recipeOf } from '../../examples/recipes/describe.js'
import { columns, exampleBatch } from '../../examples/recipes/example_batch.js'
import { parseOption } from '../../lib/addon/signatures.js'
import { type HostArray, tokenLogprob, tokenLogprobBackward } from '../../lib/index.js'
import {
  type AnyRecipe,
  fromJSON,
  optimizationStep,
  prepareStep,
  recipes,
  type SavedState,
  type StepLoss,
  toJSON,
} from '../../lib/recipes/index.js'
import { parseColumn } from '../../lib/recipes/step/columns.js'
import { methodFiles, methodsIn } from '../steps/next_step.mjs'
import { refuses, ulp } from '../support/compare.js'
import { onlyMethods } from '../support/only.js'

type Batch = Record<string, unknown>
type Step = ReturnType<typeof prepareStep> & Partial<StepLoss>

const root = join(__dirname, '..', '..')
const sources = (folder: string, suffix: string) =>
  readdirSync(join(root, folder))
    .filter((file) => file.endsWith(suffix))
    .map((file) => ({ file, text: readFileSync(join(root, folder, file), 'utf8') }))

/** A step, or what is decided without a loss for a method that has none. */
function run(recipe: AnyRecipe, batch: Batch, saved?: SavedState): Step {
  const state = saved as SavedState<undefined> | undefined // of whatever method the recipe is
  try {
    return optimizationStep(recipe, batch, state) as Step
  } catch (error) {
    if ((error as { argument?: string }).argument === 'loss') return prepareStep(recipe, batch, state) as Step
    throw error
  }
}

/** Every bit of a result, as text. */
const bits = (x: unknown): string =>
  JSON.stringify(x, (_, value) => {
    if (ArrayBuffer.isView(value)) return Buffer.from(value.buffer, value.byteOffset, value.byteLength).toString('hex')
    if (typeof value === 'function') return undefined
    return typeof value === 'number' ? (Object.is(value, -0) ? '-0' : String(value)) : value
  })

function errorOf(call: () => unknown): Error & { code?: string } {
  try {
    call()
  } catch (error) {
    return error as Error
  }
  return expect.fail('expected an error')
}

const isGaussian = (recipe: AnyRecipe) => recipe.description.example?.mean !== undefined
const hasLoss = (recipe: AnyRecipe) => typeof run(recipe, exampleBatch(recipe)).loss === 'number'
const required = (recipe: AnyRecipe) =>
  Object.entries(recipe.description.columns ?? {}).filter(([name, text]) => !parseColumn(name, text).optional)

test('every method has golden numbers and edge cases', () => {
  const tests = sources('test/recipes/methods', '.test.ts')
  // Named as it is called, or in the list over which a file of several methods runs.
  const tested = (kind: string, name: string) =>
    tests.some(({ text }) => {
      if (!text.includes(`'${name}'`)) return false
      return new RegExp(`${kind}\\(\\s*('${name}'|[a-z]\\w*,)`).test(text)
    })
  // One without a file of tests is named by test/steps/steps.test.ts.
  const begun = methodFiles(root).filter((file) => existsSync(join(root, `test/recipes/methods/${file}.test.ts`)))
  const own = begun.flatMap((file) => methodsIn(root, file))
  const lacking = onlyMethods(names.filter((name) => own.includes(name))).flatMap((name) => ['golden', 'edge'].filter((kind) => !tested(kind, name)).map((kind) => `${name}: ${kind}`)) // biome-ignore format: one text
  expect(lacking, 'next step: these tests in test/recipes/methods/').toEqual([])
})

test('no file of a method is longer than 150 lines', () => {
  const files = sources('lib/recipes/methods', '.ts').filter(({ text }) => /= recipe\(/.test(text))
  const long = files
    .map(({ file, text }) => ({ file, lines: text.split('\n').length - 1 }))
    .filter((x) => x.lines > 150)
  expect(files.length).toBeGreaterThan(0)
  expect(long).toEqual([])
})

describe.each(onlyMethods(names))('%s', (name) => {
  const recipe = recipeOf(name)
  const { description } = recipe
  const batch = exampleBatch(recipe)

  test('describes itself', () => {
    const { paper, source, unknown, equation, example = {} } = description
    expect(description.name).toBe(name)
    expect(paper.title.length).toBeGreaterThan(10)
    if (paper.arxiv !== undefined) expect(paper.arxiv).toMatch(/^\d{4}\.\d{4,5}$/)
    expect(['paper', 'code', 'third-party', 'inferred']).toContain(source)
    if (unknown !== undefined) expect(unknown).toMatch(/^[\s\S]{15,}\.$/)
    // What was not read in the authors' own text or code has something that is not known.
    if (source === 'third-party' || source === 'inferred') expect(unknown).toBeDefined()
    expect(equation.length).toBeGreaterThan(20)
    expect(changes(recipe).length).toBeGreaterThan(0)
    for (const [column, text] of Object.entries(description.columns ?? {})) {
      expect(parseColumn(column, text).meaning.length, column).toBeGreaterThan(5)
    }
    for (const [option, [text, meaning]] of Object.entries(description.options ?? {})) {
      expect(parseOption(option, text).fallback, option).toBeDefined()
      expect(meaning.length, option).toBeGreaterThan(3)
    }
    for (const [column] of required(recipe)) expect(example, 'example').toHaveProperty(column)
    expect(Object.isFrozen(recipe)).toBe(true)
  })

  test('refuses an option that it does not have', () => {
    const make = recipes[name as keyof typeof recipes] as (options: object) => AnyRecipe
    const known = Object.keys(description.options ?? {}).join(', ')
    const expected = known === '' ? 'none' : `one of ${known}`
    expect(() => make({ nope: 1 })).toThrow(`${name}: nope is no option, expected ${expected}`)
  })

  test('has its defaults where an option is undefined', () => {
    const make = recipes[name as keyof typeof recipes] as (options?: object) => AnyRecipe
    const { options = {} } = description
    const absent = Object.fromEntries(Object.keys(options).map((option) => [option, undefined]))
    const defaults = Object.entries(options).map(([option, [text]]) => [option, parseOption(option, text).fallback])
    for (const given of [undefined, {}, absent]) expect(make(given).options).toEqual(Object.fromEntries(defaults))
  })

  test('names a column that is missing, with its shape and meaning', () => {
    for (const [column, text] of required(recipe)) {
      const { [column]: _, ...without } = batch
      const { kind, axes, meaning } = parseColumn(column, text)
      const type = axes.length > 0 ? `${kind}[${axes.join(',')}]` : kind
      expect(() => run(recipe, without)).toThrow(
        `${name}: ${column} is missing from the batch, expected ${type}: ${meaning}`,
      )
    }
  })

  test('refuses a column of its own that is empty, or holds nothing of the kind', () => {
    for (const [column, text] of Object.entries(description.columns ?? {})) {
      const { kind, axes, meaning } = parseColumn(column, text)
      const refused = (value: unknown, code: string, error: typeof TypeError | typeof RangeError) =>
        refuses(() => prepareStep(recipe, { ...batch, [column]: value } as never), { error, code, argument: column })
      // A list whose length is that of the batch is refused for its length, whatever it is; any other for what it is.
      const hasLength = kind === 'any' ? /^(of each|per) /.test(meaning) : axes.length === 1 && 'NGT'.includes(axes[0]!)
      if (hasLength) refused([], 'ERR_GRPO_SHAPE', RangeError)
      if (kind === 'any' && hasLength) refused(Symbol('text'), 'ERR_GRPO_SHAPE', RangeError)
      else refused(Symbol('text'), 'ERR_GRPO_TYPE', TypeError)
    }
  })

  test('runs without a column of every batch, or says what is missing', () => {
    for (const column of Object.keys(columns)) {
      const { [column]: _, ...without } = batch
      try {
        run(recipe, without)
      } catch (error) {
        expect((error as { code: string }).code, `${column}: ${error}`).toMatch(/^ERR_GRPO_/)
        expect((error as Error).message, column).toMatch(/^\w+: .*(missing|expected|needs)/)
      }
    }
  })

  test('runs on the example, without NaN, and twice the same', () => {
    const step = run(recipe, batch)
    expect(bits(run(recipe, exampleBatch(recipe)))).toBe(bits(step))
    if (!hasLoss(recipe)) return
    expect(Number.isFinite(step.loss)).toBe(true)
    const gradients = Object.entries(step).filter(([key]) => key.startsWith('grad'))
    expect(gradients.length).toBeGreaterThan(0)
    for (const [key, gradient] of gradients) {
      expect(Array.from((gradient as HostArray<'f32'>).data).every(Number.isFinite), key).toBe(true)
    }
    const main = (step.gradLogp ?? (step as { gradMean?: HostArray }).gradMean) as HostArray<'f32'>
    expect(
      main.data.some((x) => x !== 0),
      'the example teaches something',
    ).toBe(true)
  })

  test('masked tokens, NaN or not, change no bit', () => {
    if (isGaussian(recipe)) return
    const mask = [1, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0]
    const given = ['logp', 'oldLogp', 'refLogp', 'rolloutLogp', 'entropy'].filter(
      (column) => batch[column] !== undefined,
    )
    const filled = (value: number) => {
      const changed = given.map((column) => [
        column,
        (batch[column] as Float32Array).map((x, t) => (mask[t] ? x : value)),
      ])
      const { logp, entropy, weights = {}, ...step } = run(recipe, { ...batch, mask, ...Object.fromEntries(changed) })
      const read = Object.entries(weights as Record<string, ArrayLike<number> | undefined>).map(([key, x]) => [
        key,
        x && Array.from(x).filter((_, t) => mask[t]),
      ])
      return { ...step, weights: Object.fromEntries(read) }
    }
    const step = filled(-0.25)
    expect(bits(filled(Number.NaN))).toBe(bits(step))
    if (step.gradLogp) expect([1, 11].map((t) => Math.abs(step.gradLogp!.data[t] as number))).toEqual([0, 0])
  })

  test('the reward of a rejected rollout, NaN or not, changes no bit', () => {
    if (batch.rewards === undefined) return
    const rolloutMask = [1, 1, 0, 1, 1, 1, 0, 1]
    // Where the others are all the same, it alone would be the spread of a group.
    for (const kept of [Array.from(batch.rewards as ArrayLike<number>), Array<number>(8).fill(0)]) {
      const filled = (value: number) => {
        const given = kept.map((reward, i) => (rolloutMask[i] ? reward : value))
        const { rewards, ...step } = run(recipe, { ...batch, rewards: given, rolloutMask })
        return bits([step, rewards && Array.from(rewards).filter((_, i) => rolloutMask[i])])
      }
      const expected = filled(0)
      for (const value of [7, -7, Number.NaN]) expect(filled(value)).toBe(expected)
    }
  })

  test('a state that is saved and restored goes on with the same bits; another one is refused', () => {
    const { state } = run(recipe, batch)
    const other = { method: 'another', version: 1, options: {}, data: {} }
    if (recipe.state === undefined) {
      expect(state).toBeUndefined()
      expect(() => run(recipe, batch, other)).toThrow(`${name}: state is given, but the method has none`)
      return
    }
    expect(state).toMatchObject({ method: name, version: recipe.state.version })
    const before = bits(state)
    const twice = (start: SavedState) => {
      const first = run(recipe, batch, start)
      return bits([first, run(recipe, batch, first.state)])
    }
    expect(twice(fromJSON(recipe, toJSON(state!)))).toBe(twice(state!))
    expect(bits(state), 'a step changes no state in place').toBe(before)
    expect(() => run(recipe, batch, other)).toThrow(`${name}: state is one of another, expected one of ${name}`)
    const later = { ...state!, version: state!.version + 1 }
    expect(() => run(recipe, batch, later)).toThrow(
      `${name}: state has version ${later.version}, expected ${state!.version}`,
    )
    expect(errorOf(() => fromJSON(recipe, toJSON(other))).message).toContain('state is one of another')
  })

  test('from logits and from hidden states: the same loss, and its gradient', () => {
    if (isGaussian(recipe) || !hasLoss(recipe)) return
    const [T, V] = [columns.token.length, 5]
    // Logits that are log-probabilities: logp of the token, and the rest shared out 1 : 2 : 3 : 4.
    const logits = new Float32Array(T * V)
    for (let t = 0; t < T; t++) {
      const own = columns.token[t]!
      const rest = Math.log1p(-Math.exp((batch.logp as Float32Array)[t]!)) - Math.log(10)
      for (let v = 0, share = 1; v < V; v++) {
        logits[t * V + v] = v === own ? (batch.logp as Float32Array)[t]! : rest + Math.log(share++)
      }
    }
    const rows: HostArray<'f32'> = { dtype: 'f32', shape: [T, V], data: logits }
    const inputs = { logits: rows, token: Int32Array.from(columns.token) }
    const { logp, entropy, logsumexp } = tokenLogprob(inputs)
    // Hidden states are the logits in another order at half the size, the head doubles them and puts them back.
    const place = [3, 0, 4, 1, 2]
    const hidden: HostArray<'f32'> = { ...rows, data: logits.map((_, k) => logits[k - (k % V) + place[k % V]!]! / 2) }
    const headData = new Float32Array(V * V)
    place.forEach((v, d) => (headData[v * V + d] = 2))
    const head: HostArray<'f32'> = { dtype: 'f32', shape: [V, V], data: headData }

    const base: Batch = { ...batch, entropy: entropy.data }
    delete base.logp
    const plain = run(recipe, { ...base, logp: logp.data })
    const fromLogits = run(recipe, { ...base, logits: rows })
    const fromHidden = run(recipe, { ...base, hidden, head })

    // Four last digits for the result, as for golden numbers, and four for the log-probabilities that go into it.
    const largest = (x: ArrayLike<number>) => Math.max(...Array.from(x, Math.abs))
    const size = Array.from(plain.gradLogp!.data as Float32Array).reduce((sum, g) => sum + Math.abs(g), 0)
    const near = (what: string, actual: ArrayLike<number>, expected: ArrayLike<number>, condition: number) => {
      const limit = 8 * ulp(Math.max(condition, largest(expected)))
      const off = Array.from(expected, (e, i) => Math.abs((actual[i] as number) - e))
      expect(actual.length, what).toBe(expected.length)
      expect(largest(off), what).toBeLessThanOrEqual(limit)
    }
    for (const step of [fromLogits, fromHidden]) {
      near('loss', [step.loss as number], [plain.loss as number], size)
      const read = (x: Float32Array) => x.filter((_, t) => plain.mask![t])
      near('logp', read(step.logp!), read(logp.data), 1)
    }
    const gradients = { gradLogp: plain.gradLogp!, gradEntropy: plain.gradEntropy }
    const expected = tokenLogprobBackward({ ...inputs, logsumexp, entropy, ...gradients }).gradLogits
      .data as Float32Array
    const slope = largest(plain.gradLogp!.data as Float32Array)
    near('gradLogits', fromLogits.gradLogits!.data as Float32Array, expected, slope)
    near('gradHidden', fromHidden.gradHidden!.data as Float32Array, expected.map((_, k) => 2 * expected[k - (k % V) + place[k % V]!]!), slope) // biome-ignore format: one comparison
    const product = Array.from(headData, (_, k) => {
      const [v, d] = [Math.floor(k / V), k % V]
      return Array.from({ length: T }, (_, t) => expected[t * V + v]! * hidden.data[t * V + d]!).reduce((a, b) => a + b)
    })
    near('gradHead', fromHidden.gradHead!.data as Float32Array, product, size * largest(hidden.data))
  })
})
