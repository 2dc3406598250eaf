// The shared library for other languages: from C (test/package/c_interface.c), installed and found by CMake and pkg-config,
// and, where python3 is there, through ctypes. What it exports, what becomes of it at fork() and dlclose(), how many
// threads it has, and that rows which change under a call stay in bounds.
import { execFileSync, spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import process from 'node:process'
import { fileURLToPath } from 'node:url'
import { useFromC } from './consumer.mjs'

const root = join(dirname(fileURLToPath(import.meta.url)), '..', '..')
const release = join(root, 'build-library/Release')
process.stdout.write(execFileSync(join(release, 'c_interface'), { encoding: 'utf8' }))

const program = `
import ctypes, sys
class Operation(ctypes.Structure):
    _fields_ = [("name", ctypes.c_char_p)]
class Api(ctypes.Structure):
    _fields_ = [("size", ctypes.c_size_t), ("version", ctypes.c_uint32), ("backend", ctypes.c_char_p),
                ("operations", ctypes.POINTER(ctypes.POINTER(Operation))), ("operation_count", ctypes.c_int32)]
library = ctypes.CDLL(sys.argv[1])
library.grpo_kernels_api.restype = ctypes.POINTER(Api)
api = library.grpo_kernels_api(1).contents
names = [api.operations[i].contents.name.decode() for i in range(api.operation_count)]
assert api.backend == b"cpu" and names[0] == "group_advantage", names
print(f"python: {len(names)} operations")
`
const { error, status } = spawnSync('python3', ['-c', program, join(release, 'libgrpo_kernels.so')], {
  stdio: 'inherit',
})
if (error) console.log('python3 is not installed: the library was not loaded from Python')

/** The programs of docs/python_and_c.md in a language, each with the output that stands after it. */
function programsOf(language) {
  const page = readFileSync(join(root, 'docs/python_and_c.md'), 'utf8')
  const block = new RegExp(`\`\`\`${language}\\n([\\s\\S]*?)\`\`\`\\n\\n\`\`\`\\n([\\s\\S]*?)\`\`\``, 'g')
  return [...page.matchAll(block)].map(([, text, output]) => ({ text, output }))
}

function compare(language, { output }, printed) {
  if (printed === output) console.log(`docs/python_and_c.md: a program in ${language} prints what it says`)
  else throw new Error(`docs/python_and_c.md: a program in ${language} printed ${JSON.stringify(printed)}`)
}

const folder = mkdtempSync(join(tmpdir(), 'grpo-kernels-library-'))
try {
  const [inC] = programsOf('c')
  const [source, binary] = [join(folder, 'example.c'), join(folder, 'example')]
  writeFileSync(source, inC.text)
  const flags = [
    '-std=c11',
    '-Wall',
    '-Werror',
    '-I',
    join(root, 'native'),
    join(release, 'libgrpo_kernels.so'),
    `-Wl,-rpath,${release}`,
  ]
  execFileSync('cc', [source, ...flags, '-o', binary], { stdio: 'inherit' })
  compare('c', inC, execFileSync(binary, { encoding: 'utf8' }))
  const wrong = spawnSync(binary, { encoding: 'utf8', env: { ...process.env, GRPO_KERNELS_ISA: 'nonsense' } })
  const expected = 'group_advantage: GRPO_KERNELS_ISA is "nonsense", expected one that this processor has: baseline'
  if (wrong.status !== 1 || !wrong.stdout.startsWith(expected)) {
    throw new Error(`with GRPO_KERNELS_ISA=nonsense the program printed ${JSON.stringify(wrong.stdout)}`)
  }
  console.log(useFromC(root, join(folder, 'library'), join(root, 'build-library')))

  const named = (name) => join(root, 'test/package', name)
  const runs = (program, ...args) => process.stdout.write(execFileSync(program, args, { encoding: 'utf8' }))
  const library = join(release, 'libgrpo_kernels.so')
  execFileSync('cc', [named('fork.c'), ...flags, '-pthread', '-o', join(folder, 'fork')], { stdio: 'inherit' })
  runs(join(folder, 'fork'), '4000')
  const plain = ['-std=gnu11', '-Wall', '-Werror']
  execFileSync('cc', [...plain, named('unload.c'), '-ldl', '-o', join(folder, 'unload')], { stdio: 'inherit' })
  runs(join(folder, 'unload'), library)
  const parallel = ['parallel/parallel', 'platform/large_pages', 'platform/processors'].map((name) =>
    join(root, `native/${name}.cc`),
  )
  const ofPool = ['-std=c++20', '-O1', '-Wall', '-Werror', '-pthread', '-I', join(root, 'native')]
  execFileSync('c++', [...ofPool, named('pool.cc'), ...parallel, '-o', join(folder, 'pool')], { stdio: 'inherit' })
  runs(join(folder, 'pool'), join(folder, 'groups'), 'pauses')
  const rows = ['softmax_rows', 'sort_by_key'].map((name) => join(root, `native/logits/${name}.cc`))
  execFileSync('c++', [...ofPool, named('rows.cc'), ...rows, '-o', join(folder, 'rows')], { stdio: 'inherit' })
  runs(join(folder, 'rows'))

  const symbols = execFileSync('nm', ['-D', '--defined-only', library], { encoding: 'utf8' })
  const names = [...symbols.matchAll(/ [A-Z] (\S+)$/gim)].map(([, name]) => name)
  if (names.join() !== 'grpo_kernels_api') throw new Error(`libgrpo_kernels.so exports ${names.join(', ')}`)
  console.log('libgrpo_kernels.so exports grpo_kernels_api, and nothing else')
  for (const one of error ? [] : programsOf('py')) {
    compare('py', one, execFileSync('python3', ['-c', one.text], { cwd: root, encoding: 'utf8' }))
  }
} finally {
  rmSync(folder, { recursive: true })
}
process.exit(status ?? 0)
