// The shared library for other languages: from C (test/c_interface.c) and, where python3 is there, through ctypes.
import { execFileSync, spawnSync } from 'node:child_process'
import { dirname, join } from 'node:path'
import process from 'node:process'
import { fileURLToPath } from 'node:url'

const root = join(dirname(fileURLToPath(import.meta.url)), '..')
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
process.exit(status ?? 0)
