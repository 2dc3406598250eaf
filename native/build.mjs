// Builds the native code: node native/build.mjs addon | prebuild | library | cuda | simt | sanitize. In the installed
// package, addon is what there is.
import { spawnSync } from 'node:child_process'
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { createRequire } from 'node:module'
import { availableParallelism } from 'node:os'
import { dirname, join } from 'node:path'
import process from 'node:process'
import { fileURLToPath } from 'node:url'
import { libraryFile, platform } from './platform/binaries.mjs'
import { compileAddon, defines, flags } from './platform/compile.mjs'
import { link } from './platform/link.mjs'

const root = join(dirname(fileURLToPath(import.meta.url)), '..')
const require = createRequire(import.meta.url)

/** Every .cc of native/ and its rooms: the one list of sources, read by binding.gyp and CMakeLists.txt. */
function sources(folder = 'native', ending = '.cc') {
  return readdirSync(join(root, folder), { recursive: true })
    .filter((name) => name.endsWith(ending))
    .map((name) => `${folder}/${name.replaceAll('\\', '/')}`)
    .sort()
}

function nodeEnvironment() {
  const env = { ...process.env }
  // Node's own headers, where they are installed beside it: then nothing is downloaded.
  const prefix = dirname(dirname(process.execPath))
  if (existsSync(join(prefix, 'include/node/node_api.h'))) env.npm_config_nodedir = prefix
  return env
}

function run(command, args, env = nodeEnvironment()) {
  const { status, error } = spawnSync(process.execPath, [command, ...args], { cwd: root, env, stdio: 'inherit' })
  if (error) throw error
  if (status !== 0) process.exit(status ?? 1)
}

const bin = (name, path) => join(dirname(require.resolve(`${name}/package.json`)), path)
const jobs = String(availableParallelism())

/** Targets of CMakeLists.txt, all in one build folder: what they share is compiled once. */
function cmake(...targets) {
  if (spawnSync('cmake', ['--version']).status !== 0) {
    console.error(`building ${targets.join(', ')} needs CMake 3.19 or newer, which is not installed or not on the PATH`)
    process.exit(1)
  }
  for (const target of targets) {
    // Not `compile`, which at an error throws everything away and builds it all again.
    run(bin('cmake-js', 'bin/cmake-js'), ['build', '-O', 'build-library', '-T', target, '--parallel', jobs])
  }
}

const findNvcc = () =>
  ['nvcc', '/usr/local/cuda/bin/nvcc', process.env.CUDACXX].find(
    (path) => path && spawnSync(path, ['--version']).status === 0,
  )

/** The addon, as far as it is not up to date; in the installed package, which has no binding.gyp, all of it. */
async function addon() {
  if (!existsSync(join(root, 'binding.gyp'))) {
    return compileAddon(root, sources()).catch((error) => {
      console.error(error.message)
      process.exit(1)
    })
  }
  run(bin('node-gyp', 'bin/node-gyp.js'), ['configure', 'build', '--silent', '-j', jobs])
}

/**
 * libgrpo_kernels_cuda with nvcc: all machine code of the package in one file. Prints what each kernel takes on each
 * architecture, and fails if one spills registers to memory. Further targets are built beside it: self_test is what
 * npm run test:cuda runs, grpo_kernels_newer the kernels for GPUs that the PTX serves, to be looked at and not shipped.
 */
