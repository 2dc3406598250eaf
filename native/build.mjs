// Builds the native code: node native/build.mjs addon | prebuild | library | sanitize | sources
import { spawnSync } from 'node:child_process'
import { existsSync, readdirSync } from 'node:fs'
import { createRequire } from 'node:module'
import { availableParallelism } from 'node:os'
import { dirname, join } from 'node:path'
import process from 'node:process'
import { fileURLToPath } from 'node:url'

const root = join(dirname(fileURLToPath(import.meta.url)), '..')
const require = createRequire(import.meta.url)

/** Every .cc of native/ and native/vector/: the one list of sources, read by binding.gyp and CMakeLists.txt. */
function sources() {
  return ['native', 'native/vector'].flatMap((folder) =>
    readdirSync(join(root, folder))
      .filter((name) => name.endsWith('.cc'))
      .sort()
      .map((name) => `${folder}/${name}`),
  )
}

function run(command, args) {
  const env = { ...process.env }
  // Node's own headers, where they are installed beside it: then nothing is downloaded.
  const prefix = dirname(dirname(process.execPath))
  if (existsSync(join(prefix, 'include/node/node_api.h'))) env.npm_config_nodedir = prefix
  const { status, error } = spawnSync(process.execPath, [command, ...args], { cwd: root, env, stdio: 'inherit' })
  if (error) throw error
  if (status !== 0) process.exit(status ?? 1)
}

const bin = (name, path) => join(dirname(require.resolve(`${name}/package.json`)), path)
const jobs = String(availableParallelism())

switch (process.argv[2]) {
  case 'addon':
    run(bin('node-gyp', 'bin/node-gyp.js'), ['configure', 'build', '--silent', '-j', jobs])
    break
  case 'prebuild':
    run(bin('prebuildify', 'bin.js'), ['--napi', '--strip', '--tag-libc', '--target', process.versions.node])
    break
  case 'library':
    run(bin('cmake-js', 'bin/cmake-js'), ['compile', '-O', 'build-library', '--parallel', jobs])
    break
  case 'sanitize':
    run(bin('cmake-js', 'bin/cmake-js'), [
      'compile',
      '-O',
      'build-sanitize',
      '--CDGRPO_SANITIZE=ON',
      '--parallel',
      jobs,
    ])
    break
  case 'sources':
    console.log(sources().join('\n'))
    break
  default:
    console.error('usage: node native/build.mjs addon | prebuild | library | sanitize | sources')
    process.exit(2)
}
