// A step of a recipe on a random ragged batch, and what has to hold for it: a finite loss and gradients, none of a masked
// token, the same bits again, and from a state that was kept, written as JSON, or changed by somebody.

import { makeOf, names, presetNames } from '../../examples/recipes/describe.js'
import { exampleBatch } from '../../examples/recipes/example_batch.js'
import { parseOption } from '../../lib/addon/signatures.js'
import {
  type AnyRecipe,
  fromJSON,
  optimizationStep,
  prepareStep,
  type SavedState,
  toJSON,
} from '../../lib/recipes/index.js'
import { parseColumn } from '../../lib/recipes/step/columns.js'
import { random } from '../support/random.js'
import type { RecipeCase } from './cases.js'
import { badError, type Verdict } from './check.js'

type Batch = Record<string, unknown>
type Step = Record<string, unknown> & { loss?: number; state?: SavedState }

const wrong = (text: string): Verdict => ({ what: 'wrong', text })

/** Methods and presets, with the specs of their options. */
export const fuzzedRecipes = [...names, ...presetNames].map((name) => {
  const recipe = makeOf(name)() as AnyRecipe
  const options = Object.entries(recipe.description.options ?? {}).map(([option, [text]]) => parseOption(option, text))
  return {
    name,
    options: options.filter(({ fallback }) => fallback !== undefined),
    stateful: recipe.state !== undefined,
  }
})

/** Whether every column of its own is a list over rollouts, groups or tokens; else the example says what it holds. */
function isRagged({ description }: AnyRecipe): boolean {
  return Object.entries(description.columns ?? {}).every(([name, text]) => {
    const { kind, axes, optional } = parseColumn(name, text)
    return optional || (kind !== 'any' && axes.length === 1 && /^[NGT]$/.test(axes[0] as string))
  })
}

/** First token of each rollout, from their lengths. */
const starts = (lengths: number[]) => lengths.reduce((all, n) => all.concat((all.at(-1) as number) + n), [0])
const policyColumns = ['logp', 'oldLogp', 'refLogp', 'rolloutLogp']

/** Of each rollout of a group an earlier one, counted through the batch, or none. */
function parents(c: RecipeCase, r: ReturnType<typeof random>): number[] {
  const first = starts(c.groups.map((group) => group.length))
  return c.groups.flatMap((group, g) =>
    group.map((_, i) => (r.integer(3) === 0 || i === 0 ? -1 : (first[g] as number) + r.integer(i))),
  )
}

export function batchOf(c: RecipeCase, recipe: AnyRecipe): Batch {
  const r = random(c.seed)
  const example = exampleBatch(recipe)
  const ragged = isRagged(recipe) && example.mean === undefined
  const batch: Batch = ragged ? {} : { ...example }
  if (ragged) {
    batch.groupStart = starts(c.groups.map((group) => group.length))
    batch.sequenceStart = starts(c.groups.flat())
    const sizes = { N: c.groups.flat().length, G: c.groups.length, T: c.groups.flat(2).reduce((a, b) => a + b, 0) }
    const own = Object.entries(recipe.description.columns ?? {}).map(([name, text]) => parseColumn(name, text))
    const axis = new Map(own.map(({ name, axes }) => [name, axes[0]]))
    const numbers = new Map(own.map(({ name, kind }) => [name, kind]))
    for (const [name, values] of Object.entries(example)) {
      if (name.endsWith('Start') || policyColumns.includes(name)) continue
      const size = sizes[(name === 'rewards' ? 'N' : (axis.get(name) ?? 'T')) as 'N']
      // Of a column that is described in words alone nobody knows what it runs over; it is optional.
      const any = numbers.get(name) === 'any'
      if (!any && axis.has(name) && axis.get(name) === undefined) batch[name] = values // one value
      if (any || size === undefined || (!ArrayBuffer.isView(values) && !Array.isArray(values))) continue
      if (name === 'parent') {
        batch.parent = parents(c, r)
        continue
      }
      const list = values as number[]
      const column = Array.from({ length: size }, (_, i) =>
        numbers.get(name) === 'id' ? `${name} ${i}` : list[r.integer(list.length)],
      )
      batch[name] = name === 'entropy' ? Float32Array.from(column as number[]) : column
    }
    batch.oldLogp = r.uniforms(sizes.T, -4, -0.05)
  }
  const old = batch.oldLogp as Float32Array | undefined
  if (old !== undefined && example.logp !== undefined) {
    const near = () => old.map((x) => Math.min(-1e-4, x + 0.6 * (2 * r.uniform() - 1)))
    for (const name of ['logp', 'refLogp', 'rolloutLogp']) batch[name] = near()
    const mask = r.mask(old.length, 0.8)
    batch.mask = c.mask === 'some' ? mask : new Uint8Array(old.length).fill(Number(c.mask === 'all'))
  }
  return batch
}

