// The package where it cannot load its addon, or has to look for it: bundled, forbidden, absent, damaged, another
// system's. Each case is a program of its own in a folder of its own.
import { spawnSync } from 'node:child_process'
import { cpSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import process from 'node:process'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'

const root = join(__dirname, '../..')
const require = createRequire(__filename)
const addon = join(root, 'build/Release/grpo_kernels.node')
const platform = `${process.platform}-${process.arch}`
const call =
  'groupAdvantage({ rewards: new Float32Array([1, 0]), groupStart: new Int32Array([0, 2]) }).advantage.data[0].toFixed(3)'

let folder = ''
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'grpo-kernels-load-'))
})
afterEach(() => rmSync(folder, { recursive: true }))

/** A file within the folder, and the folders above it. */
function write(name: string, text: string): string {
  const path = join(folder, name)
  mkdirSync(dirname(path), { recursive: true })
  writeFileSync(path, text)
  return path
}

/** The installed package in `folder`, without binaries. */
function install(): string {
  const installed = join(folder, 'node_modules/grpo-kernels')
  cpSync(join(root, 'dist'), join(installed, 'dist'), { recursive: true })
  cpSync(join(root, 'package.json'), join(installed, 'package.json'))
  write('node_modules/grpo-kernels/native/build.mjs', '')
  return installed
}

/** What Node prints; an error in its long form, with its code. */
function run(words: string[], env: Record<string, string> = {}) {
  const none = { GRPO_KERNELS_ADDON: '', GRPO_KERNELS_CUDA: '', GRPO_KERNELS_PREBUILD: '', GRPO_KERNELS_ISA: '' }
  const { status, stdout, stderr } = spawnSync(process.execPath, words, {
    cwd: folder,
    env: { ...process.env, NODE_OPTIONS: '', ...none, ...env },
    encoding: 'utf8',
  })
  const [, message = ''] = /^\w*Error: ([\s\S]*?)\n {4}at /m.exec(stderr) ?? []
  const [, code] = /^ {2}code: '(\w+)'/m.exec(stderr) ?? []
  const [, argument] = /^ {2}argument: '(\w*)'/m.exec(stderr) ?? []
  return { status, stdout, message, code, argument, stderr }
}

/** An addon that exports an empty list by this name, as C. */
function compiled(file: string, name: string): string {
  write(
    'addon.c',
    `extern int napi_create_array(void*, void**), napi_set_named_property(void*, void*, const char*, void*);
void* napi_register_module_v1(void* env, void* exports) {
  void* list;
  napi_create_array(env, &list);
  napi_set_named_property(env, exports, "${name}", list);
  return exports;
}
int node_api_module_get_api_version_v1(void) { return 8; }`,
  )
  const words = ['-shared', '-fPIC', 'addon.c', '-o', file]
  expect(spawnSync('cc', words, { cwd: folder, encoding: 'utf8' }).stderr).toBe('')
  return join(folder, file)
}

const load = (env?: Record<string, string>, ...flags: string[]) =>
  run([...flags, '-e', `console.log(require('grpo-kernels').${call})`], env)

