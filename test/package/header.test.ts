// native/ops.h beside DLPack's own header, in C and C++, whichever comes first.
import { spawnSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'

const root = join(__dirname, '../..')

// The guard and the types of DLPack's header that ops.h has too; and one that it does not have.
const dlpack = `
#ifndef DLPACK_DLPACK_H_
#define DLPACK_DLPACK_H_
#include <stddef.h>
#include <stdint.h>
typedef enum { kDLCPU = 1, kDLCUDA = 2, kDLCUDAHost = 3 } DLDeviceType;
typedef struct { DLDeviceType device_type; int32_t device_id; } DLDevice;
typedef enum { kDLInt = 0U, kDLUInt = 1U, kDLFloat = 2U, kDLOpaqueHandle = 3U, kDLBfloat = 4U } DLDataTypeCode;
typedef struct { uint8_t code; uint8_t bits; uint16_t lanes; } DLDataType;
typedef struct {
  void* data;
  DLDevice device;
  int32_t ndim;
  DLDataType dtype;
  int64_t* shape;
  int64_t* strides;
  uint64_t byte_offset;
} DLTensor;
typedef struct DLManagedTensor { DLTensor dl_tensor; void* manager_ctx; void (*deleter)(struct DLManagedTensor*); } DLManagedTensor;
#endif
`

let folder = ''
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'grpo-kernels-header-'))
  for (const name of ['package/dlpack/dlpack.h', 'torch/ATen/dlpack.h', 'elsewhere/copy.h']) {
    mkdirSync(dirname(join(folder, name)), { recursive: true })
    writeFileSync(join(folder, name), dlpack)
  }
})
afterAll(() => rmSync(folder, { recursive: true }))

/** What the compiler says of a file with these includes that fills a tensor in and hands it over. */
function compile(language: 'c' | 'cc', includes: string[], folders: string[], more = '') {
  const source = `${includes.map((name) => `#include ${name}\n`).join('')}
    ${more}
    int call(const grpo_api* api, float* x, int64_t* n, grpo_moments_args* args) {
      DLTensor tensor = {x, {kDLCPU, 0}, 1, {kDLFloat, 32, 1}, n, NULL, 0};
      if (tensor.device.device_type == kDLCUDA) return kDLBfloat;
      args->x = &tensor;
      return api->moments(args, NULL);
    }`
  const file = join(folder, `source.${language}`)
  writeFileSync(file, source)
  const [compiler, standard] = language === 'c' ? ['cc', '-std=c11'] : ['c++', '-std=c++17']
  const flags = ['-Wall', '-Wextra', '-Werror', '-fsyntax-only', ...folders.flatMap((name) => ['-I', name])]
  const { stderr, status } = spawnSync(compiler, [standard, ...flags, '-I', join(root, 'native'), file], {
    encoding: 'utf8',
  })
  return status === 0 ? '' : stderr
}

const managed = 'DLManagedTensor* managed;'
const places: [string, string, string[], string][] = [
  ['none', '', [], ''],
  ['<dlpack/dlpack.h>', '<dlpack/dlpack.h>', ['package'], managed],
  ["PyTorch's <ATen/dlpack.h>", '<ATen/dlpack.h>', ['torch'], managed],
  ['both', '<ATen/dlpack.h>', ['torch', 'package'], managed],
]
test.each((['c', 'cc'] as const).flatMap((language) => places.map((place) => [language, ...place] as const)))(
  '.%s with %s',
  (language, _, header, folders, more) => {
    const paths = folders.map((name) => join(folder, name))
    for (const includes of header
      ? [
          [header, '"ops.h"'],
          ['"ops.h"', header],
        ]
      : [['"ops.h"']]) {
      expect(compile(language, includes, paths, more)).toBe('')
    }
  },
)

test.each(['c', 'cc'] as const)('.%s with a copy that ops.h cannot find, included first', (language) => {
  expect(compile(language, ['"copy.h"', '"ops.h"'], [join(folder, 'elsewhere')], managed)).toBe('')
})
