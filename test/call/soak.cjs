// Workers that load the package, call it in an endless loop, synchronously or through promises, and are terminated in the
// middle. node test/call/soak.cjs COUNT
const { join } = require('node:path')
const { isMainThread, parentPort, Worker, workerData } = require('node:worker_threads')

const rollouts = 1 << 20
const inputs = () => ({
  rewards: Float32Array.from({ length: rollouts }, (_, i) => i % 7),
  groupStart: Int32Array.from({ length: rollouts / 16 + 1 }, (_, g) => 16 * g),
})

async function worker() {
  const { groupAdvantage } = require(join(__dirname, '..', '..', 'dist', workerData ? 'promises.js' : 'index.js'))
  const arrays = inputs()
  parentPort.postMessage('ready')
  for (;;) {
    await groupAdvantage(arrays)
    await groupAdvantage(arrays)
  }
}

async function main() {
  const count = Number(process.argv[2])
  let ended = 0
  const one = (index) =>
    new Promise((resolve, reject) => {
      const thread = new Worker(__filename, { workerData: index % 2 })
      thread.on('error', reject)
      thread.on('message', () => setTimeout(() => thread.terminate(), 1 + (index % 5)))
      thread.on('exit', () => resolve(++ended))
    })
  for (let i = 0; i < count; i += 4) await Promise.all([0, 1, 2, 3].map((j) => one(i + j)))
  console.log(`${ended} workers ended`)
}

if (isMainThread) main()
else worker()
