// A page of docs/operations/ for each file of public functions: their docstrings, their rows of lib/ops.ts, the comments at
// the top of their kernels, and the newest measurements.
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import { type ArraySpec, operationNames, type Signature, signatures } from '../../lib/addon/signatures.js'
import { ops } from '../../lib/ops.js'
import * as promises from '../../lib/promises.js'
import { type Docstring, docstrings, headerOf, publicNames } from './docstrings.js'
import { accuracyOf, measuredOf } from './measured.js'
import { optionCells } from './options.js'
import { root } from './programs.js'
import { inline, type Link, paragraphs, table, wrap } from './prose.js'

/** Said elsewhere: docs/troubleshooting.md has the errors. */
const elsewhere = new Set(['lib/addon/errors.ts'])

interface Page {
  /** `token_logprob` */
  readonly name: string
  readonly file: string
  readonly functions: readonly string[]
  readonly docs: ReadonlyMap<string, Docstring>
}

const pages: readonly Page[] = [...publicNames()]
  .filter(([file]) => !elsewhere.has(file))
  .map(([file, names]) => {
    const docs = docstrings(file)
    return { name: basename(file, '.ts'), file, functions: [...docs.keys()].filter((key) => names.includes(key)), docs }
  })

/** What has a page, by its name: public functions, and the two types that several pages name. */
const places = new Map<string, string>([
  ...pages.flatMap(({ name, functions, docs }) => [...functions, ...(docs.has('linearPolicyLoss.plan') ? ['linearPolicyLoss.plan'] : [])].map((one): [string, string] => [one, `${name}.md`])), // biome-ignore format: one list
  ['Objective', 'policy_loss.md#objective'],
  ['Layout', 'tree_layout.md#layout'],
])

const files = /(?<![\w/`])(?:[\w]+\/)*\w+\.(?:cuh|cu|cc|hpp|h|ts|md)\b/g

/** The outputs of a page's functions: a function of another page may have the name of one. */
const outputsOf = (page: string) =>
  (pages.find(({ name }) => name === page)?.functions ?? []).flatMap((one) => signatureOf(one)?.outputs ?? [])

/** Makes links of the names of other pages' functions, and code of the names of files. */
function linkFrom(page: string): Link {
  const own = outputsOf(page).map(({ name }) => name)
  const linked = (text: string, word: string) => {
    const place = places.get(word)
    if (place === undefined || (own.includes(word) && !place.startsWith(`${page}.md`))) return text
    return place.startsWith(`${page}.md`) && !place.includes('#') ? `\`${word}\`` : `[\`${word}\`](${place})`
  }
  return (text) =>
    text
      .split(/(`[^`]*`)/)
      .map((part, i) => {
        if (i % 2 === 1) return linked(part, part.slice(1, -1))
        const named = part
          .replace(files, '`$&`')
          .replace(/(?<![\w.`/])(?:linearPolicyLoss\.plan|[a-zA-Z]*[A-Z]\w*)(?!\w|\.\w|[`/])/g, (word) =>
            linked(word, word),
          )
        return named.replace(/arXiv:(\d{4}\.\d{4,5})/g, '[arXiv:$1](https://arxiv.org/abs/$1)')
      })
      .join('')
}

const signatureOf = (name: string): Signature | undefined => signatures[name as keyof typeof signatures]

/** "f32, bf16 or f16 [R,V]" */
function shape({ dtypes, like, spec, optional, strided }: ArraySpec): string {
  const axes = /\[.*?\]/.exec(spec)?.[0] ?? ''
  const names = [dtypes.slice(0, -1).join(', '), dtypes.at(-1)].filter((part) => part).join(' or ')
  const type = like !== undefined ? `dtype of \`${like}\`` : names || 'any'
  const wide = spec.startsWith('~') ? ', or f32' : ''
  return `${type} ${axes.replace(/,?(\w)\?/g, ' or [$&]').replace(/\[(\w) or \[,(\w)\?\]\]/, '[$1] or [$1,$2]')}${wide}${strided ? ', rows may lie apart' : ''}${optional ? '; may be absent' : ''}`
}

/** "f32[T]  what it means": what of it is a type, and the rest. */
function typed(text: string): [type: string, meaning: string] {
  const type = /^(?:(?:f32|bf16|f16|f64|i32|u8|any|or|,|\|)\s*)*\[[^\]]*\](?: or \[[^\]]*\])?/.exec(text)?.[0] ?? ''
  return [type, text.slice(type.length).trim()]
}

interface Argument {
  readonly name: string
  readonly text: string
}

