// What `check` prints.
import type { Checked, Report } from './check.js'

const side = (device: number | undefined) => (device === undefined ? 'CPU' : `GPU ${device}`)

function duration(seconds: number): string {
  const [value, unit] = seconds >= 1 ? [seconds, 's'] : seconds >= 1e-3 ? [seconds * 1e3, 'ms'] : [seconds * 1e6, 'us']
  return `${value.toPrecision(3)} ${unit}`
}

/** Rows with their columns under each other. */
function aligned(rows: readonly (readonly string[])[]): string[] {
  const widths = rows.reduce<number[]>((most, row) => row.map((cell, i) => Math.max(most[i] ?? 0, cell.length)), [])
  return rows.map((row) => `  ${row.map((cell, i) => cell.padEnd(widths[i] as number)).join('  ')}`.trimEnd())
}

/** A row for each name, a column for each side; what is wrong below. */
function results(list: readonly Checked[]): string[] {
  const devices = [...new Set(list.map(({ device }) => device))]
  const cell = (name: string, device: number | undefined) => {
    const found = list.find((one) => one.name === name && one.device === device)
    return found === undefined ? '' : found.problem === undefined ? 'right' : 'WRONG'
  }
  const names = [...new Set(list.map(({ name }) => name))]
  const rows = names.map((name) => [name, ...devices.map((device) => cell(name, device))])
  const wrong = list.filter(({ problem }) => problem !== undefined)
  return [
    ...aligned([['', ...devices.map(side)], ...rows]),
    ...wrong.map(({ name, device, problem }) => `  ${name}, ${side(device)}: ${problem}`),
  ]
}

export function table({ about, operations, instructions, timings, passed }: Report): string {
  const gpus = about.gpus.map(({ name, computeCapability, multiprocessors, memory }, device) => [
    side(device),
    `${name}, compute capability ${computeCapability}, ${multiprocessors} multiprocessors, ${Math.round(memory / 2 ** 30)} GiB`,
  ])
  const facts = [
    ['grpo-kernels', `${about.version} on ${about.backend}; Node ${about.node}, ${about.platform}`],
    ['processor', `${about.processor}: ${about.instructionSet}, ${about.threads} threads`],
    ['addon', about.addon],
    ['CUDA library', about.cudaLibrary ?? 'none'],
    ...(about.driver === undefined
      ? []
      : [['driver', `for CUDA ${about.driver}; the library is of CUDA ${about.cuda}`]]),
    ...(about.reason === undefined ? gpus : [['no GPU', about.reason]]),
  ]
  const times = timings.map(({ family, device, seconds, kernel, size }) => [
    family,
    side(device),
    duration(seconds),
    kernel,
    size,
  ])
  const wrong = [...operations, ...instructions].filter(({ problem }) => problem !== undefined).length
  const verdict = passed ? 'All as it should be.' : `${wrong} of ${operations.length + instructions.length} are wrong.`
  return [
    ...aligned(facts),
    '',
    'Operations, on inputs whose results are known',
    ...results(operations),
    ...(instructions.length > 0 ? ['', 'Instructions, by what they leave in registers', ...results(instructions)] : []),
    '',
    'What a call of each family takes',
    ...aligned(times),
    '',
    verdict,
  ].join('\n')
}