describe.each([
  ['cjs', `const { groupAdvantage } = require('grpo-kernels')`],
  ['mjs', `import { groupAdvantage, cuda } from 'grpo-kernels'; cuda.available`],
])('bundled by esbuild as .%s', (format, line) => {
  const bundle = (file: string) => {
    const esbuild = createRequire(require.resolve('tsx'))('esbuild')
    write(`source/main.${format}`, `${line}\nconsole.log(${call})`)
    mkdirSync(join(folder, 'source/node_modules'))
    symlinkSync(root, join(folder, 'source/node_modules/grpo-kernels'))
    esbuild.buildSync({
      entryPoints: [join(folder, `source/main.${format}`)],
      bundle: true,
      platform: 'node',
      format: format === 'cjs' ? 'cjs' : 'esm',
      outfile: join(folder, file),
      logLevel: 'silent',
    })
    return [join(folder, file)]
  }

  test('it computes where the package is to be found from the bundle', () => {
    const words = bundle(`source/out/main.${format}`)
    expect(run(words)).toMatchObject({ stdout: '0.707\n', status: 0 })
  })

  test('and else says to keep it external', () => {
    const { message, code } = run(bundle(`elsewhere/main.${format}`))
    expect(message).toMatch(/^grpo-kernels: the addon cannot be loaded: the package was bundled, .* Keep .* external/)
    expect(message).toContain('docs/bundlers.md')
    expect(code).toBe('ERR_GRPO_LOAD')
  })

  test('where GRPO_KERNELS_ADDON names the addon, nothing else is needed', () => {
    const words = bundle(`elsewhere/main.${format}`)
    expect(run(words, { GRPO_KERNELS_ADDON: addon })).toMatchObject({ stdout: '0.707\n', status: 0 })
  })
})

describe('a process that may not load addons', () => {
  const permission = process.allowedNodeEnvironmentFlags.has('--permission')
    ? '--permission'
    : '--experimental-permission'
  test.each([
    ['--no-addons', ['--no-addons'], 'Start Node without --no-addons.'],
    ['the permission model', [permission, '--allow-fs-read=*'], 'Start Node with --allow-addons.'],
  ])('%s: says so, and not that there is no binary', (_, flags, remedy) => {
    const path = join(install(), 'prebuilds', platform, 'grpo-kernels.glibc.node')
    cpSync(addon, path)
    const { message, code } = load({}, ...flags)
    expect(message.split('\n')[0]).toBe(
      `grpo-kernels: the addon cannot be loaded: this process may not load addons. ${remedy}`,
    )
    expect(message).toContain(`\n  ${path}: Cannot load native addon because loading addons is disabled.`)
    expect(code).toBe('ERR_GRPO_LOAD')
  })

  test('the permission model without leave to read the binary: says which file', () => {
    install()
    const elsewhere = mkdtempSync(join(tmpdir(), 'grpo-kernels-elsewhere-'))
    const path = join(elsewhere, 'prebuilds', platform, 'grpo-kernels.glibc.node')
    try {
      cpSync(addon, path)
      const flags = [permission, '--allow-addons', `--allow-fs-read=${join(folder, '*')}`]
      const main = write('main.cjs', "require('grpo-kernels')")
      const { message, code } = run([...flags, main], { GRPO_KERNELS_PREBUILD: elsewhere })
      expect(message).toContain(`\n  ${path}: --allow-fs-read does not cover it`)
      expect(code).toBe('ERR_GRPO_LOAD')
    } finally {
      rmSync(elsewhere, { recursive: true })
    }
  })
})

