// The commands bench, bench:cuda, example and recipes: their help, what they refuse, and that a log shows progress.
import { spawnSync } from 'node:child_process'
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import process from 'node:process'
import { describe, expect, test } from 'vitest'
import { parseCommand } from '../../bench/command.mjs'

const root = join(__dirname, '../..')
const { scripts } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'))

/** What the script of package.json does with these words; its output is no terminal. */
function run(script: string, ...words: string[]) {
  const [program, file] = scripts[script].split(' ') as [string, string]
  const node = program === 'tsx' ? ['--import', 'tsx'] : []
  const { status, stdout, stderr } = spawnSync(process.execPath, [...node, file, ...words], {
    cwd: root,
    encoding: 'utf8',
  })
  return { status, stdout, stderr }
}

/** Each command, a wrong word for it, what it says then, and something that its help names. */
const commands: [string, [string, ...string[]], string, string][] = [
  ['bench', ['bench', 'polcyLoss'], 'there is no operation polcyLoss; near is policy_loss.', '--no-peers'],
  ['bench:cuda', ['bench:cuda', '--smok'], 'there is no option --smok; near is --smoke.', 'select_tokens'],
  ['example', ['example', '--step=3'], 'there is no option --step; near are --steps, ', 'learning rate (0.0004)'],
  ['example -- recipes', ['example', 'recipes', '--recipe', 'gpro'], 'there is no method gpro; near are grpo', 'cispo'],
  ['recipes', ['recipes', 'dcop'], 'there is no method dcop; near are dcpo, ', 'trainingFreeGrpo'],
]

describe.each(commands)('npm run %s', (name, words, refusal, helped) => {
  test('--help prints what there is', () => {
    const [script, first] = words
    const { status, stdout, stderr } = run(
      script,
      ...(name.endsWith('recipes') && first === 'recipes' ? [first] : []),
      '--help',
    )
    expect(stderr).toBe('')
    expect(stdout).toMatch(new RegExp(`^npm run ${name} --.*\n\n`))
    expect(stdout).toContain(helped)
    expect(status).toBe(0)
  })

  test('refuses what it does not know', () => {
    const { status, stdout, stderr } = run(...words)
    expect(stderr).toContain(`npm run ${name}: ${refusal}`)
    expect(stderr.trim().split('\n')).toHaveLength(1)
    expect(stdout).toBe('')
    expect(status).toBe(2)
  })
})

test('npm run example refuses an example that is not there', () => {
  const { status, stderr } = run('example', 'arithmetik')
  expect(stderr).toContain('there is no example arithmetik; near is arithmetic.')
  expect(status).toBe(2)
})

test('a benchmark whose output is no terminal says on a line of its own which case runs', () => {
  const folder = mkdtempSync(join(tmpdir(), 'grpo-kernels-bench-'))
  try {
    const { status, stdout, stderr } = run('bench', 'group_by', 'moments', '--no-peers', '--out', folder)
    expect(stderr.replace(/\d+:\d\d/g, '0:00').split('\n')).toEqual([
      '[0:00] copying',
      expect.stringMatching(/^\[0:00\] 1\/2 moments, /),
      expect.stringMatching(/^\[0:00\] 2\/2 groupBy, /),
      '[0:00] multiplying, exponentiating and copying',
      '',
    ])
    expect(stdout).toMatch(/moments: .*\n +grpo-kernels/)
    expect(readdirSync(folder)).toHaveLength(2)
    expect(status).toBe(0)
  } finally {
    rmSync(folder, { recursive: true })
  }
})

describe('the words of a command', () => {
  const command = {
    run: 'npm run thing',
    about: 'Does a thing.',
    options: {
      quick: { type: 'flag', help: 'in less time' },
      rounds: { type: 'number', help: 'how many', default: 3 },
      file: { type: 'text', help: 'where to' },
    },
    names: { what: 'colour', known: ['red', 'dark_red'], spelled: (word: string) => word.replace('R', '_r') },
  } as const
  const parse = (...words: string[]) => parseCommand(command, words)

  test('defaults', () => {
    expect(parse()).toEqual({ values: { quick: false, rounds: 3, file: undefined }, names: [] })
  })
  test('values and names in any order', () => {
    expect(parse('--rounds=2e1', 'darkRed', '--quick', '--file', 'a b', 'red')).toEqual({
      values: { quick: true, rounds: 20, file: 'a b' },
      names: ['dark_red', 'red'],
    })
  })
  test('-h, wherever it stands', () => {
    expect(parse('blue', '-h').help).toBe(`npm run thing -- [colour ...] [options]

Does a thing.

  --quick          in less time
  --rounds number  how many (3)
  --file text      where to
  -h, --help       prints this

colour:
  red, dark_red`)
  })
  test.each([
    [['--quick=1'], '--quick takes no value, got "1"'],
    [['--file'], '--file needs a value, as --file=VALUE'],
    [['--file', '--quick'], '--file needs a value, as --file=VALUE'],
    [['--rounds', 'many'], '--rounds is "many", expected a number above 0'],
    [['--rounds=0'], '--rounds is "0", expected a number above 0'],
    [['-x'], 'there is no option -x; there are --quick, --rounds, --file, --help'],
    [['rde'], 'there is no colour rde; near is red'],
    [['toString'], 'there is no colour toString; there are red, dark_red'],
    [['--toString'], 'there is no option --toString; there are --quick, --rounds, --file, --help'],
    [['violet'], 'there is no colour violet; there are red, dark_red'],
  ])('%j are refused', (words, sentence) => {
    expect(parse(...words).refusal).toBe(`npm run thing: ${sentence}. npm run thing -- --help shows all.`)
  })
  test('one name at most, or none', () => {
    const one = { ...command, names: { ...command.names, most: 1 } } as const
    expect(parseCommand(one, ['red', 'darkRed']).refusal).toContain('it takes one colour, got red darkRed')
    const { names: _, ...none } = command
    expect(parseCommand(none, ['red']).refusal).toContain('it takes options alone, got "red"')
  })
})