function cuda(...targets) {
  const nvcc = findNvcc()
  if (nvcc === undefined) {
    console.error(
      'build:cuda needs nvcc of CUDA 12.4 or newer, which is not installed: the package works without it on',
    )
    console.error('the CPU. Put nvcc on the PATH, or name it in CUDACXX.')
    process.exit(1)
  }
  const build = (target) => {
    const options = ['build', '-O', join(root, 'build-cuda-objects'), '-T', target, '--parallel', jobs]
    const { status, stdout, stderr } = spawnSync(
      process.execPath,
      [bin('cmake-js', 'bin/cmake-js'), ...options, '--CDGRPO_CUDA=ON', `--CDCMAKE_CUDA_COMPILER=${nvcc}`],
      { cwd: root, env: nodeEnvironment(), encoding: 'utf8', maxBuffer: 2 ** 28 },
    )
    if (status !== 0) {
      console.error(stdout, stderr)
      process.exit(status ?? 1)
    }
  }
  build('grpo_kernels_cuda')
  for (const target of targets) build(target)
  const kernels = resources('grpo_kernels_cuda')
  const { stdout } = spawnSync(nvcc, ['--version'], { encoding: 'utf8' })
  const report = { nvcc: /release ([\d.]+)/.exec(stdout)?.[1], kernels }
  writeFileSync(join(root, 'build-cuda', 'kernels.json'), `${JSON.stringify(report, null, 1)}\n`)
  const all = [...kernels, ...(targets.includes(newer) ? resources(newer) : [])]
  for (const { name, architecture, registers, shared, spilled } of all) {
    const spill = spilled > 0 ? `, SPILLS ${spilled} bytes` : ''
    console.log(`${architecture} ${name}: ${registers} registers, ${shared} bytes of shared memory${spill}`)
  }
  const bad = all.filter(({ spilled }) => spilled > 0)
  const architectures = [...new Set(all.map(({ architecture }) => architecture))].join(', ')
  console.log(`build:cuda: ${all.length} kernels for ${architectures}, ${bad.length} of them spill registers`)
  if (bad.length > 0) process.exit(1)
}

const newer = 'grpo_kernels_newer'

/** Whether nvcc knows the architectures of that target: 12.8 and later do. */
const knowsNewer = () => {
  const { stdout } = spawnSync(findNvcc() ?? 'nvcc', ['--list-gpu-code'], { encoding: 'utf8' })
  return ['sm_100', 'sm_120'].every((name) => stdout?.split(/\s+/).includes(name))
}

const prebuilds = join(root, 'prebuilds', platform)

/** Makes or copies a binary into prebuilds/, in one step: a process that has the one before loaded keeps that. */
function ship(name, make) {
  mkdirSync(prebuilds, { recursive: true })
  const draft = join(prebuilds, `${name}.draft`)
  make(draft)
  renameSync(draft, join(prebuilds, name))
}

/** The objects of the sources of a CMake target. */
const objectsOf = (folder, target, names) =>
  names.map((name) => join(root, folder, 'CMakeFiles', `${target}.dir`, `${name}.o`))

/**
 * What the tarball has: the addon, by prebuildify; beside it the C library, and the CUDA library where nvcc is installed;
 * and the headers with which an addon can be compiled for another platform. On Linux native/platform/link.mjs links all of them.
 */
async function prebuild() {
  const linux = process.platform === 'linux'
  const env = { ...nodeEnvironment(), PREBUILD_NODE_GYP: join(root, 'native/node_gyp.mjs') }
  if (linux) env.LINK = `node ${join(root, 'native/platform/link.mjs')}`
  const words = ['--napi', '--target', process.versions.node, ...(linux ? ['--tag-libc'] : ['--strip'])]
  run(bin('prebuildify', 'bin.js'), words, env)
  await addon() // prebuildify has moved it away
  headers()

  const library = libraryFile('grpo_kernels')
  cmake('grpo_kernels')
  if (!linux) {
    ship(library, (draft) => copyFileSync(join(root, 'build-library/Release', library), draft))
    return
  }
  const portable = (name, objects, ...map) =>
    ship(name, (draft) => link([...objects, '-o', draft, `-Wl,-soname,${name}`, '-Wl,-z,defs'], ...map))
  const operations = sources().filter((name) => !name.startsWith('native/node/'))
  portable(library, objectsOf('build-library', 'grpo_objects', operations))
  const kernels = libraryFile('grpo_kernels_cuda')
  if (findNvcc() === undefined) {
    rmSync(join(prebuilds, kernels), { force: true })
    console.log('prebuilds are for the CPU alone: nvcc is not installed')
    return
  }
  cuda()
  const objects = [
    ...objectsOf('build-cuda-objects', 'grpo_kernels_cuda', sources('cuda', '.cu')),
    ...objectsOf('build-cuda-objects', 'grpo_objects', operations),
  ]
  portable(kernels, [...objects, cudaRuntime(), '-lrt'], join(root, 'cuda/launch/exports.map'))
}

