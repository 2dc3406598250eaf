// npm run bench:cuda -- --plan: what the kernels have to do on an H200, counted, and the time that follows. No GPU is
// needed and none is used: times are predictions, beside the floor that the hardware sets.
import { spawnSync } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import process from 'node:process'
import { mainLoops } from './machine_code.mjs'
import { rows } from './plan_rows.mjs'

/** One H200: what it copies, multiplies (bf16, dense), takes of special functions and issues in a second. */
const gpu = { bytes: 4.3e12, products: 790e12, special: 132 * 16 * 1.755e9, issue: 132 * 4 * 1.755e9 }
/** Of m16n8k16, the matrix instruction of a warp, which Hopper begins every six clocks at most. */
const productsOfInstruction = 2 * 16 * 8 * 16
const today = { ...gpu, products: (gpu.issue / 6) * productsOfInstruction }

/** Registers and blocks per multiprocessor of sm_90a as cuda/README.md has them, which npm run docs:cuda writes. */
function resources(root) {
  const lines = readFileSync(join(root, 'cuda/README.md'), 'utf8').split('\n')
  const cells = lines.filter((line) => line.startsWith('| [`')).map((line) => line.split(' | '))
  const second = (cell) => cell.split(' / ')[1]
  return new Map(
    cells.map(([file, name, , , , registers, blocks, , stated]) => [
      `${/`(.*)`/.exec(file)[1]} ${name.replaceAll('`', '')}`,
      { registers: second(registers), blocks: second(blocks), stated: stated.replace(/ \|$/, '') },
    ]),
  )
}

function timesOf({ bytes = 0, products = 0, special = 0 }, rate, loop) {
  const times = { memory: bytes / rate.bytes, products: products / rate.products, special: special / rate.special }
  if (loop?.matrix > 0) times.issue = ((products / productsOfInstruction) * (loop.slots / loop.matrix)) / gpu.issue
  return times
}
const longest = (times) => Object.entries(times).reduce((most, one) => (one[1] > most[1] ? one : most))

const large = (x, unit) =>
  x === undefined
    ? ''
    : `${x >= 1e12 ? (x / 1e12).toPrecision(3) : (x / 1e9).toPrecision(3)} ${x >= 1e12 ? 'T' : 'G'}${unit}`
const duration = (seconds) =>
  seconds >= 1e-3 ? `${(seconds * 1e3).toPrecision(3)} ms` : `${(seconds * 1e6).toPrecision(3)} us`

/** The operations that have rows. */
export const planned = () => rows.map(({ operation }) => operation)

/** What is known of each row. `tools`: { nvcc, disassembler }, or undefined. */
export function plan(root, only, tools) {
  const known = resources(root)
  const loops = new Map()
  const loopOf = ({ file, unit = file, kernel }) => {
    if (tools === undefined) return undefined
    const key = `${unit} ${kernel}`
    if (!loops.has(key)) {
      const all = mainLoops(tools.nvcc, tools.disassembler, root, unit, kernel)
      // Of the instances the one with fewest slots per matrix instruction; without these, the shortest.
      loops.set(key, all.sort((a, b) => a.slots / (a.matrix || 1) - b.slots / (b.matrix || 1))[0])
    }
    return loops.get(key)
  }
  return rows
    .filter(({ operation }) => only === undefined || operation === only)
    .map((row) => {
      const { needs = row } = row
      const loop = loopOf(row)
      const [bound, predicted] = longest(timesOf(row, today, loop))
      const built = known.get(`${row.file} ${row.kernel}`)
      // What bounds it, by its own header, may be none of the counts: then it takes longer.
      const stated = built?.stated === 'matrix units' ? 'products' : built?.stated
      const counted = ['memory', bound].includes(stated) || (stated === 'issue' && loop?.matrix > 0)
      return { ...row, ...built, loop, floor: longest(timesOf(needs, gpu))[1], predicted, bound, counted }
    })
}

export function planTable(known) {
  const head = [
    'kernel',
    'registers',
    'blocks',
    'bytes',
    'products',
    'special',
    'slots',
    'floor',
    'predicted',
    'bound by',
  ]
  const cells = ({
    kernel,
    registers = '?',
    blocks = '?',
    bytes,
    products,
    special,
    loop,
    floor,
    predicted,
    ...row
  }) => [
    kernel,
    registers,
    blocks,
    large(bytes, 'B'),
    large(products, 'FLOP'),
    large(special, ''),
    loop === undefined ? '' : loop.matrix > 0 ? `${loop.slots} for ${loop.matrix}` : `${loop.slots}`,
    duration(floor),
    `${row.counted ? '' : 'above '}${duration(predicted)}`,
    row.counted ? row.bound : `${row.stated}, not counted`,
  ]
  const lines = known.map(cells)
  const widths = head.map((title, i) => Math.max(title.length, ...lines.map((line) => line[i].length)))
  const format = (line) =>
    `  ${line.map((cell, i) => (i === 0 ? cell.padEnd(widths[i]) : cell.padStart(widths[i]))).join('  ')}`
  const titled = known.map(({ operation, shape }, i) => `\n${operation}: ${shape}\n${format(lines[i])}`.trimEnd())
  return [
    'Predictions for an H200, of counts: nothing is measured. The floor is what the operation needs, at 4.3 TB/s, 790 TFLOP/s',
    'and 3.7 T special functions per second; a prediction is the longest of what the kernel does today, if nothing waits;',
    'above: what bounds the kernel, by its header, is not among the counts.',
    'Slots: instructions of the main loop, and for how many matrix instructions (inner loops count once).',
    '',
    format(head).trimEnd(),
    ...titled,
  ].join('\n')
}

/** The tools behind --disassembler. @throws Error where one is missing */
export function findTools(disassembler) {
  if (disassembler === undefined) return undefined
  if (!existsSync(disassembler)) throw new Error(`there is no disassembler ${disassembler}`)
  const nvcc = ['nvcc', '/usr/local/cuda/bin/nvcc', process.env.CUDACXX].find(
    (path) => path && spawnSync(path, ['--version']).status === 0,
  )
  if (nvcc === undefined) throw new Error('--disassembler needs nvcc, which is not on the PATH')
  return { nvcc, disassembler }
}
