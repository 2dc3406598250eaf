// Options as rows of a table, from the specs of lib/ops.ts and of the methods, which are in one language.
import { type OptionSpec, parseOption } from '../../lib/addon/signatures.js'

const quoted = (x: unknown) => `\`${typeof x === 'string' ? `'${x}'` : String(x)}\``

const signs: Readonly<Record<string, string>> = { '>=': 'at least', '>': 'above', '<=': 'at most', '<': 'below' }

/** "a number, at least 0", "'mean', 'none' or null" */
function takes({ kind, choices, nullable }: OptionSpec, spec: string): string {
  const orNull = nullable ? '; or `null`' : ''
  if (kind === 'enum') return choices.map(quoted).join(', ') + orNull
  if (kind === 'boolean') return `a boolean${orNull}`
  const range = spec
    .replace(/^\w+\?? ?(= \S+)? ?/, '')
    .replace(/ ?axis \w$/, '')
    .replace(/ ?(f32|inverse)\b/g, '')
  const between = /^(\S+)\.\.(\S+)$/.exec(range)
  const words = between
    ? `, ${between[1]} to ${between[2]}`
    : [...range.matchAll(/(>=|>|<=|<) (\S+)/g)].map(([, sign = '', bound]) => `, ${signs[sign]} ${bound}`).join('')
  return `a ${kind === 'integer' ? 'whole number' : 'number'}${words}${orNull}`
}

/** Name, default and what it takes. */
export function optionCells(name: string, spec: string): string[] {
  const option = parseOption(name, spec)
  return [
    `\`${name}\``,
    option.fallback === undefined ? 'none: it is needed' : quoted(option.fallback),
    takes(option, spec),
  ]
}
