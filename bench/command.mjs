// How the commands bench, bench:cuda, example and recipes read their arguments. --help prints what there is and ends the
// command with status 0; what it does not know ends it with 2, a sentence, and the known names that are near. Plain
// JavaScript, because bench:cuda runs where nothing is installed; command.d.mts has the types.
import process from 'node:process'
import { parseArgs } from 'node:util'

/** How many letters have to be inserted, removed or replaced to make one word of the other. */
function distance(a, b) {
  let row = Array.from({ length: b.length + 1 }, (_, j) => j)
  for (let i = 0; i < a.length; i++) {
    const next = [i + 1]
    for (let j = 0; j < b.length; j++) next.push(Math.min(row[j + 1] + 1, next[j] + 1, row[j] + Number(a[i] !== b[j])))
    row = next
  }
  return row[b.length]
}

/** Up to five of the known names that a wrong one may have meant, the nearest first. */
export function near(wrong, known) {
  const lettersOf = (name) => name.toLowerCase().replace(/[^a-z0-9]/g, '')
  const sorted = (letters) => [...letters].sort().join()
  const meant = lettersOf(wrong)
  return known
    .map((name) => {
      const letters = lettersOf(name)
      // Part of a name, or its letters in another order.
      const alike = sorted(meant) === sorted(letters) || (meant.length > 1 && letters.includes(meant))
      return { name, far: alike ? 0.5 : distance(meant, letters), most: Math.min(meant.length, letters.length) / 3 }
    })
    .filter(({ far, most }) => far <= Math.max(2, most))
    .sort((a, b) => a.far - b.far)
    .slice(0, 5)
    .map(({ name }) => name)
}

function unknown(what, wrong, known) {
  const names = near(wrong, known)
  if (names.length > 0)
    return `there is no ${what} ${wrong}; near ${names.length > 1 ? 'are' : 'is'} ${names.join(', ')}`
  return `there is no ${what} ${wrong}; there ${known.length > 1 ? 'are' : 'is'} ${known.join(', ')}`
}

/** A name as the list has it; a sentence where it is not there. */
function find(word, { what, known, spelled = (name) => name }) {
  const name = spelled(word)
  if (!known.includes(name)) throw new SyntaxError(unknown(what, word, known))
  return name
}

function optionValue({ type, names }, { name, value, inlineValue }) {
  if (type === 'flag') {
    if (value !== undefined) throw new SyntaxError(`--${name} takes no value, got ${JSON.stringify(value)}`)
    return true
  }
  if (value === undefined || (!inlineValue && value.startsWith('-')))
    throw new SyntaxError(`--${name} needs a value, as --${name}=VALUE`)
  if (type === 'number' && !(Number(value) > 0))
    throw new SyntaxError(`--${name} is ${JSON.stringify(value)}, expected a number above 0`)
  if (names !== undefined) return find(value, names)
  return type === 'number' ? Number(value) : value
}

/** What --help prints. */
function usage({ run, about, options, names }) {
  const argument = names && (names.most === 1 ? ` [${names.what}]` : ` [${names.what} ...]`)
  const lines = Object.entries({ ...options, help: { type: 'flag', help: 'prints this' } }).map(([name, option]) => {
    const value = option.names ? ` ${option.names.what}` : { flag: '', number: ' number', text: ' text' }[option.type]
    const fallback = option.default === undefined ? '' : ` (${option.default})`
    return [`${name === 'help' ? '-h, ' : ''}--${name}${value}`, `${option.help}${fallback}`]
  })
  const width = Math.max(...lines.map(([left]) => left.length))
  const text = [`${run} --${argument ?? ''} [options]`, '', about, '']
  text.push(...lines.map(([left, right]) => `  ${left.padEnd(width)}  ${right}`))
  for (const list of [names, ...Object.values(options).map((option) => option.names)]) {
    if (list !== undefined) text.push('', `${list.what}:`, ...wrap(list.known))
  }
  return text.join('\n')
}

function wrap(words, width = 100) {
  const lines = ['']
  for (const word of words) {
    const line = lines.at(-1)
    if (line !== '' && line.length + word.length + 2 > width) lines.push(word)
    else lines[lines.length - 1] = line === '' ? word : `${line}, ${word}`
  }
  return lines.map((line) => `  ${line}`)
}

/** The values of the options and the names given; or the text of the help; or why the words are refused. */
export function parseCommand(command, words) {
  const { options, names } = command
  const kinds = Object.entries(options).map(([name, { type }]) => [
    name,
    { type: type === 'flag' ? 'boolean' : 'string' },
  ])
  const { tokens } = parseArgs({
    args: words,
    options: { ...Object.fromEntries(kinds), help: { type: 'boolean', short: 'h' } },
    strict: false,
    allowPositionals: true,
    tokens: true,
  })
  if (tokens.some(({ kind, name }) => kind === 'option' && name === 'help')) return { help: usage(command) }
  const defaults = Object.entries(options).map(([name, option]) => [
    name,
    option.type === 'flag' ? false : option.default,
  ])
  const answer = { values: Object.fromEntries(defaults), names: [] }
  try {
    for (const token of tokens) {
      if (token.kind === 'positional') {
        if (names === undefined) throw new SyntaxError(`it takes options alone, got ${JSON.stringify(token.value)}`)
        const name = find(token.value, names)
        if (answer.names.length === names.most)
          throw new SyntaxError(`it takes one ${names.what}, got ${words.join(' ')}`)
        answer.names.push(name)
      } else if (token.kind === 'option') {
        if (!Object.hasOwn(options, token.name)) {
          const known = [...Object.keys(options), 'help'].map((name) => `--${name}`)
          throw new SyntaxError(unknown('option', token.rawName, known))
        }
        answer.values[token.name] = optionValue(options[token.name], token)
      }
    }
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error
    return { refusal: `${command.run}: ${error.message}. ${command.run} -- --help shows all.` }
  }
  return answer
}

/** The same of this process, which ends here where there is nothing to run. */
export function readCommand(command, words = process.argv.slice(2)) {
  const answer = parseCommand(command, words)
  if (answer.help !== undefined) {
    console.log(answer.help)
    process.exit(0)
  }
  if (answer.refusal !== undefined) {
    console.error(answer.refusal)
    process.exit(2)
  }
  return answer
}
