// Machine code of a .cu file without a GPU: compiled by nvcc, disassembled section by section. Debian's nvdisasm refuses the
// ELF files of a newer nvcc, but reads the bytes of a section.
import { spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

/** The text sections of a 64-bit ELF file: mangled name of the kernel, and its bytes. */
function* sections(elf) {
  const at = (offset) => Number(elf.readBigUInt64LE(offset))
  const heads = Array.from({ length: elf.readUInt16LE(0x3c) }, (_, i) => at(0x28) + 64 * i)
  const bytes = (head) => elf.subarray(at(head + 24), at(head + 24) + at(head + 32))
  const names = bytes(heads[elf.readUInt16LE(0x3e)])
  for (const head of heads) {
    const start = elf.readUInt32LE(head)
    const name = names.toString('latin1', start, names.indexOf(0, start))
    if (name.startsWith('.text.')) yield { name: name.slice('.text.'.length), code: bytes(head) }
  }
}

/** The loops of a listing: instructions from the target of each backward branch to the branch. */
function loopsIn(listing) {
  const lines = listing.split('\n').flatMap((line) => {
    const found = /^\s+\/\*([0-9a-f]+)\*\/\s+(?:@!?U?P[0-9T]\s+)?([A-Z0-9_.]+)\s*(.*?);/.exec(line)
    return found === null ? [] : [{ address: Number.parseInt(found[1], 16), op: found[2], rest: found[3] }]
  })
  const place = new Map(lines.map(({ address }, i) => [address, i]))
  const loops = lines.flatMap(({ address, op, rest }, i) => {
    const target = op.startsWith('BRA') ? Number.parseInt(/0x([0-9a-f]+)/.exec(rest)?.[1] ?? '', 16) : Number.NaN
    return target <= address && place.has(target) ? [lines.slice(place.get(target), i + 1)] : []
  })
  return loops.map((loop) => ({ slots: loop.length, matrix: loop.filter(({ op }) => /^H?G?MMA/.test(op)).length }))
}

/**
 * Of each instance of a kernel the loop that does its work: the one with most matrix instructions, else the longest; the
 * shorter of two loops around the same ones, since the outer one runs seldom. Inner loops count once.
 */
export function mainLoops(nvcc, disassembler, root, file, kernel) {
  const folder = mkdtempSync(join(tmpdir(), 'grpo-kernels-plan-'))
  try {
    const cubin = join(folder, 'code.cubin')
    const words = ['-std=c++20', '-O3', '-cubin', '-gencode', 'arch=compute_90a,code=sm_90a', '-I', root]
    const folders = ['-I', join(root, 'cuda'), '-I', join(root, 'native')]
    const compiled = spawnSync(nvcc, [...words, ...folders, '-o', cubin, join(root, 'cuda', file)], {
      encoding: 'utf8',
    })
    if (compiled.status !== 0) throw new Error(`nvcc of cuda/${file}: ${compiled.stderr ?? compiled.error}`)
    const of = [...sections(readFileSync(cubin))].filter(({ name }) => name.includes(`${kernel.length}${kernel}`))
    return of.flatMap(({ code }) => {
      const path = join(folder, 'code.bin')
      writeFileSync(path, code)
      const listed = spawnSync(disassembler, ['-b', 'SM90', path], { encoding: 'utf8', maxBuffer: 2 ** 28 })
      if (listed.status !== 0) throw new Error(`${disassembler}: ${listed.stderr || listed.error}`)
      const loops = loopsIn(listed.stdout)
      const most = Math.max(...loops.map(({ matrix }) => matrix), 0)
      const candidates = loops.filter(({ matrix }) => matrix === most).map(({ slots }) => slots)
      if (candidates.length === 0) return []
      return [{ slots: most > 0 ? Math.min(...candidates) : Math.max(...candidates), matrix: most }]
    })
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}
