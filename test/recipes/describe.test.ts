// The command line of examples/recipes/describe.ts, its programs, and the table of methods in docs/.
import { execFileSync } from 'node:child_process'
import { join } from 'node:path'
import ts from 'typescript'
import { describe, expect, test } from 'vitest'
import { near } from '../../bench/command.mjs'
import { answer, list, makeOf, names, presetNames, recipeOf, snippet } from '../../examples/recipes/describe.js'
import { needs } from '../../examples/recipes/needs.js'
import { methodsTable } from '../docs/methods.js'

const root = join(__dirname, '..', '..')
const all = [...names, ...presetNames]

test('the program of every method and preset runs on the built package', () => {
  const programs = all.map(snippet)
  const used = ['optimizationStep', 'prepareStep', 'presets', 'recipes']
  const imports = /^(import \{ array \} from 'grpo-kernels'\n)?import \{ [\w, ]+ \} from 'grpo-kernels\/recipes'\n/
  for (const program of programs) expect(program).toMatch(imports)
  const blocks = programs.map((program, i) => {
    const body = program.replace(imports, '')
    return `{ const console = { log: (...results) => print('${all[i]}', results) }\n${body}}`
  })
  const program = `import { array } from 'grpo-kernels'
import { ${used.join(', ')} } from 'grpo-kernels/recipes'
const print = (name, results) => process.stdout.write(name + ' ' + results.length + ' ' + results.includes(undefined) + '\\n')
${blocks.join('\n')}`
  const printed = execFileSync(process.execPath, ['--input-type=module', '-'], {
    cwd: root,
    input: program,
    encoding: 'utf8',
  })
  const lines = printed.trim().split('\n')
  expect(lines.map((line) => line.split(' ')[0])).toEqual(all)
  for (const line of lines) expect(line).toMatch(/^\w+ [1-9] false$/)
})

test('the program of every method and preset, saved as .mts, has the types of the built package', () => {
  const files = new Map(all.map((name) => [join(root, `${name}.mts`), snippet(name)]))
  const options: ts.CompilerOptions = {
    strict: true,
    noUncheckedIndexedAccess: true,
    noEmit: true,
    skipLibCheck: true,
    target: ts.ScriptTarget.ES2022,
    module: ts.ModuleKind.Node16,
    types: ['node'],
  }
  const host = ts.createCompilerHost(options)
  const { fileExists, readFile, getSourceFile } = host
  host.fileExists = (name) => files.has(name) || fileExists(name)
  host.readFile = (name) => files.get(name) ?? readFile(name)
  host.getSourceFile = (name, version, ...rest) => {
    const text = files.get(name)
    return text === undefined ? getSourceFile(name, version, ...rest) : ts.createSourceFile(name, text, version)
  }
  const program = ts.createProgram([...files.keys()], options, host)
  const problems = ts.getPreEmitDiagnostics(program).map(({ file, messageText }) => {
    return `${file?.fileName}: ${ts.flattenDiagnosticMessageText(messageText, ' ')}`
  })
  expect(problems).toEqual([])
})

describe('what a method needs of the columns of every method', () => {
  const of = (name: string) =>
    Object.fromEntries(needs(makeOf(name)).map(({ column, stage, when }) => [column, [stage, ...when]]))

  test('a column, a switch by 0, and the policy: grpo', () => {
    expect(of('grpo')).toEqual({
      rewards: ['prepareStep'],
      groupStart: ['prepareStep'],
      sequenceStart: ['the loss'],
      refLogp: ['the loss', 'unless klCoef is 0'],
      logp: ['the loss'],
    })
  })

  test('a switch by a choice, by another number than the default, by null', () => {
    expect(of('gvmRaft')).toMatchObject({ groupStart: ['prepareStep', 'if estimator is grpo'] })
    expect(of('trl')).toMatchObject({
      refLogp: ['the loss', 'if beta is not 0'],
      entropy: ['the loss', 'if entropyCoef is not 0', 'if topEntropyQuantile is not 1'],
    })
    expect(of('openrlhf')).toMatchObject({ rolloutLogp: ['the loss', 'if isCorrection is not null'] })
  })

  test('no loss, and a Gaussian policy', () => {
    expect(Object.keys(of('trainingFreeGrpo'))).toEqual(['rewards', 'groupStart'])
    expect(of('g2rpo')).toMatchObject({ mean: ['the loss'], x: ['the loss'], std: ['the loss'] })
  })

  test('is printed, with what is used if given and what advantages replace', () => {
    expect(answer(['grpo']).text).toContain(`
  prepareStep needs rewards, groupStart
  the loss needs sequenceStart, refLogp unless klCoef is 0, the policy (logp, logits or hidden)
  used if given: oldLogp
  not needed if advantage is given: rewards, groupStart
`)
  })
})

describe('the command line', () => {
  test('lists every method and every preset once', () => {
    const [head, ...rows] = list().split('\n')
    expect(head).toMatch(/^name +paper +changes +source +unknown$/)
    const first = rows.map((row) => row.split(' ')[0])
    expect(first).toEqual([...names, '', 'presets:', ...presetNames])
  })

  test.each(all)('describes %s', (name) => {
    const { text, status } = answer([name])
    const { paper, description } = recipeOf(name)
    expect(status).toBe(0)
    for (const part of [paper.title, paper.arxiv ?? '', description.equation, snippet(name)])
      expect(text).toContain(part)
    for (const [column, meaning] of Object.entries(description.columns ?? {}))
      expect(text).toContain(`${column}: ${meaning}`)
    for (const [option, [, meaning]] of Object.entries(description.options ?? {})) {
      expect(text).toContain(`  ${option} = `)
      expect(text).toContain(meaning)
    }
  })

  test('an unknown name gets the names that are near', () => {
    expect(near('gpro', all)).toContain('grpo')
    expect(near('DCPO', all)[0]).toBe('dcpo')
    expect(near('zzzzzzzz', all)).toEqual([])
    const { text, status } = answer(['gpro'])
    expect(text).toContain(`npm run recipes: there is no method gpro; near are ${near('gpro', all).join(', ')}`)
    expect(status).toBe(2)
    expect(answer([]).status).toBe(2)
  })
})

test('the table of methods has a row for each method, with five cells and its link', () => {
  const [, , ...rows] = methodsTable().split('\n')
  expect(rows.length).toBe(names.length)
  for (const [i, row] of rows.entries()) {
    expect(row.replace(/\\\|/g, '').split('|').length, row).toBe(7)
    expect(row).toContain(`| [\`${names[i]}\`](`)
    expect(row).toContain(recipeOf(names[i]!).paper.arxiv ?? recipeOf(names[i]!).paper.title.split('|')[0]!)
  }
})
