#!/usr/bin/env node
// npx grpo-kernels COMMAND: what the package says of itself at a terminal. A command is a function of the words after it that
// prints and returns the exit status.
import { check } from './check.js'
import { table } from './table.js'

const { parseArgs } = process.getBuiltinModule('node:util')

function runCheck(words: string[]): number {
  const flag = { type: 'boolean', default: false } as const
  const { values } = parseArgs({ args: words, options: { json: flag, quick: flag } })
  const report = check(values.quick)
  console.log(values.json ? JSON.stringify(report, null, 1) : table(report))
  return report.passed ? 0 : 1
}

const commands: Record<string, { run(words: string[]): number; help: string }> = {
  check: {
    run: runCheck,
    help: 'whether every operation computes here what it should, and what runs it (--json, --quick: tiny timings)',
  },
}

function usage(): string {
  const lines = Object.entries(commands).map(([name, { help }]) => `  ${name}  ${help}`)
  return ['npx grpo-kernels COMMAND', '', ...lines].join('\n')
}

function main([name = '', ...words]: string[]): number {
  if (['', '-h', '--help'].includes(name)) {
    console.log(usage())
    return name === '' ? 2 : 0
  }
  const command = commands[name]
  if (command === undefined) {
    console.error(`grpo-kernels: there is no command ${name}\n\n${usage()}`)
    return 2
  }
  try {
    return command.run(words)
  } catch (error) {
    console.error(`grpo-kernels ${name}: ${(error as Error).message}`)
    return 2
  }
}

process.exitCode = main(process.argv.slice(2))
