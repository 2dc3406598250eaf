// A record of what is known of each prompt, as states hold it: a plain object, which JSON keeps. Prompts have any name,
// also 'constructor' or '__proto__': a plain read or assignment would reach Object.prototype. The number 7 and the string
// '7' are one prompt.
type Prompt = string | number | undefined

export const knownOf = <Value>(record: Readonly<Record<string, Value>>, prompt: Prompt): Value | undefined => {
  const key = String(prompt)
  return Object.hasOwn(record, key) ? record[key] : undefined
}

/** Changes the record, which is the caller's own: `{ ...record }` copies every name. */
export const remember = <Value>(record: Record<string, Value>, prompt: Prompt, value: Value): void => {
  Object.defineProperty(record, String(prompt), { value, writable: true, enumerable: true, configurable: true })
}
