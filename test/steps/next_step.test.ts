// What a newcomer meets who adds an operation or a method to a copy of the repository and does one thing at a time: each
// message names the next one.
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { afterAll, expect, test } from 'vitest'
import { nextMethodStep, nextStep, pagesAreMissing, rowsOf } from './next_step.mjs'

const root = join(__dirname, '..', '..')
const copy = mkdtempSync(join(tmpdir(), 'grpo-kernels-steps-'))
afterAll(() => rmSync(copy, { recursive: true }))
for (const folder of ['lib', 'native', 'cuda', 'bench/peers', 'docs/operations', 'docs/methods', 'test/recipes']) {
  cpSync(join(root, folder), join(copy, folder), { recursive: true })
}

const write = (path: string, text: string) => {
  mkdirSync(dirname(join(copy, path)), { recursive: true })
  writeFileSync(join(copy, path), text)
}
const change = (path: string, from: string, to: string) => {
  const text = readFileSync(join(copy, path), 'utf8')
  expect(text, `${path} has ${from}`).toContain(from)
  write(path, text.replace(from, to))
}

test('an operation, from its row to its page', () => {
  const file = 'lib/kl_penalty.ts'
  const steps: [RegExp, () => void][] = [
    [
      /^in native\/ops\.h its struct grpo_kl_penalty_args .* and its pointer at the end of grpo_api: int /,
      () => change('native/ops.h', '} grpo_convert_args;', '} grpo_convert_args;\n\n} grpo_kl_penalty_args;'),
    ],
    [
      /^in native\/ops\.h its pointer at the end of grpo_api: int \(\*kl_penalty\)\(const grpo_kl_penalty_args\*/,
      () => change('native/ops.h', '} grpo_api;', '  int (*kl_penalty)(...);\n} grpo_api;'),
    ],
    [
      /^its name .* in native\/interface\/operation_list\.h, after a \\ on the line before: X\(kl_penalty, kKlPenalty\)$/,
      () => change('native/interface/operation_list.h', '  X(moments,', '  X(kl_penalty, kKlPenalty) \\\n  X(moments,'),
    ],
    [
      /^the plain C\+\+ version, native\/kl_penalty\.cc, /,
      () => write('native/kl_penalty.cc', 'GRPO_OPERATION(kKlPenalty, kl_penalty, kFields);\n'),
    ],
    [
      /^the TypeScript function, lib\/kl_penalty\.ts$/,
      () => write(file, '/** */\nexport const klPenalty = operation(1)\nexport const klMean = operation(2)\n'),
    ],
    [
      /^klPenalty and klMean among the exports of lib\/index\.ts$/,
      () => change('lib/index.ts', 'export { gr', "export { klMean, klPenalty } from './kl_penalty.js'\nexport { gr"),
    ],
    [
      /^its promise in lib\/promises\.ts: export const klPenalty = operations\.klPenalty\.later; export const klMean = /,
      () => change('lib/promises.ts', 'export const gr', 'export const klPenalty = 1\nexport const klMean = 1\n$&'),
    ],
    [
      /^in lib\/kl_penalty\.ts the line .*: Matches<'klPenalty', .* = true\), shapes .*, a paragraph .* and an @example that prints, /,
      () => change(file, '/** */', "export const matches: Matches<'klPenalty', A, B> = true\n/** */"),
    ],
    [
      /^in lib\/kl_penalty\.ts shapes in its docstring \(@param, @returns\), a paragraph /,
      () => change(file, '/** */', '/**\n * @returns f32[T]\n */'),
    ],
    [
      /^in lib\/kl_penalty\.ts a paragraph "Accuracy: \.\.\." in its docstring and an @example /,
      () => change(file, '/**\n', '/**\n * Accuracy: exact.\n *\n'),
    ],
    [
      /^in lib\/kl_penalty\.ts an @example that prints, in its docstring$/,
      () => change(file, '[T]\n', '[T]\n * @example\n * klPenalty()\n'),
    ],
    [
      /^in lib\/kl_penalty\.ts an @example that prints, in its docstring$/,
      () => change(file, ' * klPenalty()\n', ' * const kl = klPenalty()\n * console.log(kl)\n'),
    ],
    [/^the test with its float64 equation, test\/kl_penalty\.test\.ts$/, () => write('test/kl_penalty.test.ts', '')],
    [
      /^the CUDA kernel, cuda\/kl_penalty\.cu, /,
      () => write('cuda/kl_penalty.cu', '__global__\nGRPO_CUDA_OPERATION(kKlPenalty, kl_penalty);\n'),
    ],
    [
      /^the lines of its kernels in cuda\/README\.md: npm run docs:cuda/,
      () => write('cuda/README.md', '| [`kl_penalty.cu`](kl_penalty.cu) |\n'),
    ],
    [/^the benchmark, bench\/kl_penalty\.ts$/, () => write('bench/kl_penalty.ts', "operation: 'klPenalty'\n")],
    [
      /^what a user would run instead of klPenalty, in bench\/peers\/ \(javascript\.ts at least\), /,
      () => write('bench/peers/more.py', 'def kl_penalty():\n'),
    ],
    [/^its page, docs\/operations\/kl_penalty\.md: npm run docs/, () => write('docs/operations/kl_penalty.md', '')],
  ]
  change('lib/ops.ts', 'export const ops = {\n', 'export const ops = {\n  klPenalty: {\n  },\n')
  expect(rowsOf(copy)[0]).toBe('klPenalty')
  for (const [expected, does] of steps) {
    expect(nextStep(copy, 'klPenalty')?.text).toMatch(expected)
    does()
  }
  expect(nextStep(copy, 'klPenalty')).toBeUndefined()
  // cuda/README.md was written over: the lines of the other kernels are missing now, and no page.
  expect(pagesAreMissing(copy)).toEqual({ docs: false, kernels: true })
})

