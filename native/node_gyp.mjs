#!/usr/bin/env node
// node-gyp as prebuildify calls it: `rebuild` compiles only what is out of date, with the headers that `npm run
// build:native` takes.
import { spawnSync } from 'node:child_process'
import { createRequire } from 'node:module'
import { availableParallelism } from 'node:os'
import { dirname, join } from 'node:path'
import process from 'node:process'

const nodeGyp = join(dirname(createRequire(import.meta.url).resolve('node-gyp/package.json')), 'bin/node-gyp.js')
const given = process.argv
  .slice(2)
  .filter((word) => !word.startsWith('--devdir='))
  .flatMap((word) => (word === 'rebuild' ? ['configure', 'build'] : [word]))
const words = [...given, '--silent', '-j', String(availableParallelism())]
process.exit(spawnSync(process.execPath, [nodeGyp, ...words], { stdio: 'inherit' }).status ?? 1)
