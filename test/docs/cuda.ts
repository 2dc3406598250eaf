// The table of kernels in cuda/README.md: what stands above each kernel of cuda/, and what the build says of it.
// `npm run docs:cuda` writes the table; where npm run build:cuda has left no report (build-cuda/kernels.json), registers
// stay as they are. `npm run docs:cuda -- check`, the end of npm run build:cuda, fails where they differ.
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'

const root = join(__dirname, '..', '..')
const page = join(root, 'cuda/README.md')

/** The comment above a kernel: what it is launched with, what it does, what bounds it. */
const fields = ['Grid', 'Block', 'Shared', 'Work', 'Bound'] as const
type Field = (typeof fields)[number]

export interface Kernel {
  file: string // below cuda/
  name: string
  line: number // of __global__
  stated: Record<Field, string>
}

/** What the build says of a kernel, of each architecture: registers of its instances, the least and the most. */
type Registers = Record<string, { least: number; most: number }>

export interface Report {
  nvcc: string
  kernels: { file: string; name: string; architecture: string; registers: number }[]
}

const rooms = ['', 'attention', 'linear', 'logits', 'loss', 'selection', 'gaussian', 'blocks', 'launch']
const roomOf = (file: string) => file.slice(0, Math.max(file.indexOf('/'), 0))

