// npm run example                          trains by GRPO: examples/arithmetic/main.ts
// npm run example -- recipes               trains by several methods: examples/recipes/main.ts
import { existsSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import process from 'node:process'
import { readCommand } from '../bench/command.mjs'

const names = readdirSync(__dirname).filter((name) => existsSync(join(__dirname, name, 'main.ts')))

async function main(): Promise<void> {
  const [first, ...words] = process.argv.slice(2)
  const named = first !== undefined && !first.startsWith('-')
  if (named && !names.includes(first)) {
    readCommand({ run: 'npm run example', about: '', options: {}, names: { what: 'example', known: names } }, [first])
  }
  const folder = join(__dirname, named ? first : 'arithmetic')
  // The options come first: TensorFlow.js, which main.ts imports, takes a while.
  const { command } = await import(join(folder, 'options.ts'))
  const { values } = readCommand(command, named ? words : process.argv.slice(2))
  const { run } = await import(join(folder, 'main.ts'))
  await run(values)
}

// Caught here, because TensorFlow.js's WASM module prints its whole source with an error that nobody catches.
main().catch((error) => {
  console.error(error)
  process.exitCode = 1
})
