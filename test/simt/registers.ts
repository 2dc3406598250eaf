// The words that test/simt/self_test prints, of a GPU and of the interpreter, and the golden file of those that a GPU
// has given: test/simt/ptx.golden.json, which npm run test:cuda writes the first time that it sees one.
import { spawnSync } from 'node:child_process'
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import process from 'node:process'
import { fileURLToPath } from 'node:url'

const here = dirname(fileURLToPath(import.meta.url))
const root = join(here, '../..')
const golden = join(here, 'ptx.golden.json')

export const programs = { gpu: join(root, 'build-cuda/self_test'), interpreter: join(root, 'build-simt/self_test') }

export interface Registers {
  device: string
  sections: Record<string, string[]>
}

export function parse(text: string): Registers {
  const [first = '', ...lines] = text.trim().split('\n')
  const sections: Record<string, string[]> = {}
  for (const line of lines) {
    const [name = '', index, word = ''] = line.split(' ')
    const words = (sections[name] ??= [])
    if (Number(index) !== words.length) throw new Error(`self_test: word ${words.length} is missing before "${line}"`)
    words.push(word)
  }
  return { device: first.replace(/^device /, ''), sections }
}

/** Runs a self-test; `settings`: environment variables for the interpreter. */
export function registers(program: string, settings: Record<string, string> = {}): Registers {
  if (!existsSync(program)) throw new Error(`${program} is not there: npm run build:cuda and build:simt make them`)
  const env = { ...process.env, ...settings }
  const { status, stdout, stderr } = spawnSync(program, { encoding: 'utf8', env, maxBuffer: 2 ** 24 })
  if (status !== 0) throw new Error(`${program} failed: ${stderr}`)
  return parse(stdout)
}

/** The words that differ: "mma_bf16 3: 41200000, expected 41300000". Sections that only one device can run are left out. */
export function differences(got: Registers, expected: Registers): string[] {
  const found: string[] = []
  for (const [name, words] of Object.entries(expected.sections)) {
    const mine = got.sections[name]
    if (mine === undefined) continue
    if (mine.length !== words.length) found.push(`${name}: ${mine.length} words, expected ${words.length}`)
    for (const [i, word] of words.entries())
      if (mine[i] !== word) found.push(`${name} ${i}: ${mine[i]}, expected ${word}`)
  }
  return found
}

/** undefined: not seen on hardware yet. */
export function readGolden(path = golden): Registers | undefined {
  return existsSync(path) ? JSON.parse(readFileSync(path, 'utf8')) : undefined
}

/** Keeps what a GPU gave where the golden file lacks it; whether it wrote. The interpreter's own words are never kept. */
export function keepGolden(seen: Registers, path = golden): boolean {
  if (seen.device.startsWith('simulated')) throw new Error(`${seen.device} is no GPU: its words are not kept`)
  const old = readGolden(path)
  const lacking = Object.keys(seen.sections).filter((name) => old?.sections[name] === undefined)
  if (lacking.length === 0) return false
  const sections = { ...seen.sections, ...old?.sections }
  const device = old === undefined ? seen.device : `${old.device}; ${lacking.join(', ')}: ${seen.device}`
  writeFileSync(path, `${JSON.stringify({ device, sections }, null, 2)}\n`)
  return true
}

/** The words of this machine's GPU against the interpreter's and the golden ones; how many differ. */
export function checkGpu(seen: Registers, simulated: Registers, path = golden): number {
  const total = Object.values(seen.sections).reduce((sum, words) => sum + words.length, 0)
  const old = readGolden(path)
  let wrong = 0
  const against: [string, Registers | undefined][] = [
    ['the interpreter', simulated],
    ['ptx.golden.json', old],
  ]
  for (const [name, expected] of against) {
    if (expected === undefined) continue
    const found = differences(seen, expected)
    wrong += found.length
    console.log(`self_test on ${seen.device}: ${found.length} of ${total} words differ from ${name}`)
    for (const line of found.slice(0, 40)) console.log(`  ${line}`)
  }
  if (keepGolden(seen, path)) console.log('test/simt/ptx.golden.json written: commit it')
  return wrong
}
