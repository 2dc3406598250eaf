// Builds what is out of date, so that tests never run on an old addon, an old dist/ or an old library of the interpreter.
// A part is up to date while the content of its sources and the times of its files are those of its last build here;
// where they are not, its build tool runs, and compiles what has changed.
import { spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import process from 'node:process'

interface Part {
  makes: string[]
  /** Files, and folders. */
  sources: string[]
  /** A program of node's, or a script of package.json. */
  command: string | string[]
}

const simulated = ['libgrpo_kernels_cuda.so', 'self_test', 'simt_faults', 'simt_runtime_faults']
const parts: Record<string, Part> = {
  addon: {
    makes: ['build/Release/grpo_kernels.node'],
    sources: ['binding.gyp', 'native'],
    command: ['native/build.mjs', 'addon'],
  },
  'dist/': {
    makes: ['dist/index.js', 'dist/recipes/index.js'],
    sources: ['tsconfig.json', 'lib'],
    command: 'build:ts',
  },
  interpreter: {
    makes: simulated.map((file) => `build-simt/${file}`),
    sources: ['CMakeLists.txt', 'native', 'cuda', 'test/simt'],
    command: ['native/build.mjs', 'simt'],
  },
}
const isSource = (file: string) => /\.(cc|cu|c|cpp|h|hpp|cuh|map|ts|mts|mjs)$/.test(file) && !/\.test\.ts$/.test(file)

function filesOf(root: string, source: string): string[] {
  if (statSync(join(root, source)).isFile()) return [source]
  const below = readdirSync(join(root, source), { recursive: true, withFileTypes: true })
  return below
    .filter((entry) => entry.isFile() && isSource(entry.name))
    .map((entry) => join(entry.parentPath, entry.name).slice(join(root, '/').length))
    .sort()
}

function contentOf(root: string, sources: string[]): string {
  const hash = createHash('sha256')
  for (const file of sources.flatMap((source) => filesOf(root, source))) {
    hash
      .update(`${file}\0`)
      .update(readFileSync(join(root, file)))
      .update('\0')
  }
  return hash.digest('hex')
}

const stateOf = (root: string, { makes, sources }: Part): string =>
  JSON.stringify([contentOf(root, sources), ...makes.map((file) => statSync(join(root, file)).mtimeMs)])

/**
 * @param names  of `parts`
 * @param say    gets a line for each part that is built
 * @throws Error if one does not compile; what its compiler said has been printed
 */
export function bringUpToDate(root: string, names: (keyof typeof parts)[], say: (line: string) => void): void {
  for (const name of names) {
    const part = parts[name] as Part
    const stamp = join(root, 'build/up_to_date', name.replace(/\W/g, ''))
    const complete = () => part.makes.every((file) => existsSync(join(root, file)))
    if (complete() && existsSync(stamp) && readFileSync(stamp, 'utf8') === stateOf(root, part)) continue
    say(`building the ${name} anew where its sources have changed (minutes, if that is everywhere)`)
    const [command, args] =
      typeof part.command === 'string' ? ['npm', ['run', '--silent', part.command]] : [process.execPath, part.command]
    const { status, stdout, stderr } = spawnSync(command, args, { cwd: root, encoding: 'utf8', maxBuffer: 2 ** 28 })
    if (status !== 0 || !complete()) {
      process.stderr.write(`${stdout}${stderr}`)
      throw new Error(`the ${name} does not compile: what the compiler says stands above, and no test has run`)
    }
    mkdirSync(join(root, 'build/up_to_date'), { recursive: true })
    writeFileSync(stamp, stateOf(root, part))
  }
}
