// Finds the addon and loads it. A bundler may carry this file away from the package, into an ES module without require()
// and __dirname: Node's own modules come from `process`, and the package's folder is searched for.
import { type GrpoError, grpoError } from './errors.js'
import { addonOf, addons, compiles, glibcVersion, ownPrebuilds, platform, prebuildsIn } from './platform.js'

const { existsSync, readdirSync, readFileSync } = process.getBuiltinModule('node:fs')
const { createRequire } = process.getBuiltinModule('node:module')
const { dirname, isAbsolute, join, toNamespacedPath } = process.getBuiltinModule('node:path')

/** The path in an environment variable; undefined if it is not set. @throws RangeError if the path is not absolute */
export function pathVariable(name: string): string | undefined {
  const path = process.env[name]
  if (!path || isAbsolute(path)) return path || undefined
  throw grpoError('option', 'grpo-kernels', name, `is ${JSON.stringify(path)}, expected an absolute path`)
}

/** Also where the permission model keeps a file from this process, which then throws in Node 20. */
export function exists(path: string): boolean {
  try {
    return existsSync(path)
  } catch {
    return false
  }
}

function isPackage(folder: string): boolean {
  try {
    return JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8')).name === 'grpo-kernels'
  } catch {
    return false
  }
}

/** The folder of the package; undefined in a bundle from which node_modules/grpo-kernels cannot be found. */
function findPackage(): string | undefined {
  const own = ownPrebuilds && join(ownPrebuilds, '../..')
  if (own && isPackage(own)) return own
  // In a bundle: what an import of the package from there would find.
  for (const from of [typeof __filename === 'string' ? __filename : '', process.argv[1] ?? '']) {
    try {
      return dirname(createRequire(from).resolve('grpo-kernels/package.json'))
    } catch {}
  }
  return undefined
}

const found = findPackage()

/** Where prebuilds/ lies: the package's folder, or what GRPO_KERNELS_PREBUILD names in its place. */
export const binaryFolder = (): string | undefined => pathVariable('GRPO_KERNELS_PREBUILD') ?? found

/** What node-gyp-build picks: a local build, else the prebuild of this platform. It says of none why. */
function pickedIn(folder: string): string[] {
  try {
    return [createRequire(join(folder, 'package.json'))('node-gyp-build').resolve(folder)]
  } catch {
    return []
  }
}

/** Where the addon may lie, the likeliest first. */
function placesIn(folder: string): string[] {
  const prebuilt = addons.map((name) => join(prebuildsIn(folder), name))
  return [...new Set([...pickedIn(folder), join(folder, 'build/Release/grpo_kernels.node'), ...prebuilt])]
}

interface Attempt {
  path: string
  error: NodeJS.ErrnoException
}

const { permission } = process as { permission?: { has(scope: string, path?: string): boolean } }

function load(path: string): unknown {
  if (permission?.has('fs.read', path) === false) throw new Error('--allow-fs-read does not cover it')
  if (!exists(path)) throw new Error('there is no such file')
  // Not require(), which would run a file of another name as JavaScript.
  const addon = { exports: {} as { operations?: unknown } }
  process.dlopen(addon, toNamespacedPath(path))
  if (!Array.isArray(addon.exports.operations)) throw new Error('it is not the addon of this package')
  return addon.exports
}

/** The file of the addon that is loaded. */
export let addonFile = ''

/** The addon's exports. @throws Error with the code ERR_GRPO_LOAD, which says what was tried and what to do */
export function loadAddon(): unknown {
  const given = pathVariable('GRPO_KERNELS_ADDON')
  const folder = binaryFolder()
  const attempts: Attempt[] = []
  for (const path of given ? [given] : folder ? placesIn(folder) : []) {
    try {
      const addon = load(path)
      addonFile = path
      return addon
    } catch (error) {
      attempts.push({ path, error: error as Error })
    }
  }
  throw failure(attempts, given, folder)
}

function namesIn(folder: string): string[] {
  try {
    return readdirSync(folder)
  } catch {
    return []
  }
}

