// `npm test -- NAME` runs the files of one operation or method, and of the sweeps over all of them its part alone:
// test/run/run.ts names them in GRPO_TEST_ONLY.
const wanted = process.env.GRPO_TEST_ONLY?.split(',')

/** The names of a sweep that this run is about: all of them, or those whose file was asked for. */
export const only = <Name extends string>(
  names: readonly Name[],
  fileOf: (name: Name) => string = (name) => name,
): Name[] => names.filter((name) => wanted === undefined || wanted.includes(fileOf(name)))
