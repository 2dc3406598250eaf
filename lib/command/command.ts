#!/usr/bin/env node
// npx grpo-kernels COMMAND: what the package says of itself at a terminal. A command is a function of the words after it that
// prints and returns the exit status.
const { parseArgs } = process.getBuiltinModule('node:util')

// What a command needs is loaded when it runs: where the package cannot be loaded, that is what there is to say.
async function runCheck(words: string[]): Promise<number> {
  const flag = { type: 'boolean', default: false } as const
  const { values } = parseArgs({ args: words, options: { json: flag, quick: flag } })
  const [{ check }, { table }] = await Promise.all([import('./check.js'), import('./table.js')])
  const report = check(values.quick)
  console.log(values.json ? JSON.stringify(report, null, 1) : table(report))
  return report.passed ? 0 : 1
}

const commands: Record<string, { run(words: string[]): Promise<number>; help: string }> = {
  check: {
    run: runCheck,
    help: 'whether every operation computes here what it should, and what runs it (--json, --quick: tiny timings)',
  },
}

function usage(): string {
  const lines = Object.entries(commands).map(([name, { help }]) => `  ${name}  ${help}`)
  return ['npx grpo-kernels COMMAND', '', ...lines].join('\n')
}

async function main([name = '', ...words]: string[]): Promise<number> {
  if (['', '-h', '--help'].includes(name)) {
    console.log(usage())
    return name === '' ? 2 : 0
  }
  const command = Object.hasOwn(commands, name) ? commands[name] : undefined
  if (command === undefined) {
    console.error(`grpo-kernels: there is no command ${name}\n\n${usage()}`)
    return 2
  }
  try {
    return await command.run(words)
  } catch (error) {
    console.error(`grpo-kernels ${name}: ${(error as Error).message.replace(/^grpo-kernels: /, '')}`)
    return 2
  }
}

main(process.argv.slice(2)).then((status) => {
  process.exitCode = status
})
