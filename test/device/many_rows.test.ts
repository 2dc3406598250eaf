// Arrays of very many rows, of which tokens name few: on the device too, work and memory follow the tokens.
import { spawnSync } from 'node:child_process'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import * as lib from '../../lib/index.js'
import { backend } from '../support/backend_kind.js'
import { identical } from '../support/compare.js'
import { random } from '../support/random.js'

const { cuda, array } = lib
type Bag = Record<string, unknown>

/** Calls on a simulated GPU that has a megabyte, where a word for each row would be 8.6 GB. Prints what they give. */
const program = `
  const g = require('./dist/index.js')
  const most = 2 ** 31 - 1
  const none = new Int32Array(0)
  const floats = (...x) => (x.length ? g.cuda.upload(Float32Array.from(x)) : g.cuda.empty('f32', [0]))
  const read = (x) => Array.from(x.readSync().data)
  const said = []
  for (const dtype of ['f32', 'bf16']) {
    const logits = g.cuda.empty(dtype, [most, 0])
    const linear = { hidden: logits, head: g.cuda.empty(dtype, [most, 0]) }
    const tokens = { token: none, row: none }
    const softmax = { logsumexp: floats(), entropy: floats(), gradLogp: floats(), gradEntropy: floats() }
    const policy = { ...tokens, advantage: floats(), sequenceStart: Int32Array.of(0) }
    g.tokenLogprob({ logits, ...tokens })
    g.tokenLogprobBackward({ logits, ...tokens, ...softmax })
    g.linearTokenLogprob({ ...linear, ...tokens })
    g.linearTokenLogprobBackward({ ...linear, ...tokens, ...softmax })
    for (const ratio of ['token', 'sequence']) {
      g.policyLossFromLogits({ logits, ...policy }, { ratio })
      g.linearPolicyLoss({ ...linear, ...policy }, { ratio })
    }
    const one = { token: Int32Array.of(2), row: Int32Array.of(most - 1) }
    const three = { hidden: logits, head: g.cuda.empty(dtype, [3, 0]), ...one }
    const { logp, entropy } = g.linearTokenLogprob(three)
    const { loss } = g.linearPolicyLoss({ ...three, advantage: floats(2), sequenceStart: Int32Array.of(0, 1) })
    const part = g.tokenLogprob({ logits, ...one }, { vocabStart: 4 })
    g.tokenLogprobBackward({ logits, ...one, logsumexp: floats(1), gradLogp: floats(1) }, { vocabStart: 4 })
    said.push(...[logp, entropy, loss, part.logp, part.entropy, part.logsumexp].map(read))
  }
  const sizes = { R: most, T: 10, D: 1, V: 3, dtype: 'f32', device: 0 }
  said.push([g.linearPolicyLoss.plan(sizes).peakBytes < 2 ** 16])
  console.log(said.flat().join(' '))
  process.exit()`

describe.skipIf(backend !== 'simt')('2,147,483,647 rows and no columns', () => {
  test('take no memory and no time', () => {
    const env = { ...process.env, GRPO_SIMT_MEMORY: String(2 ** 20) }
    const options = { cwd: join(__dirname, '..', '..'), env, encoding: 'utf8', timeout: 120_000 } as const
    const { stdout, stderr, status } = spawnSync(process.execPath, ['-e', program], options)
    expect({ status, stderr }).toEqual({ status: 0, stderr: '' })
    const [logp, entropy] = [Math.fround(-Math.log(3)), Math.fround(Math.log(3))]
    const each = [logp, entropy, -2, -Infinity, 0, -Infinity]
    expect(stdout.trim()).toBe([...each, ...each, true].join(' '))
  })
})

