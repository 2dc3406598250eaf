// Every operation whose integers or masks say where it reads and writes, over memory that another thread writes to during
// the calls: offsets, rows, ids and masks that are right when they are checked and wrong a moment later. What comes out may
// be anything, and so may an error be; the process has to live. node test/call/race.cjs SECONDS
const { join } = require('node:path')
const { isMainThread, Worker, workerData } = require('node:worker_threads')

const [N, D] = [1 << 12, 4] // tokens, rows, rollouts; columns
const sequences = N / 16

const shared = (Type, length, fill) => {
  const x = new Type(new SharedArrayBuffer(length * Type.BYTES_PER_ELEMENT))
  for (let i = 0; i < length; i++) x[i] = fill(i)
  return x
}

/** Writes what is wrong and then what was there, in one stretch after the other. */
function disturb({ integers, masks, whole }) {
  const before = integers.map((x) => x.slice())
  const wild = [-(2 ** 31), -1, N, 2 ** 30, 2 ** 31 - 1, 7]
  for (let i = 0; ; i++) {
    integers.forEach((x, k) => {
      const at = (i * 7919) % x.length
      const end = Math.min(at + 32, x.length)
      x.fill(wild[i % wild.length], at, end)
      x.set(before[k].subarray(at, end), at)
    })
    if (i % 16 === 0) whole.fill((i >> 4) & 1) // what is counted as empty is full a moment later
    for (const mask of masks) for (let j = 0; j < 64; j++) mask[(i * 64 + j) % mask.length] = (i >> 6) & 1
  }
}

function main(seconds) {
  const g = require(join(__dirname, '..', '..', 'dist', 'index.js'))
  const offsets = shared(Int32Array, sequences + 1, (s) => 16 * s)
  const ids = shared(Int32Array, N, (i) => (i * 31) % D)
  const index = shared(Int32Array, N, (i) => (i * 17) % N)
  const row = shared(Int32Array, N, (i) => (i * 29) % N)
  const parent = shared(Int32Array, 64, (b) => b - 1)
  const end = shared(Int32Array, 64, () => 64)
  const length = shared(Int32Array, 64, () => 4)
  const segmentStart = shared(Int32Array, 65, (b) => 4 * b)
  const mask = shared(Uint8Array, N, () => 1)
  const whole = shared(Uint8Array, 1 << 18, () => 0)
  const floats = (n) => Float32Array.from({ length: n }, (_, i) => Math.sin(i))
  const x = floats(N)
  const matrix = g.array(floats(N * D), [N, D])
  const head = g.array(floats(D * D), [D, D])
  const heads = () => g.array(floats(256 * D), [256, 1, D])
  const tokens = { token: ids, row, mask }
  const policy = { ...tokens, advantage: floats(sequences), sequenceStart: offsets, oldLogp: x }
  const softmax = { logsumexp: x, entropy: x, gradLogp: x, gradEntropy: x }
  const layout = { segmentStart, segmentParent: parent, segmentEnd: end }
  const attention = { q: heads(), k: heads(), v: heads(), layout }
  const backward = { ...attention, gradOut: heads(), out: heads(), logsumexp: g.array(floats(256), [256, 1]) }
  const calls = [
    () => g.sequenceSum({ x, sequenceStart: offsets, mask }),
    () => g.sequenceExpand({ x: floats(sequences), sequenceStart: offsets, mask }, { mean: true }),
    () => g.discountedSum({ x, sequenceStart: offsets, mask }),
    () => g.groupAdvantage({ rewards: x, groupStart: offsets, mask }, { scale: 'leave_one_out_std' }),
    () =>
      g.policyLoss(
        { logp: x, oldLogp: x, advantage: floats(sequences), sequenceStart: offsets, mask },
        { ratio: 'sequence' },
      ),
    () => g.selectRollouts({ score: x, groupStart: offsets, mask }, { count: 4 }),
    () =>
      g.selectTokens(
        { entropy: x, advantage: floats(sequences), sequenceStart: offsets, mask },
        { count: 4, scope: 'sequence' },
      ),
    () => g.maskIndex({ mask }),
    () => g.maskIndex({ mask: whole }),
    () => g.gatherRows({ x: matrix, index }),
    () => g.scatterRows({ x: matrix, index }, { rows: N }),
    () => g.groupBy(ids),
    () => g.treeLayout({ length, parent }),
    () => g.prefixAttention(attention),
    () => g.prefixAttentionBackward(backward),
    () => g.tokenLogprob({ logits: matrix, ...tokens }),
    () => g.tokenLogprobBackward({ logits: matrix, ...tokens, ...softmax }),
    () => g.policyLossFromLogits({ logits: matrix, ...policy }),
    () => g.policyLossFromLogits({ logits: matrix, ...policy }, { ratio: 'sequence' }),
    () => g.linearTokenLogprob({ hidden: matrix, head, ...tokens }),
    () => g.linearTokenLogprobBackward({ hidden: matrix, head, ...tokens, ...softmax }),
    () => g.linearPolicyLoss({ hidden: matrix, head, ...policy }),
  ]
  const workerData = { integers: [offsets, ids, index, row, parent, end, length, segmentStart], masks: [mask], whole }
  const worker = new Worker(__filename, { workerData })
  worker.on('online', () => {
    const counts = calls.map(() => ({ done: 0, refused: 0 }))
    for (const stop = Date.now() + 1000 * seconds; Date.now() < stop; ) {
      calls.forEach((call, i) => {
        try {
          call()
          counts[i].done++
        } catch (error) {
          if (error.code !== 'ERR_GRPO_VALUE' && error.code !== 'ERR_GRPO_SHAPE') throw error
          counts[i].refused++
        }
      })
    }
    console.log(
      JSON.stringify({
        done: Math.min(...counts.map(({ done }) => done)),
        refused: Math.max(...counts.map(({ refused }) => refused)),
      }),
    )
    worker.terminate()
  })
}

if (isMainThread) main(Number(process.argv[2]))
else disturb(workerData)