/** libcudart_static.a of the nvcc that compiles. */
function cudaRuntime() {
  const { stderr } = spawnSync(findNvcc(), ['--dryrun', join(root, 'cuda/launch/device.cu')], { encoding: 'utf8' })
  const folders = [...stderr.matchAll(/-L"?([^"\s]+)"?/g)].map(([, folder]) => join(folder, 'libcudart_static.a'))
  const found = folders.find((path) => existsSync(path))
  if (found === undefined) throw new Error(`there is no libcudart_static.a in ${folders.join(', ')}`)
  return found
}

/** Node-API's headers into prebuilds/include, so that the addon compiles where nothing can be downloaded. */
function headers() {
  const include = join(root, 'prebuilds/include')
  mkdirSync(include, { recursive: true })
  for (const [name, folder] of [
    ['node-addon-api', ''],
    ['node-api-headers', 'include'],
  ]) {
    const package_ = dirname(require.resolve(`${name}/package.json`))
    for (const file of readdirSync(join(package_, folder)).filter((file) => file.endsWith('.h'))) {
      copyFileSync(join(package_, folder, file), join(include, file))
    }
    const license = readdirSync(package_).find((file) => file.startsWith('LICENSE'))
    copyFileSync(join(package_, license), join(include, `LICENSE.${name}`))
  }
}

/** Compiles a file of cuda/, and keeps what nvcc says of it beside the object. */
function compile(command, ...args) {
  const object = args[args.lastIndexOf('-o') + 1]
  const { status, stdout, stderr, error } = spawnSync(command, args, { encoding: 'utf8', maxBuffer: 2 ** 28 })
  if (error) throw error
  process.stdout.write(stdout)
  process.stderr.write(stderr)
  if (status !== 0) process.exit(status ?? 1)
  writeFileSync(`${object}.log`, stdout + stderr)
}

/** What ptxas -v has said of each kernel, file by file. */
function resources(target) {
  const objects = join(root, `build-cuda-objects/CMakeFiles/${target}.dir`)
  return sources('cuda', '.cu').flatMap((file) =>
    kernelsIn(file.slice('cuda/'.length), readFileSync(join(objects, `${file}.o.log`), 'utf8')),
  )
}

function kernelsIn(file, text) {
  const pattern = /Compiling entry function '(\S+)' for '(\S+)'([\s\S]*?)Used (\d+) registers([^\n]*)/g
  const mangled = [...text.matchAll(pattern)]
  const names = spawnSync('c++filt', ['-p'], { input: mangled.map(([, name]) => name).join('\n'), encoding: 'utf8' })
  const readable = names.status === 0 ? names.stdout.split('\n') : mangled.map(([, name]) => name)
  return mangled.map(([, name, architecture, frame, registers, rest], i) => ({
    file,
    name: (readable[i] ?? name).replace(/^grpo::cuda::(\(anonymous namespace\)::)?/, ''),
    architecture,
    registers: Number(registers),
    shared: Number(/(\d+) bytes smem/.exec(rest)?.[1] ?? 0),
    spilled: Number(/(\d+) bytes spill stores/.exec(frame)?.[1] ?? 0),
  }))
}

/** Fails where cuda/README.md gives a kernel other registers than this build has. */
function checkTable() {
  run(bin('tsx', 'dist/cli.mjs'), ['test/docs/cuda.ts', 'check'])
}

switch (process.argv[2]) {
  case 'addon':
    await addon()
    break
  case 'prebuild':
    await prebuild()
    break
  case 'library':
    cmake('grpo_kernels', 'c_interface')
    break
  case 'simt':
    cmake('grpo_kernels_simt', 'self_test_simt', 'simt_faults', 'simt_runtime_faults')
    break
  case 'cuda':
    cuda('self_test', ...(knowsNewer() ? [newer] : []))
    checkTable()
    break
  case 'compile': // called by CMake
    compile(...process.argv.slice(3))
    break
  case 'sanitize':
    run(bin('cmake-js', 'bin/cmake-js'), ['build', '-O', 'build-sanitize', '--CDGRPO_SANITIZE=ON', '--parallel', jobs])
    break
  case 'sources': // these three are called by binding.gyp
    console.log(sources().join('\n'))
    break
  case 'flags':
    console.log(flags.join('\n'))
    break
  case 'defines':
    console.log(defines.join('\n'))
    break
  default:
    console.error('usage: node native/build.mjs addon | prebuild | library | cuda | simt | sanitize')
    process.exit(2)
}