describe.skipIf(backend === 'cpu')('tokens of few rows among many: the bits of those rows alone', () => {
  const T = 48
  const R = 4900 // more than 16 T + 4,096: tokens are sorted, where they are counted among the named rows alone
  const D = 8

  function problem(V: number, bad: boolean) {
    const r = random(V)
    const names = Int32Array.of(0, 1, 2, 63, 64, 700, 701, 2500, 4097, R - 2, R - 1)
    const place = Int32Array.from({ length: T }, () => r.integer(names.length))
    const mask = r.mask(T)
    const token = Int32Array.from({ length: T }, () => r.integer(V))
    const row = place.map((i) => names[i] as number)
    if (bad) {
      token[3] = V
      place[8] = row[8] = -1
      place[9] = row[9] = R
      for (const t of [3, 8, 9]) mask[t] = 1
      for (const t of [5, 11]) mask[t] = 0
      place[5] = row[5] = -7
      token[11] = -1
    }
    const few = (n: number) => {
      const x = r.normals(names.length * n)
      const all = new Float32Array(R * n).fill(Number.NaN) // what no token names is not read
      for (const [i, name] of names.entries()) all.set(x.subarray(i * n, (i + 1) * n), name * n)
      return { alone: array(x, [names.length, n]), among: array(all, [R, n]) }
    }
    const numbers = () => cuda.upload(r.normals(T))
    // Some tokens have no gradient, and one row none at all.
    const gradients = r.normals(T).map((x, t) => (t % 5 === 0 || place[t] === 4 ? 0 : x))
    return {
      few,
      names,
      tokens: { token: cuda.upload(token), mask: cuda.upload(mask) },
      rows: { alone: cuda.upload(place), among: cuda.upload(row) },
      numbers,
      gradLogp: cuda.upload(gradients),
      loss: {
        oldLogp: numbers(),
        advantage: cuda.upload(Float32Array.of(1, -1, 0)),
        sequenceStart: Int32Array.of(0, 20, 30, T),
      },
    }
  }

  /** Runs a call on the named rows alone and among all of them, and compares every output; `byRow` has rows. */
  function same(run: (on: 'alone' | 'among') => Bag, names: Int32Array, byRow: string): void {
    const [alone, among] = [run('alone'), run('among')]
    for (const name of Object.keys(alone)) {
      const [x, y] = [alone[name], among[name]].map((of) => (of as lib.DeviceArray).readSync())
      if (name !== byRow) {
        identical(y!, x!)
        continue
      }
      const width = x!.shape[1] as number
      const rest = (y!.data as Float32Array).slice()
      for (const [i, row] of names.entries()) {
        const own = rest.slice(row * width, (row + 1) * width)
        identical(array(own), array((x!.data as Float32Array).slice(i * width, (i + 1) * width)))
        rest.fill(0, row * width, (row + 1) * width)
      }
      identical(array(rest), array(new Float32Array(rest.length)))
    }
  }

  // Rows of 8 KiB are read once by clusters of blocks, shorter ones twice.
  test.each([
    [5, true],
    [5, false],
    [2048, true],
  ])('tokenLogprob and its gradient, %d columns, bad ids among them: %j', (V, bad) => {
    const { few, names, tokens, rows, numbers, gradLogp } = problem(V, bad)
    const logits = few(V)
    const [logsumexp, entropy, gradEntropy] = [numbers(), numbers(), numbers()]
    const inputs = (on: 'alone' | 'among') => ({ logits: cuda.upload(logits[on]), row: rows[on], ...tokens })
    same((on) => lib.tokenLogprob(inputs(on)) as never, names, '')
    same(
      (on) => lib.tokenLogprobBackward({ ...inputs(on), logsumexp, entropy, gradLogp, gradEntropy }) as never,
      names,
      'gradLogits',
    )
    same(
      (on) => {
        const given = inputs(on) // over the logits: rows that no token names become 0 there
        return lib.tokenLogprobBackward(
          { ...given, logsumexp, gradLogp },
          { out: { gradLogits: given.logits } },
        ) as never
      },
      names,
      'gradLogits',
    )
  })

  test('no tokens: zeros for all rows', () => {
    const none = new Int32Array(0)
    const x = () => cuda.empty('f32', [0])
    const given = (n: number) => cuda.upload(array(new Float32Array(R * n).fill(Number.NaN), [R, n]))
    const softmax = { logsumexp: x(), gradLogp: x() }
    const tokens = { token: none, row: none }
    const head = cuda.upload(array(new Float32Array(3 * D).fill(1), [3, D]))
    const gradients = [
      lib.tokenLogprobBackward({ logits: given(5), ...tokens, ...softmax }).gradLogits,
      lib.linearTokenLogprobBackward({ hidden: given(D), head, ...tokens, ...softmax }).gradHidden,
    ]
    for (const gradient of gradients) {
      const { data } = (gradient as unknown as lib.DeviceArray<'f32'>).readSync()
      expect(data.every((x) => x === 0)).toBe(true)
    }
  })

  test.each(['token', 'sequence'] as const)('policyLossFromLogits, ratios of a %s', (ratio) => {
    const { few, names, tokens, rows, loss } = problem(5, false)
    const logits = few(5)
    const options = { ratio, entropyCoef: 0.1 }
    same(
      (on) =>
        lib.policyLossFromLogits(
          { logits: cuda.upload(logits[on]), row: rows[on], ...tokens, ...loss },
          options,
        ) as never,
      names,
      'gradLogits',
    )
  })

  test.each(['token', 'sequence'] as const)('the linear operations, ratios of a %s', (ratio) => {
    const V = 37
    const { few, names, tokens, rows, numbers, gradLogp, loss } = problem(V, false)
    const hidden = few(D)
    const head = cuda.upload(array(random(4).normals(V * D), [V, D]))
    const logsumexp = numbers()
    for (const chunkRows of [null, 4]) {
      const inputs = (on: 'alone' | 'among') => ({ hidden: cuda.upload(hidden[on]), head, row: rows[on], ...tokens })
      same((on) => lib.linearTokenLogprob(inputs(on), { chunkRows }) as never, names, '')
      same(
        (on) => lib.linearTokenLogprobBackward({ ...inputs(on), logsumexp, gradLogp }, { chunkRows }) as never,
        names,
        'gradHidden',
      )
      same(
        (on) => lib.linearPolicyLoss({ ...inputs(on), ...loss }, { chunkRows, ratio, entropyCoef: 0.1 }) as never,
        names,
        'gradHidden',
      )
    }
  })
})

