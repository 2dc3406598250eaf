// Builds what is out of date, so that tests never run on an old addon, an old dist/ or an old library of the interpreter.
// A part is up to date while the content of its sources and the times of its files are those of its last build here;
// where they are not, its build tool runs, and compiles what has changed.
import { type SpawnSyncReturns, spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { constants } from 'node:os'
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

/** As make, ninja and node-gyp report a signal that only the program below them got. */
const stopped =
  /^make\S* \*\*\* .*\b(Interrupt|Terminated|Killed)$|^ninja: build stopped: (interrupted)|\bgot signal: (SIG\w+)/m

/** The signal that ended a build; undefined if it ended by itself. */
function signalOf({ signal, status, stdout, stderr }: SpawnSyncReturns<string>): string | undefined {
  if (signal !== null) return signal
  // A shell adds the signal's number to 128.
  if (status !== null && status > 128) {
    return Object.entries(constants.signals).find(([, number]) => number === status - 128)?.[0]
  }
  const [, ...words] = stopped.exec(`${stdout}\n${stderr}`) ?? []
  return words.find((word) => word !== undefined)
}

/**
 * @param names  of `parts`
 * @param say    gets a line for each part that is built
 * @returns why one is not up to date, in a sentence, after what its compiler said; undefined if all are
 */
export function bringUpToDate(
  root: string,
  names: (keyof typeof parts)[],
  say: (line: string) => void,
): string | undefined {
  for (const name of names) {
    const part = parts[name] as Part
    const stamp = join(root, 'build/up_to_date', name.replace(/\W/g, ''))
    const complete = () => part.makes.every((file) => existsSync(join(root, file)))
    if (complete() && existsSync(stamp) && readFileSync(stamp, 'utf8') === stateOf(root, part)) continue
    const called = name.endsWith('/') ? name : `the ${name}`
    say(`building ${called} anew where its sources have changed (minutes, if that is everywhere)`)
    const [command, args] =
      typeof part.command === 'string' ? ['npm', ['run', '--silent', part.command]] : [process.execPath, part.command]
    const build = spawnSync(command, args, { cwd: root, encoding: 'utf8', maxBuffer: 2 ** 28 })
    if (build.error) return `${called} cannot be built: ${build.error.message}`
    if (build.status !== 0 || !complete()) {
      process.stderr.write(`${build.stdout}${build.stderr}`)
      const signal = signalOf(build)
      if (signal !== undefined) return `the build of ${called} was interrupted (${signal}): run it again`
      return `${called} does not compile: what the compiler says stands above, and no test has run`
    }
    mkdirSync(join(root, 'build/up_to_date'), { recursive: true })
    writeFileSync(stamp, stateOf(root, part))
  }
  return undefined
}
