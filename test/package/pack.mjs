// Packs the package, installs the tarball into an empty folder without scripts, and computes through `import` and
// `require`, as a user would; then without its binaries, as the error of that says; and builds the C library from it. Every
// binary in it has to load where glibc is 2.28. Ends with an error if any step does.
import { execFileSync, execSync } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import process from 'node:process'
import { fileURLToPath } from 'node:url'
import { useFromC } from './consumer.mjs'
import { isElf, shortcomings, versions } from './elf.mjs'

const root = join(dirname(fileURLToPath(import.meta.url)), '..', '..')
const folder = mkdtempSync(join(tmpdir(), 'grpo-kernels-pack-'))
const run = (command, args, cwd) =>
  execFileSync(command, args, { cwd, encoding: 'utf8', stdio: ['ignore', 'pipe', 'inherit'], maxBuffer: 2 ** 26 })

const body = `
  const groups = { rewards: new Float32Array([1, 0, 0.5, 0]), groupStart: new Int32Array([0, 4]) }
  const show = (x) => console.log(Array.from(x.data, (v) => v.toFixed(4)).join(' '))
  show(groupAdvantage(groups).advantage)
  show({ data: recipes.prepareStep(recipes.recipes.grpo(), groups).advantage })
  promises.groupAdvantage(groups).then((result) => show(result.advantage))
    .then(() => steps.prepareStep(recipes.recipes.grpo(), groups)).then((prepared) => show({ data: prepared.advantage }))
`
const programs = {
  'import.mjs': `import { groupAdvantage } from 'grpo-kernels'\nimport * as promises from 'grpo-kernels/promises'\nimport * as recipes from 'grpo-kernels/recipes'\nimport * as steps from 'grpo-kernels/recipes/promises'\n${body}`,
  'require.cjs': `const { groupAdvantage } = require('grpo-kernels')\nconst promises = require('grpo-kernels/promises')\nconst recipes = require('grpo-kernels/recipes')\nconst steps = require('grpo-kernels/recipes/promises')\n${body}`,
}
const platform = `${process.platform}-${process.arch}`
const expected = `${'1.3053 -0.7832 0.2611 -0.7832\n'.repeat(4)}`

function compute(name) {
  const output = run(process.execPath, [name], folder)
  if (output !== expected) throw new Error(`${name} printed ${JSON.stringify(output)}`)
}

/** The tarball has the addon, the C library and, with nvcc, the CUDA library; none asks for a newer system. */
function checkBinaries(installed) {
  const names = readdirSync(installed, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && isElf(join(entry.parentPath, entry.name)))
    .map((entry) => join(entry.parentPath, entry.name))
  for (const name of ['grpo-kernels.glibc.node', 'libgrpo_kernels.so']) {
    const path = join(installed, 'prebuilds', platform, name)
    if (!names.includes(path)) throw new Error(`the tarball has no ${name}`)
  }
  for (const name of names) {
    const [wanting] = shortcomings(name)
    if (wanting !== undefined) throw new Error(`${name} ${wanting}`)
    const { GLIBC } = versions(name)
    console.log(`${name.slice(installed.length + 1)}: GLIBC_${GLIBC}, ${statSync(name).size} bytes`)
  }
}

/** Without a binary the error has a command; where that has run, as it stands there, the package works. */
function rescue(installed) {
  rmSync(join(installed, 'prebuilds', platform), { recursive: true })
  const attempt = "try { require('grpo-kernels') } catch (error) { console.log(error.code, error.message) }"
  const text = run(process.execPath, ['-e', attempt], folder)
  const command = /^ERR_GRPO_LOAD .* Build it here, with a C\+\+20 compiler: (.*)$/m.exec(text)?.[1]
  if (command === undefined) throw new Error(`no command in ${text}`)
  execSync(command, { cwd: folder, stdio: ['ignore', 'pipe', 'inherit'] })
  for (const name of Object.keys(programs)) compute(name)
  console.log(`without a binary: ${command}`)
}

try {
  // What a source that is gone left behind.
  mkdirSync(join(root, 'dist/gone'), { recursive: true })
  writeFileSync(join(root, 'dist/gone/gone.js'), '')
  run('npm', ['pack', '--silent', '--pack-destination', folder], root)
  const tarball = readdirSync(folder).find((name) => name.endsWith('.tgz'))
  writeFileSync(join(folder, 'package.json'), '{ "private": true }')
  run('npm', ['install', '--ignore-scripts', '--no-audit', '--no-fund', '--silent', join(folder, tarball)], folder)
  const installed = join(folder, 'node_modules/grpo-kernels')
  if (existsSync(join(installed, 'dist/gone'))) throw new Error('dist/ has a file without a source')
  // npm, Yarn and pnpm run node-gyp where it finds this.
  if (existsSync(join(installed, 'binding.gyp'))) throw new Error('the tarball has a binding.gyp')
  if (process.platform === 'linux') checkBinaries(installed)
  for (const [name, text] of Object.entries(programs)) {
    writeFileSync(join(folder, name), text)
    compute(name)
  }
  const one = run(
    process.execPath,
    ['-p', "require('grpo-kernels/recipes.json').methods.dapo.objective.clipHigh"],
    folder,
  )
  if (one !== '0.28\n') throw new Error(`recipes.json has ${one} for clipHigh of dapo`)
  // With nvcc the tarball has the CUDA kernels too: a reason for no GPU is not that they are missing.
  const kernels = existsSync(join(root, 'prebuilds', platform, 'libgrpo_kernels_cuda.so'))
  const reason = run(process.execPath, ['-p', "require('grpo-kernels').cuda.reason"], folder)
  if (/has no CUDA library|cannot be loaded/.test(reason) === kernels) throw new Error(`cuda.reason is ${reason}`)
  rescue(installed)
  console.log(useFromC(installed, join(folder, 'library')))
  run(process.execPath, [join(root, 'node_modules/publint/src/cli.js'), '--strict', root], root)
  console.log(
    `${tarball}: installed without scripts, import and require both compute, ${kernels ? 'with' : 'without'} CUDA kernels`,
  )
} finally {
  rmSync(folder, { recursive: true, force: true })
  rmSync(join(root, 'dist/gone'), { recursive: true, force: true })
}
