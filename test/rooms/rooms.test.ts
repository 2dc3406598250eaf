// The check of the rooms (violations.ts) finds what is planted in a copy of the sources, and nothing else.
import { appendFileSync, cpSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, expect, test } from 'vitest'
import { violations } from './violations.js'

const root = join(__dirname, '../..')
const copy = mkdtempSync(join(tmpdir(), 'rooms-'))
afterAll(() => rmSync(copy, { recursive: true }))

test('each planted fault is named, with what its room may hold', async () => {
  for (const folder of ['lib', 'native', 'cuda']) cpSync(join(root, folder), join(copy, folder), { recursive: true })
  mkdirSync(join(copy, 'test'))
  symlinkSync(join(root, 'test/simt'), join(copy, 'test/simt'))
  symlinkSync(join(root, 'node_modules'), join(copy, 'node_modules'))
  const add = (path: string, text: string) => appendFileSync(join(copy, path), `\n${text}\n`)
  add('lib/arrays/array.ts', "import type { CallOptions } from '../call/types.js'")
  add('lib/recipes/step/columns.ts', "import '../methods/dapo.js'")
  add('lib/recipes/parts/statistics.ts', "import { jackknife } from './members.js'")
  add('lib/recipes/parts/members.ts', "import { sum } from './statistics.js'")
  mkdirSync(join(copy, 'lib/helpers'))
  writeFileSync(join(copy, 'lib/helpers/more.ts'), 'export const more = 1\n')
  add('native/vector/vector.h', '#include "interface/operation.h"')
  add('native/logits/logits.h', '#include "loss/objective.h"')
  add('native/linear/chunk.h', '#include "linear_policy_loss.h"')
  writeFileSync(join(copy, 'native/helpers.cc'), '')
  add('cuda/blocks/scan.cuh', '#include "logits/logits.cuh"')
  add('cuda/launch/operation.cuh', '#include "native/node/addon_cuda.h"')
  add('cuda/moments.cu', '#include "test/simt/simt.hpp"')
  const found = await violations(copy)
  const circles = found.filter((sentence) => / (imports|includes) itself through /.test(sentence)).join('\n')
  expect(circles).toContain('lib/recipes/parts/members.ts')
  expect(circles).toContain('native/interface/operation.h includes itself through native/vector/vector.h')
  const others = found.filter((sentence) => !circles.includes(sentence))
  expect(others.map((sentence) => sentence.replace(/, which stands.*|: .*/, '')).sort()).toEqual([
    'cuda/blocks/scan.cuh imports cuda/logits/logits.cuh',
    'cuda/launch/operation.cuh imports native/node/addon_cuda.h',
    'cuda/moments.cu imports test/simt/simt.hpp',
    'lib/arrays/array.ts imports lib/call/types.ts',
    'lib/helpers/more.ts stands in no room',
    'lib/recipes/step/columns.ts imports lib/recipes/methods/dapo.ts',
    'native/helpers.cc is named as no row of lib/ops.ts',
    'native/linear/chunk.h includes "linear_policy_loss.h"',
    'native/logits/logits.h imports native/loss/objective.h',
    'native/vector/vector.h imports native/interface/operation.h',
  ])
  expect(others.filter((sentence) => sentence.startsWith('lib/arrays/')).join()).toContain(
    'arrays: Host arrays, the memory of devices, and the CUDA library: they know the addon, and nothing of calls.',
  )
})
