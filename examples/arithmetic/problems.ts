// The task: "47+38=" is to be answered with "85.". A token is one character; the full stop ends a response.
import type { Random } from './random.js'

const characters = '0123456789+=.'
export const vocabulary = characters.length
export const endToken = characters.indexOf('.')
/** "99+99=" and "198.": the longest prompt and the longest correct response, in tokens. */
export const maxPrompt = 6
export const maxResponse = 4

export interface Problem {
  readonly left: number
  readonly right: number
  readonly prompt: Int32Array
}

export const encode = (text: string): Int32Array => Int32Array.from(text, (character) => characters.indexOf(character))
export const decode = (tokens: ArrayLike<number>): string => Array.from(tokens, (token) => characters[token]).join('')

/** Every eleventh pair stays out of training, to measure the reward on problems that the policy never saw. */
const isHeldOut = (left: number, right: number): boolean => (31 * left + 17 * right) % 11 === 0

/** Problems with two addends from 10 to 99, from the training pairs or from the held-out ones. */
export function drawProblems(count: number, part: 'training' | 'held-out', random: Random): Problem[] {
  const problems: Problem[] = []
  const addend = () => 10 + Math.floor(90 * random())
  while (problems.length < count) {
    const [left, right] = [addend(), addend()]
    if (isHeldOut(left, right) === (part === 'held-out')) {
      problems.push({ left, right, prompt: encode(`${left}+${right}=`) })
    }
  }
  return problems
}

/** What the supervised warm-up imitates. */
export const solution = ({ left, right }: Problem): Int32Array => encode(`${left + right}.`)

/** The verifier: reads the digits before the full stop as a number. Reward 1 for the right sum, 0 for anything else. */
export function verify({ left, right }: Problem, response: ArrayLike<number>): number {
  const answer = /^(\d+)\.$/.exec(decode(response))
  return answer !== null && Number(answer[1]) === left + right ? 1 : 0
}
