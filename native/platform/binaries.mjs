// What binaries are called, and where the package has them; lib/addon/platform.ts looks for them there.
import process from 'node:process'

/** The folder of this platform within prebuilds/. */
export const platform = `${process.platform}-${process.arch}`

/** The file of a shared library. */
export const libraryFile = (name) => `lib${name}.${process.platform === 'darwin' ? 'dylib' : 'so'}`