/** The arguments under `inputs` or `options`; "a, b as in f" takes those of f. `notes` are the sentences beside them. */
function argumentsOf(
  docs: ReadonlyMap<string, Docstring>,
  name: string,
  group: string,
): { list: Argument[]; notes: string[] } {
  const list: Argument[] = []
  const notes: string[] = []
  for (const { name: path, text } of docs.get(name)?.params ?? []) {
    if (path.startsWith(`${group}.`)) list.push({ name: path.slice(group.length + 1), text })
    if (path !== group) continue
    const [, names, from = '', rest] = /^([\w, ]+?),? as in (\w+)(?:; (.*))?$/.exec(text) ?? []
    if (names === undefined) notes.push(text)
    else if (names === 'the Objective') notes.push('and those of the Objective')
    else {
      const wanted = names.split(/,? or |, /)
      const known = argumentsOf(documented(from).docs, from, group).list
      for (const one of wanted) list.push(known.find((other) => other.name === one) ?? missing(from, one))
    }
    if (rest !== undefined) notes.push(rest)
  }
  return { list, notes }
}

function missing(name: string, argument: string): never {
  throw new Error(`the docstring of ${name} says nothing of ${argument}`)
}

function documented(name: string): Page {
  return pages.find(({ functions }) => functions.includes(name)) ?? missing(name, 'itself')
}

/** Inputs of a row that a public function takes within another argument. */
const within = new Set(['segmentStart', 'segmentParent', 'segmentEnd', 'moments'])

const sentence = (text: string) => `${text[0]?.toUpperCase()}${text.slice(1)}.`

const isObjective = (option: string) => option in ops.policyLoss.options

function inputsPart(page: Page, name: string, link: Link): string[] {
  const { list, notes } = argumentsOf(page.docs, name, 'inputs')
  const specs = new Map(signatureOf(name)?.inputs.map((spec) => [spec.name, spec]))
  if (list.length > 0) {
    for (const input of specs.keys()) {
      if (!within.has(input) && !list.some((one) => one.name === input)) missing(name, input)
    }
  }
  const rows = list.map(({ name, text }) => {
    const [type, meaning] = typed(text)
    const spec = specs.get(name)
    return [`\`${name}\``, spec ? shape(spec) : type, inline(meaning, link)]
  })
  const others = (page.docs.get(name)?.params ?? [])
    .filter(({ name }) => !/^(inputs|options)(\.|$)/.test(name))
    .map(({ name, text }) => [`\`${name.replace(/^\w+\./, '')}\``, ...typed(text).map((part) => inline(part, link))])
  return [table(['input', 'shape', 'what it is'], [...rows, ...others]), ...notes.map((note) => wrap(inline(`${sentence(note)}`, link)))] // biome-ignore format: one list
}

function optionsPart(page: Page, name: string, link: Link): string[] {
  const { list, notes } = argumentsOf(page.docs, name, 'options')
  const specs = signatureOf(name)?.options ?? []
  const hasObjective = specs.some((spec) => spec.name === 'surrogate')
  const own = specs.filter((spec) => !hasObjective || !isObjective(spec.name))
  const rows = own.map(({ name: option, spec }) => {
    const text = list.find((one) => one.name === option)?.text ?? missing(name, option)
    return [...optionCells(option, spec), inline(text, link)]
  })
  const others = list
    .filter((one) => !specs.some((spec) => spec.name === one.name))
    .map(({ name, text }) => [`\`${name}\``, '', '', inline(text, link)])
  const objective = hasObjective
    ? [wrap(link(`${rows.length + others.length > 0 ? 'And those' : 'Those'} of the Objective.`))]
    : []
  const rest = notes.filter((note) => note !== 'and those of the Objective')
  return [table(['option', 'default', 'takes', 'what it does'], [...rows, ...others]), ...objective, ...rest.map((note) => wrap(inline(`${sentence(note)}`, link)))] // biome-ignore format: one list
}

function outputsPart(name: string, { returns }: Docstring, link: Link): string[] {
  const outputs = signatureOf(name)?.outputs.filter((spec) => new RegExp(`\\b${spec.name}\\b`).test(returns)) ?? []
  const options = signatureOf(name)?.options.map((spec) => spec.name) ?? []
  const rows = outputs.map((spec) => {
    const given = [
      spec.condition !== undefined && `where \`${spec.condition}\` is ${options.includes(spec.condition) ? 'true' : 'given'}`, // biome-ignore format: a line
      spec.asked && 'where `out` has it',
      spec.over !== undefined && `may be written over \`${spec.over}\``,
    ]
    return [`\`${spec.name}\``, shape({ ...spec, optional: false, strided: false }), given.filter((part) => part).join('; ')] // biome-ignore format: one row
  })
  const said = returns === '' ? [] : [wrap(inline(`Returns ${returns}.`.replace(/\.\.$/, '.'), link))]
  return [table(['output', 'shape', 'when'], rows), ...said]
}

const accuracy = /^Accuracy: /

