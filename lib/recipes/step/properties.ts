// Objects with properties that are computed when they are looked at: a spread would compute them.

/** The object with more properties. */
export const withProperties = <A extends object, B extends object>(x: A, more: B): A & B =>
  Object.defineProperties({}, { ...Object.getOwnPropertyDescriptors(x), ...Object.getOwnPropertyDescriptors(more) }) as A & B // biome-ignore format: one rule

/** The object without some of its properties. */
export function without<A extends object, Name extends keyof A>(x: A, ...names: Name[]): Omit<A, Name> {
  const properties = Object.getOwnPropertyDescriptors(x) as PropertyDescriptorMap
  for (const name of names) delete properties[name]
  return Object.defineProperties({}, properties) as Omit<A, Name>
}
