/** Names that a command knows, and how a word is brought into their spelling. */
export interface Names {
  /** What they are names of, in one word. */
  readonly what: string
  readonly known: readonly string[]
  spelled?(word: string): string
}

export interface Option {
  /** A number is above 0. */
  readonly type: 'flag' | 'number' | 'text'
  readonly help: string
  readonly default?: string | number
  readonly names?: Names
}

export interface Command {
  /** How it is called: npm run bench. */
  readonly run: string
  readonly about: string
  readonly options: Readonly<Record<string, Option>>
  /** What it takes beside options: none if absent. */
  readonly names?: Names & { readonly most?: 1 }
}

type Kind<O extends Option> = { flag: boolean; number: number; text: string }[O['type']]
export type Values<C extends Command> = {
  [Name in keyof C['options']]: C['options'][Name] extends { type: 'flag' } | { default: string | number }
    ? Kind<C['options'][Name]>
    : Kind<C['options'][Name]> | undefined
}

export function near(wrong: string, known: readonly string[]): string[]

export type Answer<C extends Command> =
  | { readonly values: Values<C>; readonly names: string[]; readonly help?: undefined; readonly refusal?: undefined }
  | { readonly help: string; readonly values?: undefined; readonly names?: undefined; readonly refusal?: undefined }
  | { readonly refusal: string; readonly values?: undefined; readonly names?: undefined; readonly help?: undefined }

export function parseCommand<const C extends Command>(command: C, words: readonly string[]): Answer<C>

export function readCommand<const C extends Command>(
  command: C,
  words?: readonly string[],
): { readonly values: Values<C>; readonly names: string[] }