/** One function: what its docstring and its row say. */
function functionPart(page: Page, name: string, level: string, link: Link): string[] {
  const doc = page.docs.get(name) ?? missing(name, 'itself')
  const said = paragraphs(doc.prose, link)
  const section = (title: string, content: readonly string[]) => {
    const full = content.filter((part) => part !== '')
    return full.length > 0 ? [`${level} ${title}`, ...full] : []
  }
  const errors = doc.throws === '' ? [] : [wrap(inline(`${sentence(doc.throws)}`, link))]
  const exact = said.filter((part) => accuracy.test(part)).map((part) => part.replace(accuracy, '').replace(/\n/g, ' '))
  if (signatureOf(name) && exact.length === 0) missing(name, 'its accuracy: a paragraph that begins with "Accuracy: "')
  return [
    ...said.filter((part) => !accuracy.test(part)),
    ...section('Inputs', inputsPart(page, name, link)),
    ...section('Options', optionsPart(page, name, link)),
    ...section('Outputs', outputsPart(name, doc, link)),
    ...section('Errors', errors),
    ...section(
      'Accuracy',
      exact.map((part) => wrap(`${part[0]?.toUpperCase()}${part.slice(1)}`)),
    ),
    ...(doc.example === '' ? [] : [`${level} Example`, `\`\`\`js\n${doc.example}\n\`\`\``]),
  ]
}

/** Members that have docstrings of their own: of an object as `cuda`, or of a type as `Objective`. */
function membersPart({ docs }: Page, name: string, link: Link): string[] {
  const members = [...docs].filter(([key]) => key.startsWith(`${name}.`))
  return members.flatMap(([key, doc]) => {
    const [first = '', ...rest] = paragraphs(doc.prose, link)
    const option = ops.policyLoss.options[key.slice(name.length + 1) as 'kl'] as string | undefined
    const [, fallback, choices] = name === 'Objective' && option ? optionCells(key, option) : []
    const range = fallback === undefined ? '' : ` (default ${fallback}; ${choices})`
    const params = doc.params.map(({ name, text }) => `- \`${name}\`: ${inline(text, link)}`)
    const more = [doc.returns && `Returns ${doc.returns}.`, doc.throws && `Throws ${doc.throws}.`].filter(
      (part) => part,
    )
    return [
      wrap(
        `**\`${name === 'Objective' || name === 'Layout' || name === 'LossStats' ? key.slice(name.length + 1) : key}\`**${range}: ${first}`.replace(
          /\n/g,
          ' ',
        ),
      ),
      ...rest,
      ...(params.length > 0 ? [params.join('\n')] : []),
      ...more.map((part) => wrap(inline(part as string, link))),
    ]
  })
}

/** The files of a layer that belong to a page: `policy_loss.cc`, `prefix_attention_backward.cu`. */
function layer(folder: string, { name, functions }: Page, extension: string): string[] {
  const snake = (word: string) => word.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`)
  const own = operationNames.filter((row) => functions.includes(row)).map(snake)
  const wanted = new Set([name, ...own, ...(functions.includes('linearPolicyLoss') ? ['linear_policy_loss_plan'] : [])])
  return [...wanted].map((one) => `${folder}/${one}.${extension}`).filter((path) => existsSync(join(root, path)))
}

/** What a C++ file includes of ours, and the .cc beside each header, without the machinery of every operation. */
function reached(path: string, seen = new Set<string>()): Set<string> {
  const full = join(root, 'native', path)
  if (seen.has(path) || /^(interface|node|parallel|vector)\//.test(path) || !existsSync(full)) return seen
  seen.add(path)
  for (const [, included] of readFileSync(full, 'utf8').matchAll(/#include "([^"]+)"/g)) {
    reached(included as string, seen)
    reached((included as string).replace(/\.h$/, '.cc'), seen)
  }
  return seen
}

const vectorised = (path: string) =>
  [...reached(path.replace(/^native\//, ''))].some((one) =>
    readFileSync(join(root, 'native', one), 'utf8').includes('vector_kernels()'),
  )

/** The names of constants, with their values where the file has them. */
function withConstants(path: string, lines: readonly string[]): string[] {
  const source = readFileSync(join(root, path), 'utf8')
  const seen = new Set<string>()
  return lines.map((line) =>
    line.replace(/\bk[A-Z]\w*\b/g, (name) => {
      const value = new RegExp(`\\b${name} = ([\\d']+)\\b[,;]`).exec(source)?.[1]
      if (value === undefined || seen.has(name)) return name
      seen.add(name)
      return `${name} (${value.replaceAll("'", '')})`
    }),
  )
}