/** The same batch with its groups from the last to the first; undefined where the batch is an example. */
function backwards(c: RecipeCase, recipe: AnyRecipe, batch: Batch): { batch: Batch; tokens: number[] } | undefined {
  if (!isRagged(recipe) || exampleBatch(recipe).mean !== undefined) return undefined
  const groups = c.groups.map((_, g) => g).reverse()
  const [first, firstToken] = [batch.groupStart as number[], batch.sequenceStart as number[]]
  const span = (start: number[], i: number) =>
    Array.from({ length: start[i + 1]! - start[i]! }, (_, k) => start[i]! + k)
  const rollouts = groups.flatMap((g) => span(first, g))
  const tokens = rollouts.flatMap((i) => span(firstToken, i))
  const own = Object.entries(recipe.description.columns ?? {}).map(([name, text]) => parseColumn(name, text))
  const axis = new Map(own.map(({ name, axes }) => [name, axes[0]]))
  const orders = { N: rollouts, G: groups, T: tokens }
  const entries = Object.entries(batch).map(([name, x]) => {
    const order = orders[(name === 'rewards' ? 'N' : (axis.get(name) ?? 'T')) as 'T']
    if (!ArrayBuffer.isView(x) && !Array.isArray(x)) return [name, x]
    const list = order.map((i) => (x as number[])[i]!).map((i) => (name === 'parent' ? rollouts.indexOf(i) : i))
    return [name, ArrayBuffer.isView(x) ? (x.constructor as Float32ArrayConstructor).from(list) : list]
  })
  const turned = c.groups.toReversed()
  return {
    batch: {
      ...Object.fromEntries(entries),
      groupStart: starts(turned.map((group) => group.length)),
      sequenceStart: starts(turned.flat()),
    },
    tokens,
  }
}

/** Groups that stand in another order have the same gradients, but for the rounding of sums over the batch. */
function otherOrder(c: RecipeCase, recipe: AnyRecipe, batch: Batch, step: Step): string | undefined {
  const turned = backwards(c, recipe, batch)
  if (turned === undefined || !isArray(step.gradLogp) || ordered[c.name]?.(c, { ...recipe.options })) return undefined
  const other = run(recipe, turned.batch)
  if (other instanceof Error) return `computes, and with its groups in another order: ${other.message}`
  if (!isArray(other.gradLogp)) return 'has a gradient, and with its groups in another order none'
  const [a, b] = [step.gradLogp.data, other.gradLogp.data]
  const largest = a.reduce((most, x) => Math.max(most, Math.abs(x)), 0)
  const wrong = turned.tokens.findIndex((t, i) => !(Math.abs(a[t]! - b[i]!) <= 1e-5 * largest))
  if (wrong < 0) return undefined
  const t = turned.tokens[wrong] as number
  return `gradLogp[${t}] is ${a[t]}, and with the groups in another order ${b[wrong]}`
}

const bits = (x: unknown): string =>
  JSON.stringify(x, (_, value) => {
    if (ArrayBuffer.isView(value)) return Buffer.from(value.buffer, value.byteOffset, value.byteLength).toString('hex')
    if (typeof value === 'function') return undefined
    return typeof value === 'number' ? (Object.is(value, -0) ? '-0' : String(value)) : value
  })

function run(recipe: AnyRecipe, batch: Batch, state?: unknown): Step | Error {
  try {
    return optimizationStep(recipe, batch, state as never) as unknown as Step
  } catch (error) {
    if ((error as { argument?: string }).argument !== 'loss') return error as Error
  }
  try {
    return prepareStep(recipe, batch, state as never) as unknown as Step
  } catch (error) {
    return error as Error
  }
}

/** The data of a state with one value in it changed, lost, or added. */
function changed(data: unknown, change: number): unknown {
  const r = random(change)
  const copy = structuredClone({ data })
  const places: [object, string][] = []
  const visit = (x: object) => {
    for (const [key, value] of Object.entries(x)) {
      places.push([x, key])
      if (typeof value === 'object' && value !== null && places.length < 400) visit(value)
    }
  }
  visit(copy)
  const [at, key] = places[r.integer(places.length)] as [Record<string, unknown>, string]
  const values = [null, '1', Number.NaN, -1, 1e300, 0.5, [], {}, true, '', [null], { minus: 1 }, 2 ** 53, Infinity]
  const which = r.integer(values.length + 1)
  if (which === values.length) delete at[key]
  else at[key] = values[which]
  return copy.data
}