test('a row whose function stands in the file of another has a line of its own there', () => {
  const file = 'lib/token_logprob.ts'
  change(file, "Matches<'tokenLogprobBackward'", "Matches<'tokenLogprob'")
  const line = "export const matchesBackward: Matches<'tokenLogprobBackward', Inputs, Options> = true"
  expect(nextStep(copy, 'tokenLogprobBackward')?.text).toContain(line)
  expect(nextStep(copy, 'tokenLogprob')?.text ?? '').not.toContain('Matches')
})

test('a method, from its file to its page', () => {
  const file = 'lib/recipes/methods/new_po.ts'
  const index = 'lib/recipes/index.ts'
  const first = "import { adaGrpo } from './methods/ada_grpo.js'\n"
  const steps: [RegExp, () => void][] = [
    [/^its recipe in lib\/recipes\/methods\/new_po\.ts: /, () => write(file, 'export const newPo = recipe(\n')],
    [
      /^newPo in lib\/recipes\/index\.ts: its import, and its place in `recipes`$/,
      () => change(index, first, `${first}import { newPo } from './methods/new_po.js'\n`),
    ],
    [/^newPo in lib\/recipes\/index\.ts/, () => change(index, '  ngrpo,\n', '  newPo,\n  ngrpo,\n')],
    [
      /^the test with golden numbers and edge cases, test\/recipes\/methods\/new_po\.test\.ts$/,
      () => write('test/recipes/methods/new_po.test.ts', ''),
    ],
    [/^the page docs\/methods\/new_po\.md: npm run docs writes it$/, () => write('docs/methods/new_po.md', '')],
  ]
  write(file, '')
  for (const [expected, does] of steps) {
    expect(pagesAreMissing(copy).docs).toBe(true)
    expect(nextMethodStep(copy, 'new_po')).toMatch(expected)
    does()
  }
  expect(nextMethodStep(copy, 'new_po')).toBeUndefined()
  expect(pagesAreMissing(copy).docs).toBe(false)
})