describe('a binary that is not there or does not fit', () => {
  const start = 'grpo-kernels: the addon cannot be loaded: '
  const place = (content: string) =>
    write(`node_modules/grpo-kernels/prebuilds/${platform}/grpo-kernels.glibc.node`, content)
  /** The first line without its advice, which is the same in all of these. */
  const reason = () => {
    const installed = install()
    const { message, code, argument } = load()
    const [first = '', tried, ...attempts] = message.split('\n')
    expect(argument).toBe('')
    const advice = `. Build it here, with a C++20 compiler: node "${installed}/native/build.mjs" addon`
    expect(first.endsWith(advice)).toBe(true)
    expect(tried).toMatch(new RegExp(`^Tried on ${platform}, (glibc [\\d.]+|no glibc), Node v[\\d.]+:$`))
    expect(attempts.map((line) => line.split(': ')[0]?.trim())).toEqual([
      `${installed}/build/Release/grpo_kernels.node`,
      `${installed}/prebuilds/${platform}/grpo-kernels.glibc.node`,
      `${installed}/prebuilds/${platform}/grpo-kernels.musl.node`,
    ])
    expect(code).toBe('ERR_GRPO_LOAD')
    return first.slice(start.length, -advice.length)
  }

  test('none', () => {
    expect(reason()).toBe(`there is no binary for ${platform}`)
  })

  test('only for other platforms', () => {
    for (const other of ['aix-ppc64', 'sunos-x64']) write(`node_modules/grpo-kernels/prebuilds/${other}/x.node`, '')
    write('node_modules/grpo-kernels/prebuilds/include/napi.h', '')
    expect(reason()).toBe(`there is no binary for ${platform}, only for aix-ppc64, sunos-x64`)
  })

  test('only for the other C library', () => {
    write(`node_modules/grpo-kernels/prebuilds/${platform}/grpo-kernels.musl.node`, 'x'.repeat(1000))
    expect(reason()).toBe(`there is no binary for ${platform} with glibc`)
  })

  test.each([
    ['text', 'x'.repeat(1000)],
    ['nothing', ''],
    // The head of an ELF file for 32 bits.
    ['of another architecture', `\x7fELF\x01\x01\x01${'\0'.repeat(1000)}`],
  ])('a file that holds %s', (_, content) => {
    const path = place(content)
    expect(reason()).toBe(`the binary in ${dirname(path)} is another system's, or damaged`)
  })

  test.each([
    ['libc.so.6', 'GLIBC_2.99', /^the binary needs glibc 2\.99, and this system has \d\.\d+$/],
    ['libstdc++.so.6', 'GLIBCXX_9.9', /^the binary needs a libstdc\+\+ with GLIBCXX_9\.9, which this system lacks$/],
  ])('one for a newer %s: says which, and which there is', (library, version, sentence) => {
    const path = place('')
    // A library that passes for one of the future while the file is linked.
    write('libc.c', 'int from_the_future(void) { return 0; }')
    write('libc.map', `${version} { from_the_future; };`)
    write('addon.c', 'int from_the_future(void); int entry(void) { return from_the_future(); }')
    const cc = (...words: string[]) =>
      expect(spawnSync('cc', ['-shared', '-fPIC', ...words], { cwd: folder, encoding: 'utf8' }).stderr).toBe('')
    cc('libc.c', '-nostdlib', `-Wl,-soname,${library}`, '-Wl,--version-script=libc.map', '-o', library)
    cc('addon.c', '-nostdlib', `./${library}`, '-o', path)
    expect(reason()).toMatch(sentence)
  })

  test('one of another version of the package', () => {
    install()
    const { message, code, argument } = load({ GRPO_KERNELS_ADDON: compiled('older.node', 'operations') })
    expect(message).toContain('grpo-kernels: lib/ops.ts has a row groupAdvantage, which the binary lacks')
    expect([code, argument]).toEqual(['ERR_GRPO_LOAD', 'GRPO_KERNELS_ADDON'])
  })
})

