// npm run bench -- [operation ...] [options]
//
// Runs bench/<operation>.ts for every operation of the table, or for those named (policy_loss or policyLoss): checks that
// everyone computes the same, times all in turns, prints a table, and writes JSON and a chart to bench/results/.
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { operationNames } from '../lib/addon/signatures.js'
import { cuda } from '../lib/index.js'
import { compare, type Shares, sharesOf } from './baseline.js'
import type { Case } from './cases.js'
import { chart } from './chart.js'
import { readCommand } from './command.mjs'
import { runCase } from './contest.js'
import { gpuCopyRate } from './gpu.js'
import { copyRate, describeMachine, exponentialRates, fastest, type Machine, type Rate } from './machine.js'
import { javascript } from './peers/javascript.js'
import { jaxjs } from './peers/jax.js'
import type { Peer } from './peers/peer.js'
import { type PyTorch, pytorch } from './peers/pytorch.js'
import { tensorflow } from './peers/tensorflow.js'
import type { CaseResult, Goal, Results } from './results.js'
import { duration, table } from './table.js'

const snakeCase = (name: string) => name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`)
const seconds = () => performance.now() / 1e3

let last = ''

/**
 * What is going on, and what in it: one line of the terminal, which the next replaces. Where nobody watches, a line for
 * each thing that goes on, so that a log shows how far the run is.
 */
function say(now: string, detail = ''): void {
  const clock = `${Math.floor(seconds() / 60)}:${String(Math.floor(seconds() % 60)).padStart(2, '0')}`
  if (process.stderr.isTTY) process.stderr.write(`\r\x1b[2K${now && `[${clock}] ${now}${detail && `: ${detail}`}`}`)
  else if (now !== '' && now !== last) process.stderr.write(`[${clock}] ${now}\n`)
  last = now
}

/** Files of the operations that have a benchmark, in the order of the table. */
const files = [...new Set(operationNames.map(snakeCase))].filter((file) => existsSync(join(__dirname, `${file}.ts`)))

/** The cases of these operations, in the order of the table; of all operations if none is named. */
async function casesOf(names: readonly string[]): Promise<Case[]> {
  const wanted = names.length === 0 ? files : files.filter((file) => names.includes(file))
  const modules = await Promise.all(wanted.map((file) => import(`./${file}.ts`) as Promise<{ cases: Case[] }>))
  return modules.flatMap(({ cases }) => cases)
}

async function startPeers(): Promise<{ peers: Peer[]; torch: PyTorch | undefined; absent: Results['peers'] }> {
  const absent: Results['peers'] = []
  const start = async <P extends Peer>(name: string, load: () => Promise<P | undefined>, why: string) => {
    say(`starting ${name}`)
    try {
      const peer = await load()
      if (peer !== undefined) return [peer]
      absent.push({ name, version: '', absent: why })
    } catch (error) {
      absent.push({ name, version: '', absent: (error as Error).message.split('\n')[0] as string })
    }
    return []
  }
  const [torch] = await start('PyTorch', pytorch, 'not installed for $PYTHON, python3 or /usr/bin/python3')
  const others = [
    ...(await start('plain JavaScript', javascript, '')),
    ...(await start('TensorFlow.js', tensorflow, '')),
    ...(await start('jax-js', jaxjs, '')),
  ]
  return { peers: torch === undefined ? others : [torch, ...others], torch, absent }
}

function goalsOf(cases: readonly Case[], results: readonly CaseResult[]): Goal[] {
  return cases.flatMap(({ goals = [], operation, size }, i) =>
    goals.flatMap(({ against, times }) => {
      const rivals = (results[i]?.rows ?? []).filter(({ name }) => name.startsWith(against))
      const reached = Math.min(...rivals.map((row) => row.times))
      return rivals.length === 0 ? [] : [{ operation, size, against, wanted: times, reached }]
    }),
  )
}

/** The fastest matrix products of this run, by dtype: those of PyTorch and NumPy, and this package's own. */
async function multiplyRates(torch: PyTorch | undefined, cases: readonly CaseResult[]): Promise<Record<string, Rate>> {
  const theirs = await torch?.multiplyRates()
  const ours = cases.flatMap(({ operation, size, dtype, rows }) =>
    rows.flatMap(({ ours, gpu, gigaflop, median }) =>
      ours && gpu === undefined && gigaflop !== undefined
        ? [{ dtype, rate: gigaflop / median, how: `${operation}, ${size}` }]
        : [],
    ),
  )
  const rates: Record<string, Rate> = {}
  for (const dtype of ['f32', 'bf16'] as const) {
    const best = fastest([...(theirs?.[dtype] ?? []), ...ours.filter((x) => x.dtype === dtype)])
    if (best !== undefined) rates[dtype] = { rate: best.rate, how: best.how }
  }
  return rates
}

function addShares({ cases, copy, gpuCopy, multiply, exponential }: Results): void {
  for (const { dtype, rows } of cases) {
    for (const row of rows) {
      if (row.gpu !== undefined) {
        if (gpuCopy !== undefined && row.gigabytes !== undefined)
          row.shareOfCopy = row.gigabytes / row.median / gpuCopy.rate
        continue
      }
      const rate = multiply[dtype]?.rate
      if (row.gigabytes !== undefined) row.shareOfCopy = row.gigabytes / row.median / copy.rate
      if (row.gigaflop !== undefined && rate) row.shareOfMultiply = row.gigaflop / row.median / rate
      const exponentials = exponential[dtype]?.rate
      if (row.gigaexponentials !== undefined && exponentials)
        row.shareOfExponential = row.gigaexponentials / row.median / exponentials
    }
  }
}

function write(results: Results, names: readonly string[], folder: string): string {
  mkdirSync(folder, { recursive: true })
  const { date, cpu } = results.machine
  const words = [
    date.slice(0, 10),
    ...cpu.split(/[^A-Za-z0-9]+/).filter(Boolean),
    ...(names.length > 1 ? ['part'] : names),
  ]
  const path = join(folder, words.join('-').toLowerCase())
  writeFileSync(`${path}.json`, `${JSON.stringify(results, null, 1)}\n`)
  writeFileSync(`${path}.svg`, chart(results))
  return path
}

const readBaseline = (file: string): Shares | undefined =>
  existsSync(file) ? (JSON.parse(readFileSync(file, 'utf8')) as Shares) : undefined

/** Rows of operations that this run left out stay, if they are of this machine. */
function writeBaseline(file: string, results: Results): void {
  const now = sharesOf(results)
  const before = readBaseline(file)
  const kept = before?.machine === now.machine ? before.rows : {}
  writeFileSync(file, `${JSON.stringify({ ...now, rows: { ...kept, ...now.rows } }, null, 1)}\n`)
  console.log(`${Object.keys(now.rows).length} shares written to ${file}`)
}

/** Whether no row has fallen; prints those that have. */
function holds(file: string, results: Results): boolean {
  const baseline = readBaseline(file)
  if (baseline === undefined) {
    console.error(`there is no ${file}: npm run bench -- --write-baseline makes it, with the kernels as they were`)
    return false
  }
  const { fallen, without, otherMachine } = compare(baseline, sharesOf(results))
  if (otherMachine !== undefined) console.log(`The baseline is of another machine (${otherMachine}): shares may differ`)
  for (const row of without) console.log(`not in the baseline: ${row}`)
  for (const row of fallen) console.error(`FALLEN: ${row}`)
  console.log(fallen.length === 0 ? 'No row has fallen below its baseline' : `${fallen.length} rows have fallen`)
  return fallen.length === 0
}

const describe = ({ cpu, cores, threads, instructionSet, node, commit, load }: Machine) =>
  `${cpu}, ${cores} cores, ${threads} threads, ${instructionSet}, Node ${node}, commit ${commit}` +
  (load > 1 ? `; other work was running (load ${load})` : '')

async function main(): Promise<void> {
  const { values, names } = readCommand({
    run: 'npm run bench',
    about:
      'Times every operation, or those named, beside what else could do it, prints a table, and writes JSON and a chart.\n' +
      'All of them take about ten minutes on two cores.',
    options: {
      'no-peers': { type: 'flag', help: 'times this package alone' },
      out: { type: 'text', default: join(__dirname, 'results'), help: 'the folder for JSON and chart' },
      assert: { type: 'flag', help: 'fails where a row falls below 80 % of its share in the baseline; no peers' },
      'write-baseline': { type: 'flag', help: 'records the shares of this run as the baseline; no peers' },
      baseline: { type: 'text', default: join(__dirname, 'results/baseline.json'), help: 'its file' },
    },
    names: { what: 'operation', known: files, spelled: snakeCase },
  })
  const cases = await casesOf(names)
  const machine = describeMachine()
  console.log(describe(machine))
  say('copying')
  const before = await copyRate()
  // Shares are taken without peers, but for PyTorch's products: a limit that is no kernel of this package.
  const shares = values.assert || values['write-baseline']
  const { peers, torch, absent } =
    values['no-peers'] || shares
      ? { peers: [], torch: shares ? await pytorch().catch(() => undefined) : undefined, absent: [] }
      : await startPeers()
  say('')
  for (const { name, version, gflops } of peers) console.log(`${name} ${version}: ${gflops.toPrecision(3)} GFLOP/s`)
  if (torch !== undefined) console.log(`PyTorch is that of ${torch.python}`)
  for (const { name, absent: why } of absent) console.log(`${name} skipped: ${why}`)

  const done: CaseResult[] = []
  for (const one of cases) {
    const where = `${done.length + 1}/${cases.length} ${one.operation}, ${one.size}`
    done.push(await runCase(one, peers, (what) => say(where, what)))
    say('')
  }
  say('multiplying, exponentiating and copying')
  const results: Results = {
    machine,
    copy: fastest([before, await copyRate()]) as Rate,
    multiply: await multiplyRates(torch, shares && torch !== undefined ? [] : done),
    exponential: await exponentialRates(),
    ...(cuda.available && { gpuCopy: gpuCopyRate() }),
    peers: [...peers.map(({ name, version, gflops }) => ({ name, version, gflops })), ...absent],
    cases: done,
    goals: goalsOf(cases, done),
    seconds: seconds(),
  }
  for (const peer of new Set([...peers, ...(torch === undefined ? [] : [torch])])) peer.close()
  addShares(results)
  say('')
  console.log(`\n${table(results)}\n`)
  console.log(`This machine copies ${results.copy.rate.toFixed(1)} GB/s (${results.copy.how})`)
  if (results.gpuCopy !== undefined)
    console.log(
      `The GPU copies ${results.gpuCopy.rate.toFixed(0)} GB/s (${results.gpuCopy.how}); its rows are shares of that`,
    )
  for (const [dtype, { rate, how }] of Object.entries(results.multiply))
    console.log(`and multiplies ${rate.toFixed(0)} GFLOP/s in ${dtype} (${how})`)
  for (const [dtype, { rate, how }] of Object.entries(results.exponential))
    console.log(`and takes ${rate.toPrecision(3)} G exponentials per second of ${dtype} (${how})`)
  if (done.some(({ rows }) => rows.some((row) => row.difference !== undefined))) process.exitCode = 1
  if (values['write-baseline']) writeBaseline(values.baseline, results)
  if (values.assert && !holds(values.baseline, results)) process.exitCode = 1
  if (shares) return
  const path = write(results, names, values.out)
  console.log(`${path}.json, .svg; ${duration(seconds())}`)
}

main().catch((error: Error) => {
  console.error(`\n${error.stack}`)
  process.exit(1)
})
