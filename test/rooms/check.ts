// npm run check: the order of the rooms.
import { join } from 'node:path'
import process from 'node:process'
import { violations } from './violations.js'

violations(join(__dirname, '../..')).then((found) => {
  for (const sentence of found) console.error(sentence)
  if (found.length > 0) process.exitCode = 1
  else console.log('rooms: every import goes down, none in a circle')
})
