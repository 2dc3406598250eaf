// Sentences of errors, to the word: an error is read by someone who cannot look into the code. A program reads its code,
// operation and argument, which the sentence decides.
import { expect, test } from 'vitest'

/** By the sentence that each throws. */
export type Calls = Record<string, () => unknown>

/** The code of what is said of an argument; of other sentences several codes are right. */
const codes: [said: RegExp, code: string][] = [
  [/^is missing(?!, and so is fraction)/, 'ERR_GRPO_MISSING'],
  [/^(has dtype |holds 16-bit numbers|is a plain Uint16Array)/, 'ERR_GRPO_DTYPE'],
  [/^(has length |has shape |has \d+ (values|heads)|holds \d+ values|is empty)/, 'ERR_GRPO_SHAPE'],
  [/^is (no (option|column|input|output)\b|not 0, but|null, expected|below|at least)/, 'ERR_GRPO_OPTION'],
  [/^(belongs to|is -?\d\S*, expected (at|\d+ to|a (finite )?number|a whole))/, 'ERR_GRPO_OPTION'],
  [/^(begins with|ends with|falls:|overlaps |claims |bounds the ratio)/, 'ERR_GRPO_VALUE'],
  [/^has (count |m2 |the sum |version |-?\d\S* at \d(?!.*expected \{))/, 'ERR_GRPO_VALUE'],
]

/** A test for each call: that it throws the sentence that it stands under, with its code, operation and argument. */
export function say(calls: Calls): void {
  test.each(Object.entries(calls))('%s', (sentence, call) => {
    let error: unknown
    try {
      call()
    } catch (thrown) {
      error = thrown
    }
    expect((error as Error | undefined)?.message).toBe(sentence)
    const [, operation, rest = ''] = /^([\w.]+): ([\s\S]*)/.exec(sentence) ?? []
    const argument = rest.startsWith('takes ') ? '' : rest.split(' ', 1)[0]!
    const code =
      argument === '' ? 'ERR_GRPO_TYPE' : codes.find(([said]) => said.test(rest.slice(argument.length + 1)))?.[1]
    expect(error).toMatchObject({ operation, argument, code: code ?? expect.stringMatching(/^ERR_GRPO_/) })
  })
}