describe.skipIf(backend === 'cpu')('attention without columns', () => {
  test('counts what each token sees, and looks at no pair of tokens', () => {
    const P = 40_000 // 8e8 pairs, minutes on the interpreter
    const layout = lib.prefixLayout([{ prefix: P - 5, responses: [2, 0, 3] }])
    const empty = (...shape: number[]) => cuda.empty('f32', shape)
    const inputs = { q: empty(P, 2, 0), k: empty(P, 1, 0), v: empty(P, 1, 0), layout }
    const before = performance.now()
    const { out, logsumexp } = lib.prefixAttention(inputs) as unknown as Record<
      'out' | 'logsumexp',
      lib.DeviceArray<'f32'>
    >
    const seen = Array.from({ length: P }, (_, p) => (p < P - 3 ? p + 1 : p - 1))
    const { data } = logsumexp.readSync()
    seen.forEach((count, p) => {
      for (const h of [0, 1]) expect(data[2 * p + h]).toBe(Math.fround(Math.log(count)))
    })
    const gradients = lib.prefixAttentionBackward({ ...inputs, gradOut: out, out, logsumexp } as never)
    expect(gradients.gradQ.shape).toEqual([P, 2, 0])
    expect(performance.now() - before).toBeLessThan(10_000)
    // A layout that is none, which only the device can see: its segment says to be its own parent.
    const bad = { ...layout, segmentParent: cuda.upload(Int32Array.of(0, 0, 0, 0)) }
    const refused = lib.prefixAttention({ ...inputs, layout: bad } as never) as unknown as typeof gradients
    expect(Array.from((refused as unknown as { logsumexp: lib.DeviceArray<'f32'> }).logsumexp.readSync().data.slice(0, 3))).toEqual([NaN, NaN, NaN]) // biome-ignore format: a line
  })
})
