// Whatever a public function is called with, it computes or says in an error of its own what is wrong: no TypeError of
// JavaScript comes out of its inside.
import { expect, test } from 'vitest'
import * as lib from '../../lib/index.js'
import { array } from '../../lib/index.js'
import * as promises from '../../lib/promises.js'
import * as recipes from '../../lib/recipes/index.js'

const things: unknown[] = [
  undefined,
  null,
  true,
  5,
  Number.NaN,
  10n,
  'text',
  Symbol('thing'),
  () => 1,
  [],
  {},
  [null],
  [undefined],
  [5],
  ['text'],
  [[]],
  [{}],
  [{}, null],
  new Map(),
  new Date(0),
  Object.create(null),
  new Float32Array(2),
  new Uint16Array(2),
  new ArrayBuffer(8),
  array(new Float32Array(2)),
  { data: null, dtype: 'f32', shape: [1] },
  { data: new Float32Array(1), dtype: 'f32', shape: null },
  { length: 2 },
]

const doors = { lib, promises, recipes }
const functions = Object.entries(doors).flatMap(([door, all]) =>
  Object.entries(all).flatMap(([name, f]) => {
    const isClass = typeof f === 'function' && /^class /.test(String(f))
    return typeof f === 'function' && !isClass
      ? [[`${door}.${name}`, f as (...given: unknown[]) => unknown] as const]
      : []
  }),
)

async function errorOf(call: () => unknown): Promise<unknown> {
  try {
    await call()
    return undefined
  } catch (error) {
    return error
  }
}

test.each(functions)('%s', async (_, f) => {
  for (const first of things) {
    for (const second of [undefined, ...things]) {
      const error = await errorOf(() => (second === undefined ? f(first) : f(first, second)))
      if (error === undefined) continue
      const { code } = error as { code?: string }
      if (!code?.startsWith('ERR_GRPO_')) expect.fail(`${String(first)}, ${String(second)}: ${String(error)}`)
    }
  }
})