/** Of all attempts, with the likeliest reason and its remedy in the first line. */
function failure(attempts: readonly Attempt[], given: string | undefined, folder: string | undefined): GrpoError {
  const glibc = glibcVersion()
  const library = process.platform === 'linux' ? `, ${glibc ? `glibc ${glibc}` : 'no glibc'}` : ''
  const tried = attempts.map(({ path, error }) => `\n  ${path}: ${error.message.replaceAll('\n', ' ')}`)
  const text = `${likeliest(attempts, given, folder, glibc)}\nTried on ${platform}${library}, Node ${process.version}:`
  const problem = `the addon cannot be loaded: ${text}${tried.join('') || ' nothing'}`
  const cause = attempts.find(({ path }) => exists(path)) ?? attempts[0]
  return loadError(problem, cause?.error)
}

/** At fault is the variable that named the binaries; without one nothing that a caller gave. */
export function loadError(problem: string, cause?: unknown): GrpoError {
  const variables = ['GRPO_KERNELS_ADDON', 'GRPO_KERNELS_PREBUILD']
  const argument = variables.find((name) => process.env[name]) ?? ''
  return Object.assign(grpoError('load', 'grpo-kernels', '', problem, cause), { argument })
}

function likeliest(
  attempts: readonly Attempt[],
  given: string | undefined,
  folder: string | undefined,
  glibc: string | undefined,
): string {
  if (attempts.some(({ error }) => error.code === 'ERR_DLOPEN_DISABLED')) {
    const remedy = permission ? 'with --allow-addons' : 'without --no-addons'
    return `this process may not load addons. Start Node ${remedy}.`
  }
  if (given) return 'GRPO_KERNELS_ADDON names a file that does not load.'
  if (folder === undefined) {
    return (
      'the package was bundled, and node_modules/grpo-kernels is not to be found from the bundle. Keep the package ' +
      'external, and deploy node_modules/grpo-kernels beside the bundle: docs/bundlers.md in the package has the ' +
      "options. (Or let GRPO_KERNELS_ADDON name the addon's file.)"
    )
  }
  const build = join(folder, 'native/build.mjs')
  const remedy =
    compiles && exists(build)
      ? `Build it here, with a C++20 compiler: node ${JSON.stringify(build)} addon`
      : 'docs/troubleshooting.md in the package says what there is to do.'
  const where = pathVariable('GRPO_KERNELS_PREBUILD') ? `GRPO_KERNELS_PREBUILD names ${folder}: ` : ''
  return `${where}${shortcoming(attempts, folder, glibc)}. ${remedy}`
}

/** What is wrong with the binaries of the package. */
function shortcoming(attempts: readonly Attempt[], folder: string, glibc: string | undefined): string {
  const messages = attempts.map(({ error }) => error.message).join('\n')
  const [, name, version] = /version [`']?(GLIBC|GLIBCXX)_([\d.]+)'? not found/.exec(messages) ?? []
  if (name === 'GLIBC' && glibc) return `the binary needs glibc ${version}, and this system has ${glibc}`
  if (name === 'GLIBCXX' && glibc)
    return `the binary needs a libstdc++ with GLIBCXX_${version}, which this system lacks`
  const present = namesIn(prebuildsIn(folder)).filter((file) => file.endsWith('.node'))
  if (present.length === 0) {
    const others = namesIn(join(folder, 'prebuilds')).filter((other) => other.includes('-') && other !== platform)
    return `there is no binary for ${platform}${others.length ? `, only for ${others.join(', ')}` : ''}`
  }
  if (addons.length > 1 && !present.includes(addonOf(glibc))) {
    return `there is no binary for ${platform} with ${glibc ? 'glibc' : 'musl'}`
  }
  if (
    /ELF (class|header|file)|file too short|Exec format|incompatible architecture|not a valid Win32/i.test(messages)
  ) {
    return `the binary in ${prebuildsIn(folder)} is another system's, or damaged`
  }
  return `the binary in ${prebuildsIn(folder)} does not load`
}
