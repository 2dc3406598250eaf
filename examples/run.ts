// npm run example                          trains by GRPO: examples/arithmetic/main.ts
// npm run example -- recipes               trains by several methods: examples/recipes/main.ts
import { existsSync } from 'node:fs'
import { join } from 'node:path'

const [name = 'arithmetic'] = process.argv.slice(2).filter((word, i) => i === 0 && !word.startsWith('-'))
if (name === process.argv[2]) process.argv.splice(2, 1)
const path = join(__dirname, name, 'main.ts')
if (existsSync(path)) import(path)
else {
  console.error(`There is no example ${name}; there are arithmetic and recipes.`)
  process.exitCode = 1
}