function kernelsPart(page: Page, link: Link): string[] {
  const kernels = [...layer('native', page, 'cc'), ...layer('cuda', page, 'cu')]
  const parts = kernels.flatMap((path) => {
    const where = path.startsWith('cuda/') ? 'On a GPU' : 'On the CPU'
    const header = paragraphs(withConstants(path, headerOf(path)), link)
    const sets = vectorised(path)
      ? 'Its inner loops are compiled for AVX-512, for AVX2 and for every processor, and chosen at run time: [`cpu.instructionSet`](cpu.md).'
      : 'It is plain C++, the same for every instruction set.'
    return [
      `**${where}**, [${path}](../../${path})${header.length > 0 ? ':' : '.'}`,
      ...header,
      ...(where === 'On the CPU' ? [wrap(sets)] : []),
    ]
  })
  return parts.length > 0 ? ['## Kernels', ...parts] : []
}

function filesPart(page: Page): string[] {
  const code = (path: string) => `\`${path}\``
  const linked = (path: string) => `[${path}](../../${path})`
  const tests = readdirSync(join(root, 'test')).filter((name) => new RegExp(`^${page.name}(_(?!from_logits)\\w+)?\\.test\\.ts$`).test(name)) // biome-ignore format: one text
  const bench = layer('bench', page, 'ts')
  return [
    '## Files',
    wrap(
      [
        code(page.file),
        ...[...layer('native', page, 'cc'), ...layer('cuda', page, 'cu')].map(linked),
        ...tests.map((name) => code(`test/${name}`)),
        ...bench.map(code),
      ].join(', '),
    ),
  ]
}

const types: Readonly<Record<string, string>> = {
  policy_loss: 'Objective',
  tree_layout: 'Layout',
  loss_stats: 'LossStats',
  importance_stats: 'ImportanceStats',
}

/** The text of a page, but for what its programs print. */
function pageOf(page: Page): string {
  const { name, functions, docs } = page
  const link = linkFrom(name)
  const shown = [...functions, ...[...docs.keys()].filter((key) => key === 'linearPolicyLoss.plan')]
  const single = shown.length === 1
  const type = types[name]
  const owner = type === 'Objective' ? { ...page, docs: docstrings('lib/objective.ts') } : page
  const cited = [...new Set(shown.flatMap((one) => docs.get(one)?.see.split('; ') ?? []))].filter((see) => see !== '')
  const papers = cited.filter((see) => !cited.some((other) => other !== see && see.startsWith(other)))
  const bench = layer('bench', page, 'ts')[0] ?? (name === 'prefix_layout' ? 'bench/tree_layout.ts' : undefined)
  const measured = bench && measuredOf(basename(bench, '.ts'), functions)
  const [conditions, errors] = accuracyOf(functions) ?? []
  const parts = [
    `<!-- Written by npm run docs, from ${page.file} and what lies beside it. -->`,
    `# ${shown.filter((one) => !one.includes('.')).join(', ')}`,
    wrap(
      `Of \`grpo-kernels\`${functions.some((one) => one in promises) ? ', and as promises of `grpo-kernels/promises`' : ''}.`,
    ),
    ...shown.flatMap((one) => [
      ...(single ? [] : [`## ${one}`]),
      ...functionPart(page, one, single ? '##' : '###', link),
      ...(one === 'linearPolicyLoss' ? [] : membersPart(page, one, link)),
    ]),
    ...(type === undefined
      ? []
      : [`## ${type}`, ...paragraphs(owner.docs.get(type)?.prose ?? [], link), ...membersPart(owner, type, link)]),
    ...kernelsPart(page, link),
    ...(conditions === undefined || errors === undefined ? [] : ['## Measured errors', wrap(conditions), errors]),
    ...(measured === undefined ? [] : ['## Measured', measured]),
    ...(papers.length > 0 ? ['## Papers', wrap(inline(`${papers.join('; ')}.`, link))] : []),
    ...filesPart(page),
  ]
  return `${parts.join('\n\n')}\n`
}

export const operationPages = (): Map<string, string> =>
  new Map(pages.map((page) => [`docs/operations/${page.name}.md`, pageOf(page)]))

/** Rows of the table that no public function has the name of, by what takes their place. */
const instead: Readonly<Record<string, string>> = { linearPolicyLossPlan: 'linearPolicyLoss.plan', convert: 'toBf16' }

/** A name as a link to its page, from docs/operations/. */
export function linkOf(name: string): string {
  const place = places.get(name) ?? places.get(instead[name] ?? '')
  if (place === undefined) throw new Error(`${name} has no page`)
  return `[\`${name}\`](${place})`
}

/** The public functions that have no row of their own, with the first sentence about them. */
export const others = pages.flatMap(({ name: page, functions, docs }) =>
  functions
    .filter((name) => signatureOf(name) === undefined)
    .map((name) => {
      const [first = ''] = paragraphs(docs.get(name)?.prose ?? [], linkFrom(page))
      return { name, what: (/^.*?[.:](?= |$)/.exec(first.replace(/\n/g, ' '))?.[0] ?? first).replace(/:$/, '.') }
    }),
)
