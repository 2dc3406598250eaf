// A page for each method in docs/methods/, and for each preset in docs/presets/, from its description.
import { join } from 'node:path'
import ts from 'typescript'
import { changes, makeOf, names, presetNames, recipeOf, snippet } from '../../examples/recipes/describe.js'
import { exampleBatch } from '../../examples/recipes/example_batch.js'
import { needsLines } from '../../examples/recipes/needs.js'
import { type AnyRecipe, prepareStep } from '../../lib/recipes/index.js'
import { docstringOf, sourceOf } from './docstrings.js'
import { optionCells } from './options.js'
import { block, inline, paragraphs, table, wrap } from './prose.js'

const snake = (name: string) => name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`)

/** The files of methods and presets, by the names that index.ts imports from them. */
function filesOf(index: string): Map<string, string> {
  const found = new Map<string, string>()
  for (const statement of sourceOf(index).statements) {
    if (!ts.isImportDeclaration(statement)) continue
    const from = (statement.moduleSpecifier as ts.StringLiteral).text.replace(/\.js$/, '.ts')
    const { namedBindings } = statement.importClause ?? {}
    if (namedBindings === undefined || !ts.isNamedImports(namedBindings)) continue
    for (const { name } of namedBindings.elements) found.set(name.text, join(index, '..', from))
  }
  return found
}

const files = new Map([...filesOf('lib/recipes/index.ts'), ...filesOf('lib/recipes/presets/index.ts')])

/** What the docstrings of a method's file say of the decisions in its `sample`, by their names. */
function decisions(file: string): Map<string, string> {
  const said = new Map<string, string>()
  const visit = (node: ts.Node): void => {
    const { name } = node as ts.FunctionDeclaration
    if (
      name !== undefined &&
      (ts.isFunctionLike(node) || ts.isVariableDeclaration(node) || ts.isPropertyAssignment(node))
    ) {
      const documented = ts.isVariableDeclaration(node) ? node.parent.parent : node
      const [first] = paragraphs(docstringOf(documented)?.prose ?? [])
      if (first !== undefined && !said.has(name.getText())) said.set(name.getText(), first.replace(/\n/g, ' '))
    }
    ts.forEachChild(node, visit)
  }
  visit(sourceOf(file))
  return said
}

const paperOf = ({ title, arxiv }: AnyRecipe['paper']) =>
  arxiv === undefined ? inline(title) : `[${inline(title)}](https://arxiv.org/abs/${arxiv})`

const sources: Readonly<Record<AnyRecipe['source'], string>> = {
  paper: 'the paper',
  code: 'the code that its authors, or a trainer, have published',
  'third-party': 'a third party’s description',
  inferred: 'inferred: neither paper nor code was read for it',
}

const literal = (options: object) => Object.entries(options).map(([name, value]) => `${name}: ${typeof value === 'string' ? `'${value}'` : value}`).join(', ') // biome-ignore format: one text

/** What the loss of a method is with its default options, as a sentence. */
function objectivePart(recipe: AnyRecipe): string {
  const link = '[objective](../operations/policy_loss.md#objective)'
  const { objective } = recipe
  if (objective === null) return 'There is no loss: the method changes no parameters.'
  if (objective === undefined) return `The default ${link}: PPO’s clip by token, averaged over tokens.`
  if (typeof objective === 'object') return `The ${link} \`{ ${literal(objective)} }\`.`
  const own = exampleLoss(recipe)
  if (own === undefined) return 'A loss of its own, by the equation above: options of an objective do not apply to it.'
  return `An ${link} that is chosen at each step; for the program below it is \`{ ${literal(own)} }\`.`
}

/** The objective that the method chooses for its example; undefined if it has a loss of its own. */
function exampleLoss(recipe: AnyRecipe): object | undefined {
  let chosen: object | undefined
  const { objective } = recipe
  const watched = {
    ...recipe,
    objective: (c: never) => (chosen = (objective as (c: never) => object)(c)),
  } as unknown as AnyRecipe
  const batch = exampleBatch(recipe)
  const { logp, x, mean, std, oldMean, refMean } = batch
  prepareStep(watched, batch).loss({ logp, x, mean, std, oldMean, refMean } as never)
  return chosen === undefined || 'gradLogp' in chosen ? undefined : chosen
}

function samplePart(name: string, { sample }: AnyRecipe): string[] {
  if (sample === undefined) return []
  const said = decisions(files.get(name) as string)
  const lines = Object.keys(sample).map((one) => {
    const what = said.get(one) ?? ''
    return wrap(`- \`sample.${one}\`${what && `: ${what}`}`, '  ')
  })
  const next =
    sample.next === undefined ? '' : '; `sample.next` is called at the end of a step, which returns its result'
  return ['## What to sample', `Functions of data, for the trainer to call${next}.`, lines.join('\n')]
}

function columnsPart(name: string, { description }: AnyRecipe): string[] {
  const own = Object.entries(description.columns ?? {}).map(([column, text]) => {
    const [, kind = '', maybe, meaning = ''] = /^(\w+(?:\[[^\]]*\])?)(\?)? (.*)$/.exec(text) ?? []
    return [`\`${column}\``, kind, maybe === undefined ? 'yes' : 'no', inline(meaning)]
  })
  const common = needsLines(makeOf(name))
    .split('\n')
    .map((line) => line.trim())
    .filter((line) => line !== 'there is no loss')
    .map((line) => wrap(`- ${inline(line)}`, '  '))
  return [
    '## Columns',
    ...(own.length > 0 ? ['Of its own:', table(['column', 'shape', 'needed', 'what it is'], own)] : []),
    wrap(
      'Of [those of every method](../methods_guide.md#columns), by running its example without each, and with each option changed alone:',
    ),
    common.join('\n'),
  ]
}