const always = () => true
/** Where the order of groups means something: what is drawn by place, the earlier of two that are equal, neighbours. */
const ordered: Partial<Record<string, (c: RecipeCase, options: Readonly<Record<string, unknown>>) => boolean>> = {
  branchGrpo: (_, { width }) => width === 'batch', // equal values
  clipCov: always, // draws
  klCov: always, // equal covariances
  grpoLambda: always,
  d3s: (_, { rolloutScope, tokenScope }) => rolloutScope === 'batch' || tokenScope === 'batch', // equal scores
  riskPo: ({ groups }, { bundle }) => groups.length > (bundle as number), // bundles of neighbours
}

type Array32 = { data: Float32Array }
const isArray = (x: unknown): x is Array32 => ArrayBuffer.isView((x as Partial<Array32> | undefined)?.data)

/** What is wrong with a step, if anything. */
function badStep(step: Step, batch: Batch): string | undefined {
  if ('loss' in step && typeof step.loss === 'number' && !Number.isFinite(step.loss)) return `the loss is ${step.loss}`
  const T = (batch.logp as Float32Array | undefined)?.length
  for (const [name, gradient] of Object.entries(step)) {
    if (!name.startsWith('grad') || !isArray(gradient)) continue
    const bad = gradient.data.findIndex((x) => !Number.isFinite(x))
    if (bad >= 0) return `${name}[${bad}] is ${gradient.data[bad]}`
  }
  if (!isArray(step.gradLogp) || T === undefined) return undefined
  if (step.gradLogp.data.length !== T) return `gradLogp has ${step.gradLogp.data.length} values for ${T} tokens`
  const taught = (batch.mask as Uint8Array).findIndex((kept, t) => !kept && (step.gradLogp as Array32).data[t] !== 0)
  return taught < 0 ? undefined : `gradLogp[${taught}] is not 0, and the token is masked`
}

export function checkRecipe(c: RecipeCase): Verdict {
  let recipe: AnyRecipe
  try {
    recipe = makeOf(c.name)(c.options as never) as AnyRecipe
  } catch (error) {
    const text = badError(error, undefined)
    return text === undefined ? { what: 'refused' } : wrong(text)
  }
  const batch = batchOf(c, recipe)
  const first = run(recipe, batch)
  if (first instanceof Error) {
    const text = badError(first, undefined)
    return text === undefined ? { what: 'refused' } : wrong(text)
  }
  const text = badStep(first, batch)
  if (text !== undefined) return wrong(text)
  if (bits(run(recipe, batchOf(c, recipe))) !== bits(first)) return wrong('another run has other bits')
  const order = otherOrder(c, recipe, batch, first)
  if (order !== undefined) return wrong(order)
  if (c.state === 'none' || first.state === undefined) return { what: 'computed' }

  const { state } = first
  const kept = bits(state)
  const next = run(recipe, batch, state)
  if (bits(state) !== kept) return wrong('the step after it changed the state')
  if (next instanceof Error) {
    const bad = badError(next, undefined)
    return bad === undefined ? { what: 'refused' } : wrong(bad)
  }
  const after = badStep(next, batch)
  if (after !== undefined) return wrong(`in the step after it ${after}`)
  if (c.state === 'json') {
    const restored = run(recipe, batch, fromJSON(recipe, toJSON(state)))
    if (bits(restored) !== bits(next)) return wrong('the state that was JSON goes on with other bits')
  }
  if (c.state !== 'changed') return { what: 'computed' }
  let other: unknown = { ...state, data: changed(state.data, c.change) }
  try {
    // What JSON cannot hold comes by the other way.
    other = fromJSON(recipe, JSON.stringify(other))
  } catch (error) {
    const bad = badError(error, undefined)
    return bad === undefined ? { what: 'refused' } : wrong(`a changed state: ${bad}`)
  }
  const last = run(recipe, batch, other)
  if (!(last instanceof Error)) {
    const bad = badStep(last, batch)
    return bad === undefined
      ? { what: 'computed' }
      : wrong(`after a changed state ${JSON.stringify(other)} was taken ${bad}`)
  }
  const bad = badError(last, undefined)
  return bad === undefined ? { what: 'refused' } : wrong(`with a changed state: ${bad}`)
}