/** The kernels of a file, in order. */
export function kernelsIn(file: string, text: string): Kernel[] {
  const lines = text.split('\n')
  const kernels = lines.flatMap((line, i) => (/^__global__ /.test(line) ? [i] : []))
  return kernels.map((i) => {
    const name = /(\w+)\(/.exec(
      lines
        .slice(i, i + 3)
        .join(' ')
        .replace(/__launch_bounds__\(([^()]|\([^()]*\))*\)/, ''),
    )
    let above = i
    while (/^template /.test(lines[above - 1] ?? '')) above--
    let first = above
    while (/^\/\/ /.test(lines[first - 1] ?? '')) first--
    const comment = lines.slice(first, above).map((line) => line.slice(3))
    const said = comment.slice(comment.findIndex((line) => line.startsWith('Grid: '))).join(' ')
    const pattern = new RegExp(`^${fields.map((field) => `${field}: (.+)\\.`).join(' ')}$`)
    const found = pattern.exec(said)
    const kernel = name?.[1] ?? ''
    const form = fields.map((field) => `${field}: ... .`).join(' ')
    if (found === null) throw new Error(`cuda/${file}: the comment above ${kernel} has to end with "${form}"`)
    const stated = Object.fromEntries(fields.map((field, n) => [field, found[n + 1]])) as Kernel['stated']
    return { file, name: kernel, line: i + 1, stated }
  })
}

export function kernels(): Kernel[] {
  const files = readdirSync(join(root, 'cuda'), { recursive: true, encoding: 'utf8' })
  const order = (file: string) => `${rooms.indexOf(roomOf(file))} ${file}`
  return files
    .filter((file) => /\.cuh?$/.test(file) && !file.startsWith('launch/self_test/')) // no kernels of an operation
    .sort((a, b) => (order(a) < order(b) ? -1 : 1))
    .flatMap((file) => kernelsIn(file, readFileSync(join(root, 'cuda', file), 'utf8')))
}

// ---- the build's report ---------------------------------------------------------------------------------------------

/** What a multiprocessor has. */
const multiprocessors = {
  sm_80: { shared: 164 * 1024, registers: 65536, threads: 2048, blocks: 32 },
  sm_90a: { shared: 228 * 1024, registers: 65536, threads: 2048, blocks: 32 },
} as const
type Architecture = keyof typeof multiprocessors
const architectures = Object.keys(multiprocessors) as Architecture[]

/** The largest of the numbers in a field. */
export const largest = (text: string): number =>
  Math.max(...[...text.matchAll(/\d[\d,]*/g)].map(([digits]) => Number(digits.replaceAll(',', ''))))

/** How many blocks share a multiprocessor. Registers come in units of 256 per warp, warps in fours. */
export function blocksPerMultiprocessor(on: Architecture, threads: number, shared: number, registers: number): number {
  const has = multiprocessors[on]
  const warps = Math.ceil(threads / 32)
  const room = Math.floor(has.registers / (Math.ceil(registers / 8) * 256) / 4) * 4
  const taken = Math.ceil((shared + 1024) / 128) * 128 // a block takes 1 KiB besides
  return Math.min(
    Math.floor(room / warps),
    Math.floor(has.threads / (32 * warps)),
    Math.floor(has.shared / taken),
    has.blocks,
  )
}

export function registersOf({ file, name }: Kernel, report: Report): Registers {
  const own = report.kernels.filter((kernel) => {
    const same = new RegExp(`(^|[: ])${name}(<|\\(|$)`).test(kernel.name)
    return same && (file.endsWith('.cuh') || kernel.file === file)
  })
  return Object.fromEntries(
    architectures.flatMap((architecture) => {
      const all = own.filter((kernel) => kernel.architecture === architecture).map(({ registers }) => registers)
      return all.length > 0 ? [[architecture, { least: Math.min(...all), most: Math.max(...all) }]] : []
    }),
  )
}

// ---- the table ------------------------------------------------------------------------------------------------------

const columns = ['file', 'kernel', 'grid', 'block', 'shared', 'registers', 'blocks', 'work', 'bound by'] as const
const shown = ({ least, most }: { least: number; most: number }) => (least === most ? `${most}` : `${least}-${most}`)

function cells(kernel: Kernel, registers: Registers): string[] {
  const { Grid, Block, Shared, Work, Bound } = kernel.stated
  const own = architectures.map((architecture) => registers[architecture])
  const blocks = architectures.map((architecture, i) => {
    const most = own[i]?.most
    return most === undefined ? '-' : blocksPerMultiprocessor(architecture, largest(Block), largest(Shared), most)
  })
  const link = `[\`${kernel.file}\`](${kernel.file})`
  const counts = own.map((each) => (each === undefined ? '-' : shown(each))).join(' / ')
  return [link, `\`${kernel.name}\``, Grid, Block, Shared, counts, blocks.join(' / '), Work, Bound]
}

const mark = { open: '<!-- kernels: nvcc ', close: '<!-- /kernels -->' }

export function table(all: readonly Kernel[], registers: (kernel: Kernel) => Registers, nvcc: string): string {
  const rows = all.map((kernel) => `| ${cells(kernel, registers(kernel)).join(' | ')} |`)
  const head = [`| ${columns.join(' | ')} |`, `|${'---|'.repeat(columns.length)}`]
  return [`${mark.open}${nvcc} -->`, ...head, ...rows, mark.close].join('\n')
}

export const read = (): string => readFileSync(page, 'utf8')

/** The table as it stands in the page, and the registers that it gives a kernel. */
export function committed(text: string) {
  const [whole = '', nvcc = ''] = /<!-- kernels: nvcc (\S+) -->[\s\S]*<!-- \/kernels -->/.exec(text) ?? []
  const found = new Map<string, Registers>()
  for (const [, row = ''] of whole.matchAll(/^\| (\[.*) \|$/gm)) {
    const [link = '', name = '', , , , counts = ''] = row.split(' | ')
    const each = counts.split(' / ').map((count) => /^(\d+)(?:-(\d+))?$/.exec(count))
    const registers = each.flatMap((match, i) => {
      if (match === null) return []
      const least = Number(match[1])
      return [[architectures[i], { least, most: Number(match[2] ?? least) }]]
    })
    found.set(`${/\[`(.*)`\]/.exec(link)?.[1]} ${name.slice(1, -1)}`, Object.fromEntries(registers) as Registers)
  }
  return { table: whole, nvcc, registers: ({ file, name }: Kernel) => found.get(`${file} ${name}`) ?? {} }
}

/** The build's report, if there is one. */
function report(): Report | undefined {
  const path = join(root, 'build-cuda/kernels.json')
  return existsSync(path) ? (JSON.parse(readFileSync(path, 'utf8')) as Report) : undefined
}

function main(): void {
  const text = read()
  const now = committed(text)
  const built = report()
  const of = built === undefined ? now.registers : (kernel: Kernel) => registersOf(kernel, built)
  const wanted = table(kernels(), of, built?.nvcc ?? now.nvcc)
  if (process.argv[2] !== 'check') {
    writeFileSync(
      page,
      text.replace(now.table, () => wanted),
    )
    if (built === undefined) console.log('build-cuda/kernels.json is missing (npm run build:cuda): registers stay')
    return
  }
  if (built !== undefined && built.nvcc !== now.nvcc) {
    console.log(`cuda/README.md: registers are those of nvcc ${now.nvcc}, this is ${built.nvcc}: not compared`)
    return
  }
  const old = new Set(now.table.split('\n'))
  const differ = wanted.split('\n').filter((line) => !old.has(line))
  if (differ.length === 0) return
  console.error(`cuda/README.md: npm run docs:cuda changes ${differ.length} lines:\n${differ.join('\n')}`)
  process.exit(1)
}

if (require.main === module) main()