/** The text of a page, but for what its program prints. */
function pageOf(name: string): string {
  const recipe = recipeOf(name)
  const { description, paper, source, unknown, state } = recipe
  const isPreset = presetNames.includes(name)
  const from = isPreset ? 'presets' : 'recipes'
  const filled = changes(recipe)
  const options = Object.entries(description.options ?? {}).map(([option, [spec, meaning]]) => [...optionCells(option, spec), inline(meaning)]) // biome-ignore format: one text
  const file = files.get(name) as string
  const parts = [
    `<!-- Written by npm run docs, from ${file}. -->`,
    `# ${name}`,
    wrap(`${paperOf(paper)}. In \`${from}\` of \`grpo-kernels/recipes\`.`),
    block(description.equation),
    wrap(
      `It fills these points of [a step](../methods_guide.md): ${filled.join(', ')}. What it leaves out is the default of the operations.`,
    ),
    ...(options.length > 0 ? ['## Options', table(['option', 'default', 'takes', 'what it does'], options)] : []),
    ...columnsPart(name, recipe),
    '## Loss',
    wrap(objectivePart(recipe)),
    ...(state === undefined
      ? []
      : [
          '## State',
          wrap(
            `It remembers from step to step, in a state of version ${state.version}; at the beginning \`${JSON.stringify(state.initial())}\`.`,
          ),
        ]),
    ...samplePart(name, recipe),
    '## A program',
    `\`\`\`js\n${snippet(name)}\`\`\``,
    '## Source',
    wrap(
      `Read in ${sources[source]}.${unknown === undefined ? '' : ` Left open: ${inline(unknown)}`}`.replace(
        'Read in inferred',
        'Inferred',
      ),
    ),
    wrap(`File: \`${file}\`. The same in a terminal: \`npm run recipes -- ${name}\`.`),
  ]
  return `${parts.join('\n\n')}\n`
}

export const placeOfMethod = (name: string): string => `${snake(name)}.md`

export const methodPages = (): Map<string, string> =>
  new Map([
    ...names.map((name): [string, string] => [`docs/methods/${placeOfMethod(name)}`, pageOf(name)]),
    ...presetNames.map((name): [string, string] => [`docs/presets/${placeOfMethod(name)}`, pageOf(name)]),
  ])