describe('environment variables', () => {
  test.each(['GRPO_KERNELS_ADDON', 'GRPO_KERNELS_PREBUILD'])('%s refuses what is no absolute path', (name) => {
    install()
    const { message, code } = load({ [name]: 'build/x' })
    expect(message).toBe(`grpo-kernels: ${name} is "build/x", expected an absolute path`)
    expect(code).toBe('ERR_GRPO_OPTION')
  })

  test('GRPO_KERNELS_CUDA too, when device arrays are asked for', () => {
    const env = { GRPO_KERNELS_ADDON: addon, GRPO_KERNELS_CUDA: 'x.so' }
    install()
    expect(load(env).stdout).toBe('0.707\n')
    expect(run(['-p', "require('grpo-kernels').cuda.reason"], env).stdout).toBe(
      'grpo-kernels: GRPO_KERNELS_CUDA is "x.so", expected an absolute path\n',
    )
  })

  test('GRPO_KERNELS_ADDON names the file and nothing else is tried', () => {
    install()
    const { message, code } = load({ GRPO_KERNELS_ADDON: '/nowhere/x.node' })
    expect(message).toMatch(
      /GRPO_KERNELS_ADDON names a file that does not load\.\n.*\n {2}\/nowhere\/x.node: there is no/,
    )
    expect(message.split('\n')).toHaveLength(3)
    expect(code).toBe('ERR_GRPO_LOAD')
  })

  test('a file that loads and is no addon of this package', () => {
    install()
    const { message, code, argument } = load({ GRPO_KERNELS_ADDON: compiled('other.node', 'somethingElse') })
    expect(message).toContain('other.node: it is not the addon of this package')
    expect([code, argument]).toEqual(['ERR_GRPO_LOAD', 'GRPO_KERNELS_ADDON'])
  })

  test.each(['addon.js', 'addon', 'addon.node'])('%s that holds a program does not run', (name) => {
    install()
    const path = write(name, "console.log('it runs'); module.exports = { operations: [] } // ".padEnd(100, '.'))
    const { message, code, stdout } = load({ GRPO_KERNELS_ADDON: path })
    expect(message.split('\n')[0]).toMatch(/: GRPO_KERNELS_ADDON names a file that does not load\.$/)
    expect(message).toContain(`\n  ${path}: `)
    expect([code, stdout]).toEqual(['ERR_GRPO_LOAD', ''])
  })

  test('the addon by any other name', () => {
    install()
    for (const name of ['addon', 'addon.so', 'addon.js']) {
      cpSync(addon, join(folder, name))
      expect(load({ GRPO_KERNELS_ADDON: join(folder, name) })).toMatchObject({ stdout: '0.707\n', status: 0 })
    }
    symlinkSync(join(folder, 'addon.js'), join(folder, 'link.node'))
    expect(load({ GRPO_KERNELS_ADDON: join(folder, 'link.node') })).toMatchObject({ stdout: '0.707\n', status: 0 })
  })

  test('the package loaded twice in one thread computes', () => {
    install()
    const twice = `const first = require('grpo-kernels')
for (const path of Object.keys(require.cache)) delete require.cache[path]
const second = require('grpo-kernels')
console.log(first === second, first.${call}, second.${call})`
    expect(run(['-e', twice], { GRPO_KERNELS_ADDON: addon })).toMatchObject({
      stdout: 'false 0.707 0.707\n',
      status: 0,
    })
  })

  test('GRPO_KERNELS_PREBUILD that leads nowhere is named', () => {
    install()
    const { message, code, argument } = load({ GRPO_KERNELS_PREBUILD: '/nowhere' })
    expect(message).toContain('GRPO_KERNELS_PREBUILD names /nowhere: there is no binary for')
    expect([code, argument]).toEqual(['ERR_GRPO_LOAD', 'GRPO_KERNELS_PREBUILD'])
  })

  test('GRPO_KERNELS_PREBUILD names the folder of prebuilds/', () => {
    install()
    cpSync(addon, join(folder, 'binaries/prebuilds', platform, 'grpo-kernels.glibc.node'))
    expect(load({ GRPO_KERNELS_PREBUILD: join(folder, 'binaries') })).toMatchObject({ stdout: '0.707\n', status: 0 })
  })

  test('GRPO_KERNELS_ISA refuses what is no instruction set, and lists those that there are', () => {
    install()
    const { message, code } = load({ GRPO_KERNELS_ADDON: addon, GRPO_KERNELS_ISA: 'nonsense' })
    expect(message).toMatch(
      /^grpo-kernels: GRPO_KERNELS_ISA is "nonsense", expected one that this processor has: baseline(, \w+)*$/,
    )
    expect(code).toBe('ERR_GRPO_OPTION')
    const program = "console.log(require('grpo-kernels').cpu.instructionSet)"
    for (const name of message.split('has: ')[1]?.split(', ') ?? []) {
      const { stdout } = run(['-e', program], { GRPO_KERNELS_ADDON: addon, GRPO_KERNELS_ISA: name })
      expect(stdout).toBe(`${name}\n`)
    }
  })
})
