// npm run bench:cuda: the CUDA kernels beside PyTorch's, in one Python process (bench/peers/cuda/). Where there is no GPU,
// no library or no PyTorch, says why and fails: what did not run has not passed.
//
//   npm run bench:cuda -- [--smoke] [--only policy_loss_from_logits] [--rounds 30]
//   npm run bench:cuda -- --simulate    the ctypes layer on the interpreter of test/simt/, without timing
//   npm run bench:cuda -- --plan        what the kernels have to do, counted, without a GPU: bench/plan.mjs
//
// --smoke: tiny shapes, few rounds. $PYTHON and $GRPO_KERNELS_CUDA, where set, are the only Python and library tried.
import { execFileSync, spawnSync } from 'node:child_process'
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, isAbsolute, join, relative, resolve } from 'node:path'
import process from 'node:process'
import { fileURLToPath } from 'node:url'
import { readCommand } from './command.mjs'
import { table } from './cuda_table.mjs'
import { findTools, plan, planned, planTable } from './plan.mjs'

const root = resolve(fileURLToPath(import.meta.url), '../..')

function stop(reason) {
  console.error(`bench:cuda: ${reason}`)
  process.exit(1)
}

/** The operations that bench/peers/cuda/ names. */
function operations() {
  const folder = join(root, 'bench/peers/cuda')
  const programs = readdirSync(folder).filter((name) => name.endsWith('.py'))
  const text = programs.map((name) => readFileSync(join(folder, name), 'utf8')).join('\n')
  const files = readdirSync(join(root, 'cuda')).filter((name) => name.endsWith('.cu'))
  return files.map((name) => basename(name, '.cu')).filter((name) => text.includes(`"${name}"`))
}

function findLibrary(simulate) {
  const script = simulate ? 'build:simt' : 'build:cuda'
  const folder = simulate ? 'build-simt' : 'build-cuda'
  const path = process.env.GRPO_KERNELS_CUDA || join(root, folder, 'libgrpo_kernels_cuda.so')
  if (!isAbsolute(path)) return stop(`GRPO_KERNELS_CUDA is "${path}", expected an absolute path`)
  return existsSync(path) ? path : stop(`there is no ${path}; npm run ${script} makes the library`)
}

/** The first Python that runs the test; else why not. */
function findPython(test, wanted) {
  const candidates = process.env.PYTHON ? [process.env.PYTHON] : ['python3', '/usr/bin/python3']
  const found = candidates.find((python) => spawnSync(python, ['-c', test], { stdio: 'ignore' }).status === 0)
  return found ?? stop(`${candidates.join(', ')}: none has ${wanted}`)
}

function commit() {
  try {
    const git = (...parameters) => execFileSync('git', parameters, { cwd: root, encoding: 'utf8' }).trim()
    return git('rev-parse', '--short', 'HEAD') + (git('status', '--porcelain', '-uno') === '' ? '' : ' and changes')
  } catch {
    return 'unknown'
  }
}

const { values } = readCommand({
  run: 'npm run bench:cuda',
  about: 'Times the CUDA kernels beside PyTorch on a GPU, prints a table, and writes JSON to bench/results/.',
  options: {
    smoke: { type: 'flag', help: 'tiny shapes, few rounds' },
    only: {
      type: 'text',
      help: 'this operation alone',
      names: { what: 'operation', known: [...new Set([...operations(), ...planned()])] },
    },
    rounds: { type: 'number', help: 'how often each is timed (30, with --smoke 5)' },
    simulate: { type: 'flag', help: 'the ctypes layer on the interpreter of test/simt/, without timing' },
    plan: { type: 'flag', help: 'counts of work, predicted times and floors, without a GPU' },
    disassembler: { type: 'text', help: 'nvdisasm: the plan counts issue slots too, by nvcc' },
  },
})
const { simulate, smoke, only, rounds } = values
if (values.plan) {
  try {
    console.log(planTable(plan(root, only, findTools(values.disassembler))))
  } catch (error) {
    stop(error.message)
  }
  process.exit(0)
}
if (only !== undefined && !operations().includes(only))
  stop(`${only} has a plan (--plan), and no program that times it`)
const library = findLibrary(simulate)
const python = simulate
  ? findPython('import numpy', 'NumPy')
  : findPython('import torch; assert torch.cuda.is_available()', 'PyTorch with a CUDA GPU')
const folder = mkdtempSync(join(tmpdir(), 'grpo-kernels-bench-'))
const out = join(folder, 'results.json')
const flags = [smoke && '--smoke', simulate && '--simulate', only && `--only=${only}`, rounds && `--rounds=${rounds}`]
const given = flags.filter(Boolean)
const program = join(root, 'bench/peers/cuda/run.py')
const run = spawnSync(python, ['-B', program, '--library', library, '--out', out, ...given], {
  stdio: ['ignore', 'inherit', 'inherit'],
})
const results = existsSync(out) ? JSON.parse(readFileSync(out, 'utf8')) : undefined
rmSync(folder, { recursive: true, force: true })

if (results === undefined) stop(`the Python process ended with ${run.signal ?? `status ${run.status}`}`)
if (results.reason !== undefined) stop(results.reason)
if (results.simulated !== undefined) {
  console.log(JSON.stringify(results.simulated, null, 1))
} else {
  const date = new Date().toISOString()
  const command = ['npm run bench:cuda', ...(given.length > 0 ? ['--', ...given] : [])].join(' ')
  const about = { date, commit: commit(), library: relative(root, library), command }
  const gpu = results.gpu.name.toLowerCase().replace(/[^a-z0-9]+/g, '-')
  const file = join(root, 'bench/results', `${date.slice(0, 10)}-${gpu}${smoke ? '-smoke' : ''}.json`)
  writeFileSync(file, `${JSON.stringify({ ...about, ...results }, null, 1)}\n`)
  console.log(table({ ...about, ...results }))
  console.log(`\nWritten to ${relative(root, file)}`)
}
if (run.status !== 0) stop('a result of ours was wrong or failed, or none was timed: see "left out"')
