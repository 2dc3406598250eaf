// Sentences of errors, to the word: an error is read by someone who cannot look into the code.
import { expect, test } from 'vitest'

/** By the sentence that each throws. */
export type Calls = Record<string, () => unknown>

/** A test for each call: that it throws the sentence that it stands under. */
export function say(calls: Calls): void {
  test.each(Object.entries(calls))('%s', (sentence, call) => {
    let said = 'nothing'
    try {
      call()
    } catch (error) {
      said = (error as Error).message
    }
    expect(said).toBe(sentence)
  })
}
