// The table that bench/cuda.mjs prints.

function duration(seconds) {
  const [value, unit] = seconds >= 1 ? [seconds, 's'] : seconds >= 1e-3 ? [seconds * 1e3, 'ms'] : [seconds * 1e6, 'us']
  return `${value.toPrecision(value >= 100 ? Math.ceil(Math.log10(value + 1)) : 3)} ${unit}`
}

const percent = (share) => (share === undefined ? '' : `${Math.round(100 * share)}%`)
const head = ['', 'median', 'p10 - p90', 'against ours', 'GB/s', 'of copy', 'TFLOP/s', 'of multiply', 'error']

function columns({ name, bound, median, p10, p90, times, gigabytes, gigaflop, errors, ...row }) {
  const compared = times === null || times === 1 ? '' : `${times.toFixed(2)} x the time`
  return [
    bound ? `(${name})` : name,
    duration(median),
    `${duration(p10)} - ${duration(p90)}`,
    compared,
    gigabytes ? (gigabytes / median).toFixed(0) : '',
    percent(row.shareOfCopy),
    gigaflop ? (gigaflop / median / 1e3).toFixed(0) : '',
    percent(row.shareOfMultiply),
    errors ? Math.max(...Object.values(errors)).toExponential(1) : '',
  ]
}

export function table({ gpu, date, commit, command, copy, multiply, cases }) {
  const versions = `driver ${gpu.driver}, CUDA ${gpu.cudaOfDriver}; PyTorch ${gpu.torch}, CUDA ${gpu.cudaOfTorch}`
  const products = Object.entries(multiply).map(([dtype, { rate }]) => `${dtype} ${(rate / 1e3).toFixed(0)} TFLOP/s`)
  const text = [
    `${gpu.name}; ${versions}; Triton ${gpu.triton ?? 'absent'}`,
    `${date}, commit ${commit}: ${command}`,
    `copy: ${copy.rate.toFixed(0)} GB/s (${copy.how}); multiply: ${products.join(', ')}`,
    '',
  ]
  const blocks = cases.map(({ operation, size, dtype, rows, leftOut }) => ({
    title: `${operation}: ${size}, ${dtype}`,
    lines: rows.map(columns),
    leftOut: leftOut.map(({ name, reason }) => `  left out: ${name}: ${reason}`),
  }))
  const lines = blocks.flatMap((block) => block.lines)
  const widths = head.map((title, i) => Math.max(title.length, ...lines.map((line) => line[i].length)))
  const format = (line) =>
    `  ${line.map((cell, i) => (i === 0 ? cell.padEnd(widths[i]) : cell.padStart(widths[i]))).join('  ')}`.trimEnd()
  text.push(format(head))
  for (const block of blocks) text.push('', block.title, ...block.lines.map(format), ...block.leftOut)
  return text.join('\n')
}
