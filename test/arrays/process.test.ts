// Device arrays in programs of their own: why there is no GPU, how a process and a worker_thread end, memory that is
// collected or does not suffice. On the simulated GPUs of test/simt/ (npm run build:simt).
import { spawnSync } from 'node:child_process'
import { cpSync, existsSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { CudaError } from '../../lib/index.js'

const root = join(__dirname, '..', '..')
const simulated = join(root, 'build-simt/libgrpo_kernels_cuda.so')
const given = process.env.GRPO_KERNELS_CUDA ?? (existsSync(simulated) ? simulated : undefined)

/** What a program prints that gets the package in `folder` as `g`, in a process of its own. */
function child(program: string, env: Record<string, string>, folder = root): string {
  const text = `const g = require('./dist/index.js'); const { cuda } = g; ${program}`
  const { stdout, stderr, status } = spawnSync(process.execPath, ['--expose-gc', '-e', text], {
    cwd: folder,
    env: { ...process.env, GRPO_KERNELS_CUDA: '', ...env },
    encoding: 'utf8',
  })
  expect({ status, stderr: stderr.replace(/\(Use `node --trace-warnings.*\n/, '') }).toMatchObject({ status: 0 })
  return stdout + stderr
}

const printReason = 'console.log(cuda.available, cuda.devices.length, cuda.reason)'

describe('without a library', () => {
  const code = 'ERR_GRPO_DEVICE'

  test.each([
    ['the installed package', [], 'docs/troubleshooting.md says how to build it'],
    ['a checkout', ['binding.gyp'], 'npm run build:cuda makes it'],
  ])('cuda of %s says what is missing', (_, more, remedy) => {
    // The package's own folder may have a library: one beside it has the rest of the package.
    const folder = mkdtempSync(join(tmpdir(), 'grpo-kernels-'))
    try {
      cpSync(join(root, 'dist'), join(folder, 'dist'), { recursive: true })
      for (const name of ['package.json', 'node_modules', 'build', ...more]) {
        symlinkSync(join(root, name), join(folder, name))
      }
      const reason = `this build of the package has no CUDA library: ${remedy}`
      expect(child(printReason, {}, folder)).toBe(`false 0 ${reason}\n`)
      const attempt = 'try { cuda.upload(new Float32Array(1)) } catch (e) { console.log(e.name, e.code, e.message) }'
      expect(child(attempt, {}, folder)).toBe(`TypeError ERR_GRPO_DEVICE cuda.upload: needs a GPU: ${reason}\n`)
    } finally {
      rmSync(folder, { recursive: true })
    }
  })

  test('a file that is no library is a reason, not a crash', () => {
    const path = join(root, 'package.json')
    expect(child(printReason, { GRPO_KERNELS_CUDA: path })).toContain(
      `false 0 the CUDA library ${path} cannot be loaded`,
    )
    expect(child(printReason, { GRPO_KERNELS_CUDA: '/nowhere.so' })).toContain('cannot be loaded: /nowhere.so')
    expect(child(printReason, { GRPO_KERNELS_CUDA: root })).toContain(
      `false 0 the CUDA library ${root} cannot be loaded`,
    )
  })

  test('so are a library without the entry point, and one of another version', () => {
    const folder = mkdtempSync(join(tmpdir(), 'grpo-'))
    const build = (name: string, source: string) => {
      const file = join(folder, `${name}.so`)
      writeFileSync(join(folder, `${name}.c`), source)
      const { stderr } = spawnSync('cc', ['-shared', '-fPIC', '-o', file, join(folder, `${name}.c`)], {
        encoding: 'utf8',
      })
      expect(stderr).toBe('')
      return child(printReason, { GRPO_KERNELS_CUDA: file })
    }
    try {
      expect(build('other', 'int other;')).toMatch(
        /^false 0 .* cannot be loaded: .*: undefined symbol: grpo_kernels_cuda_api/,
      )
      const old = 'void* grpo_kernels_cuda_api(unsigned version) { return 0; }'
      expect(build('old', old)).toMatch(/^false 0 .* cannot be loaded: it is older than the addon/)
    } finally {
      rmSync(folder, { recursive: true })
    }
  })

  test('everything that makes a device array refuses; waiting and host arrays work', () => {
    const program = `
      const attempts = [() => cuda.empty('f32', [1]), () => cuda.wrap({ pointer: 16n, dtype: 'f32', shape: [1] }),
        () => g.linearPolicyLoss.plan({ R: 1, T: 1, D: 1, V: 1, dtype: 'f32', device: 0 })]
      for (const attempt of attempts) try { attempt() } catch (e) { console.log(e.code, e.operation) }
      cuda.synchronize().then(() => console.log(g.readSync(new Float32Array([5])).data[0]))`
    const printed = child(program, { GRPO_KERNELS_CUDA: '/nowhere.so' })
    expect(printed).toBe(`${code} cuda.empty\n${code} cuda.wrap\n${code} linearPolicyLoss.plan\n5\n`)
  })
})

describe.skipIf(!existsSync(simulated))('why there is no GPU', () => {
  test.each([
    ['no driver', { GRPO_SIMT_DRIVER: 'none' }, /^false 0 no NVIDIA driver/],
    ['an old driver', { GRPO_SIMT_DRIVER: 'old' }, /^false 0 the NVIDIA driver is too old/],
    ['no device', { GRPO_SIMT_DRIVER: 'no_device' }, /^false 0 the NVIDIA driver finds no GPU/],
    ['an old device', { GRPO_SIMT_ARCH: '75' }, /^false 0 no GPU has the compute capability 8\.0 .* 7\.5/],
    ['none of these', { GRPO_SIMT_ARCH: '80' }, /^true 2 undefined/],
  ])('%s', (_, env, expected) => {
    expect(child(printReason, { GRPO_KERNELS_CUDA: simulated, ...env })).toMatch(expected)
  })

  test('a library with other operations', () => {
    const program = `
      const { native } = require('./dist/addon/native.js')
      const operations = native.cuda.operations
      native.cuda.operations = () => operations().filter(({ name }) => name !== 'moments')
      ${printReason}
      try { cuda.upload(new Float32Array(1)) } catch (e) { console.log(e.name, e.code) }
      console.log(g.moments({ x: new Float32Array([5]) }).mean)`
    expect(child(program, { GRPO_KERNELS_CUDA: simulated })).toMatch(
      /^false 0 the CUDA library .* is another version's: .* row moments, .*\nTypeError ERR_GRPO_DEVICE\n5\n$/,
    )
  })
})

describe.skipIf(given === undefined)('the life of an array', () => {
  test('ends with the worker_thread that made it', () => {
    const program = `
      const { Worker } = require('node:worker_threads')
      const work = "require('./dist/index.js').cuda.empty('f32', [1 << 18])"
      const next = (n) => n > 0 && new Worker(work, { eval: true }).on('exit', (code) => {
        console.log(code)
        next(n - 1)
      })
      next(3)`
    expect(child(program, { GRPO_KERNELS_CUDA: given as string, GRPO_SIMT_MEMORY: String(3 << 19) })).toBe('0\n0\n0\n')
  })

  test('one that nobody disposes of is freed, and a warning says so once', () => {
    const program = `
      process.on('warning', ({ code }) => console.log(code))
      for (let i = 0; i < 8; i++) cuda.empty('f32', [1 << 18])
      setTimeout(() => { gc(); setTimeout(() => { cuda.empty('f32', [1 << 20]); console.log('room') }, 50) }, 10)`
    const env = { GRPO_KERNELS_CUDA: given as string, GRPO_SIMT_MEMORY: String(9 << 20) }
    expect(child(program, env)).toMatch(/^GRPO_KERNELS_DISPOSE\nroom\n/)
  })

  test('memory that does not suffice is a CudaError, and all else goes on', () => {
    const program = `
      const x = cuda.upload(new Float32Array(1 << 18))
      const attempts = [() => cuda.empty('f32', [1 << 19]),
        () => g.groupAdvantage({ rewards: x, groupStart: new Int32Array([0, 1 << 18]) })]
      for (const attempt of attempts) try { attempt() } catch (e) { console.log(e.name, e.cudaCode, e.message) }
      console.log(cuda.upload(new Float32Array([3])).readSync().data[0])`
    const env = { GRPO_KERNELS_CUDA: given as string, GRPO_SIMT_MEMORY: String(3 << 19) }
    const printed = child(program, env)
    expect(printed).toMatch(/CudaError cudaErrorMemoryAllocation cuda.empty: array: .*2097152 bytes/)
    expect(printed).toMatch(/CudaError cudaErrorMemoryAllocation groupAdvantage: advantage: .*1048576 bytes/)
    expect(printed).toMatch(/\n3\n/)
    expect(CudaError.prototype).toBeInstanceOf(Error)
  })

  // Room for one of their arrays, and not for two.
  const worker = (body: string, next: string) => `
    const { Worker } = require('node:worker_threads')
    const work = "const { parentPort } = require('node:worker_threads'); " +
      "globalThis.x = require('./dist/index.js').cuda.empty('f32', [1 << 18]); " + ${JSON.stringify(body)}
    const next = (n) => {
      if (n === 0) return console.log('room')
      const worker = new Worker(work, { eval: true })
      worker.on('error', (e) => console.log(e.message))
      ${next}
    }
    next(4)`
  const terminated = "worker.on('message', () => worker.terminate().then(() => next(n - 1)))"
  test.each([
    ['is terminated', 'parentPort.postMessage(0); setInterval(() => {}, 1000)', terminated, 'room\n'],
    ['is terminated while it reads', 'x.read(); x.read(); parentPort.postMessage(0)', terminated, 'room\n'],
    [
      'is terminated with work on a stream of its own',
      "require('./dist/index.js').tokenLogprob({ logits: require('./dist/index.js').cuda.wrap({ pointer: x.pointer, " +
        "dtype: 'f32', shape: [1, 8] }), token: new Int32Array(1) }, { stream: 1n }); parentPort.postMessage(0); " +
        'setInterval(() => {}, 1000)',
      terminated,
      'room\n',
    ],
    ['exits', 'process.exit(0)', "worker.on('exit', () => next(n - 1))", 'room\n'],
    ['throws', "throw new Error('x')", "worker.on('exit', () => next(n - 1))", 'x\nx\nx\nx\nroom\n'],
  ])('ends with a worker_thread that %s', (_, body, next, expected) => {
    const env = { GRPO_KERNELS_CUDA: given as string, GRPO_SIMT_MEMORY: String(3 << 19) }
    expect(child(worker(body, next), env)).toBe(expected)
  })

  // The work on the stream runs when somebody waits for it: after the worker's end, and after what is freed by then.
  test.skipIf(given !== simulated)('ends with its worker_thread, but not before the work on a stream', () => {
    const work = `
      const g = require('./dist/index.js')
      const x = g.cuda.upload(new Float32Array([1, 2, 3, 4]))
      const y = g.cuda.wrap({ pointer: require('node:worker_threads').workerData, dtype: 'f32', shape: [4] })
      const stream = BigInt(process.env.GRPO_SIMT_STREAM_0_0)
      g.gatherRows({ x, index: new Int32Array([3, 2, 1, 0]) }, { stream, out: { x: y } })`
    const program = `
      const { Worker } = require('node:worker_threads')
      const y = cuda.upload(new Float32Array(4))
      y.readSync()
      new Worker(${JSON.stringify(work)}, { eval: true, workerData: y.pointer }).on('exit', (code) => {
        cuda.upload(new Float32Array([5, 6, 7, 8])).readSync()
        const stream = BigInt(process.env.GRPO_SIMT_STREAM_0_0)
        console.log(code, cuda.wrap({ pointer: y.pointer, dtype: 'f32', shape: [4], stream }).readSync().data.join())
      })`
    const env = { GRPO_KERNELS_CUDA: simulated, GRPO_SIMT_STREAMS: '1' }
    expect(child(program, env)).toBe('0 4,3,2,1\n')
  })

  // The interpreter says so on stderr where something is given back that is gone: on a GPU it may be another's by then.
  test.skipIf(given !== simulated)('is given back once: what its worker_thread disposed of ends no second time', () => {
    const work = `
      const g = require('./dist/index.js')
      const stream = BigInt(process.env.GRPO_SIMT_STREAM_0_0)
      const x = g.cuda.upload(new Float32Array([1, 2, 3, 4]))
      const { x: y } = g.gatherRows({ x, index: new Int32Array([0]) }, { stream }) // leaves an event
      x.dispose()
      y.dispose()`
    const program = `
      const { Worker } = require('node:worker_threads')
      cuda.upload(new Float32Array(4)).dispose()
      new Worker(${JSON.stringify(work)}, { eval: true }).on('exit', (code) => console.log(code))`
    expect(child(program, { GRPO_KERNELS_CUDA: simulated, GRPO_SIMT_STREAMS: '1' })).toBe('0\n')
  })

  test('ends with the process, at rest or at work', () => {
    const env = { GRPO_KERNELS_CUDA: given as string }
    const live = 'const x = globalThis.x = cuda.upload(new Float32Array([1, 2]));'
    expect(child(`${live} console.log(1)`, env)).toBe('1\n')
    expect(child(`${live} x.read(); x.read(); process.exit()`, env)).toBe('')
    const groupStart = 'groupStart: new Int32Array([0, 2])'
    const call = `require('./dist/promises.js').groupAdvantage({ rewards: x, ${groupStart} });`
    expect(child(`${live} ${call} process.exit()`, env)).toBe('')
  })

  test('is seen by the garbage collector: what is dropped is freed before there is no room', () => {
    const program = `
      process.removeAllListeners('warning')
      const next = (n) => {
        for (let i = 0; i < 10; i++) cuda.empty('f32', [1 << 18])
        if (n > 0) setTimeout(next, 1, n - 1)
        else console.log('room')
      }
      next(120)`
    const env = { GRPO_KERNELS_CUDA: given as string, GRPO_SIMT_MEMORY: String(400 << 20) }
    expect(child(program, env)).toBe('room\n')
  })

  test('worker_threads use the library at the same time', () => {
    const work = `
      const g = require('./dist/index.js')
      const { workerData: k } = require('node:worker_threads')
      const rewards = Float32Array.from({ length: 1000 }, (_, i) => Math.sin(i * k))
      const x = g.cuda.upload(rewards, { device: k % 2 })
      let first
      for (let i = 0; i < 30; i++) {
        const groupStart = new Int32Array([0, 500, 1000])
        const outputs = g.groupAdvantage({ rewards: x, groupStart }, i % 2 ? { stream: 1n } : {})
        const text = outputs.advantage.readSync().data.join()
        first ??= text
        if (text !== first) throw new Error('other bits')
        for (const y of Object.values(outputs)) y.dispose()
        try {
          g.groupAdvantage({ rewards: x, groupStart: new Int32Array([0, k]) })
        } catch (e) {
          if (!e.message.includes('ends with ' + k)) throw e
        }
      }
      const host = g.groupAdvantage({ rewards, groupStart: new Int32Array([0, 500, 1000]) }).advantage.data
      if (first.split(',').some((y, i) => Math.abs(y - host[i]) > 1e-5)) throw new Error('other numbers')`
    const program = `
      const { Worker } = require('node:worker_threads')
      for (let k = 1; k < 6; k++) {
        const worker = new Worker(${JSON.stringify(work)}, { eval: true, workerData: k })
        worker.on('error', (e) => console.log(e.message)).on('exit', (code) => console.log(code))
      }`
    expect(child(program, { GRPO_KERNELS_CUDA: given as string })).toBe('0\n0\n0\n0\n0\n')
  })
})
