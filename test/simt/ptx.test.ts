// The inline PTX: each function of cuda/launch/ptx.cuh, the instruction that nvcc has to write for it in the self-test
// (cuda/launch/self_test), registers written as %, and the words that the self-test finds in the registers. That the
// instruction does what the interpreter takes it for, only a GPU can show: npm run test:cuda there.
import { spawnSync } from 'node:child_process'
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, describe, expect, it } from 'vitest'
import { checkGpu, differences, keepGolden, programs, readGolden, registers } from './registers.js'

/** What older GPUs have too. */
const everywhere: [string, string][] = [
  ['to_float', 'cvt.f32.f16 %, %;'],
  ['bf16_bits', 'cvt.rn.bf16.f32 %, %;'],
  ['f16_bits', 'cvt.rn.f16.f32 %, %;'],
  ['pack2', 'cvt.rn.bf16x2.f32 %, %, %;'],
  ['pack2', 'cvt.rn.f16x2.f32 %, %, %;'],
  ['cp_async16', 'cp.async.cg.shared.global [%], [%], 16, %;'],
  ['cp_async4', 'cp.async.ca.shared.global [%], [%], 4, %;'],
  ['cp_async_commit', 'cp.async.commit_group;'],
  ['cp_async_wait', 'cp.async.wait_group 1;'],
  ['cp_async_wait', 'cp.async.wait_group 0;'],
  ['ldmatrix_x4', 'ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%, %, %, %}, [%];'],
  ['ldmatrix_x4_trans', 'ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%, %, %, %}, [%];'],
  [
    'mma_16x8x16',
    'mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%, %, %, %}, {%, %, %, %}, {%, %}, {%, %, %, %};',
  ],
  [
    'mma_16x8x16',
    'mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%, %, %, %}, {%, %, %, %}, {%, %}, {%, %, %, %};',
  ],
  ['named_barrier', 'barrier.sync %, %;'],
  ['acquire_load', 'ld.acquire.gpu.global.u32 %, [%];'],
  ['release_add', 'atom.add.release.gpu.global.u32 %, [%], %;'],
  ['acquire_release_add', 'atom.add.acq_rel.gpu.global.u32 %, [%], %;'],
  ['exp2_approx', 'ex2.approx.ftz.f32 %, %;'],
  ['rcp_approx', 'rcp.approx.ftz.f32 %, %;'],
  ['load_stream', 'ld.global.cs.u16 %, [%];'],
  ['load_stream', 'ld.global.cs.u32 %, [%];'],
  ['load_stream', 'ld.global.cs.u64 %, [%];'],
  ['load_stream', 'ld.global.cs.v4.u32 {%, %, %, %}, [%];'],
  ['store_stream', 'st.global.cs.u16 [%], %;'],
  ['store_stream', 'st.global.cs.u32 [%], %;'],
  ['store_stream', 'st.global.cs.u64 [%], %;'],
  ['store_stream', 'st.global.cs.v4.u32 [%], {%, %, %, %};'],
]

const sm90: [string, string][] = [
  ['mbarrier_init', 'mbarrier.init.shared::cta.b64 [%], %;'],
  ['mbarrier_init_fence', 'fence.mbarrier_init.release.cluster;'],
  ['mbarrier_arrive', 'mbarrier.arrive.shared::cta.b64 _, [%];'],
  ['mbarrier_expect', 'mbarrier.arrive.expect_tx.shared::cta.b64 _, [%], %;'],
  ['mbarrier_wait', 'mbarrier.try_wait.parity.shared::cta.b64 done, [%], %; @!done bra again;'],
  ['mbarrier_wait_cluster', 'mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 done, [%], %; @!done bra again;'],
  ['cluster_rank', 'mov.u32 %, %cluster_ctarank;'],
  ['cluster_size', 'mov.u32 %, %cluster_nctarank;'],
  ['cluster_arrive', 'barrier.cluster.arrive.release;'],
  ['cluster_wait', 'barrier.cluster.wait.acquire;'],
  ['cluster_sync', 'barrier.cluster.arrive.release; barrier.cluster.wait.acquire;'],
  ['map_shared', 'mapa.u64 %, %, %;'],
  ['cluster_address', 'cvta.to.shared::cluster.u64 %, %;'],
  ['st_async', 'st.async.shared::cluster.mbarrier::complete_tx::bytes.b32 [%], %, [%];'],
  ['st_async', 'st.async.shared::cluster.mbarrier::complete_tx::bytes.b64 [%], %, [%];'],
  ['st_async', 'st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 [%], {%, %, %, %}, [%];'],
  ['bulk_load', 'cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%], [%], %, [%];'],
  ['bulk_store', 'cp.async.bulk.global.shared::cta.bulk_group [%], [%], %;'],
  ['bulk_commit', 'cp.async.bulk.commit_group;'],
  ['bulk_wait', 'cp.async.bulk.wait_group 0;'],
  ['bulk_wait_read', 'cp.async.bulk.wait_group.read 0;'],
  ['proxy_fence', 'fence.proxy.async.shared::cta;'],
]

const root = join(import.meta.dirname, '../..')
const selfTest = join(root, 'cuda/launch/self_test')
const nvcc = ['nvcc', '/usr/local/cuda/bin/nvcc'].find((path) => spawnSync(path, ['--version']).status === 0)
const folder = mkdtempSync(join(tmpdir(), 'ptx-'))
afterAll(() => rmSync(folder, { recursive: true }))

/** What nvcc makes of the self-test: one line, blanks and registers normalised, comments removed. */
function ptx(architecture: string): string {
  const output = join(folder, `${architecture}.ptx`)
  const folders = ['', 'cuda', 'native'].flatMap((name) => ['-I', join(root, name)])
  const source = `${selfTest}.cu`
  const args = ['-std=c++20', '-ptx', `-arch=${architecture}`, ...folders, source, '-o', output]
  const { status, stderr } = spawnSync(nvcc as string, args, { encoding: 'utf8' })
  if (status !== 0) throw new Error(stderr)
  return readFileSync(output, 'utf8')
    .replace(/\/\/.*/g, '')
    .replace(/%[a-z]+\d+/g, '%')
    .replace(/\s+/g, ' ')
}

describe.runIf(nvcc !== undefined)('the PTX of each function of ptx.cuh', () => {
  it('sm_90a', () => {
    const text = ptx('sm_90a')
    const missing = [...everywhere, ...sm90].filter(([, instruction]) => !text.includes(instruction))
    expect(missing).toEqual([])
  }, 60_000)

  it('sm_80, where what needs sm_90 traps', () => {
    const text = ptx('sm_80')
    expect(everywhere.filter(([, instruction]) => !text.includes(instruction))).toEqual([])
    expect(sm90.filter(([, instruction]) => text.includes(instruction))).toEqual([])
    expect(text).toContain('trap;')
  }, 60_000)
})

/** The functions of ptx.cuh: name, and how many instructions its bodies have. */
function functionsOf(source: string): Map<string, number> {
  const found = new Map<string, number>()
  for (const text of source.split(/^(?:GRPO_INLINE|__host__ __device__ __forceinline__) /m).slice(1)) {
    const name = /(\w+)\(/.exec(text)?.[1] as string
    found.set(name, (found.get(name) ?? 0) + (text.match(/\basm\b/g)?.length ?? 0))
  }
  return found
}

/** What the lists above and the self-test leave out. */
function uncovered(ptx: string, selfTest: string): string[] {
  const problems: string[] = []
  const called = selfTest.replace(/\/\/.*/g, '')
  for (const [name, instructions] of functionsOf(ptx)) {
    const listed = [...everywhere, ...sm90].filter(([of]) => of === name).length
    if (listed < instructions) problems.push(`${name} has ${instructions} instructions, of which ${listed} are listed`)
    if (!new RegExp(`\\b${name}(<\\w+>)?\\(`).test(called)) problems.push(`${name} is not called by the self-test`)
  }
  return problems
}

describe('every function of ptx.cuh', () => {
  const source = readFileSync(join(root, 'cuda/launch/ptx.cuh'), 'utf8')
  const sources = readdirSync(selfTest).map((name) => readFileSync(join(selfTest, name), 'utf8'))

  it('is in the lists above, with each of its instructions, and called by the self-test', () => {
    expect(functionsOf(source).size).toBeGreaterThanOrEqual(41)
    expect(uncovered(source, sources.join('\n'))).toEqual([])
  })

  it.each([
    ['GRPO_INLINE int added(int x) { return x; }\n', 'added is not called by the self-test'],
    [
      'GRPO_INLINE void cp_async4(int x) {\n  asm("bar %0;" :: "r"(x));\n}\n',
      'cp_async4 has 2 instructions, of which 1 are listed',
    ],
  ])('%s: is missed', (text, problem) => {
    expect(uncovered(source + text, sources.join('\n'))).toEqual([problem])
  })
})

describe('the words of the self-test', () => {
  const simulated = registers(programs.interpreter)

  it('are the same for every order, every time of copies and both sums of mma', () => {
    expect(Object.keys(simulated.sections).length).toBe(11)
    for (const copies of ['late', 'early', 'random'])
      for (const seed of ['1', '2', '3']) {
        const settings = { GRPO_SIMT_COPIES: copies, GRPO_SIMT_SEED: seed, GRPO_SIMT_MMA: 'truncate' }
        expect(differences(registers(programs.interpreter, settings), simulated), `${copies}, ${seed}`).toEqual([])
      }
  })

  it('are left out where they need sm_90', () => {
    const { device, sections } = registers(programs.interpreter, { GRPO_SIMT_ARCH: '80' })
    expect(device).toBe('simulated sm_80, compute capability 8.0')
    expect(Object.keys(simulated.sections).filter((name) => sections[name] === undefined)).toEqual(['bulk', 'cluster'])
  })

  const golden = readGolden()
  if (golden === undefined) {
    it.todo('the registers of a GPU: not seen on hardware yet (npm run test:cuda writes ptx.golden.json)')
  } else {
    it(`are those of ${golden.device}`, () => {
      expect(differences(simulated, golden)).toEqual([])
    })
  }

  it('are compared, and kept once a GPU has given them', () => {
    const path = join(folder, 'golden.json')
    const seen = structuredClone({ ...simulated, device: 'a GPU' })
    expect(() => keepGolden(simulated, path)).toThrow('is no GPU')
    const { bulk, ...older } = seen.sections
    expect(checkGpu({ ...seen, sections: older }, simulated, path)).toBe(0)
    expect(readGolden(path)?.sections.bulk).toBeUndefined()
    expect(checkGpu(seen, simulated, path)).toBe(0)
    expect(readGolden(path)).toEqual({ device: 'a GPU; bulk: a GPU', sections: seen.sections })
    expect(bulk?.splice(3, 1, 'ffffffff')).toHaveLength(1)
    expect(differences(seen, simulated)).toEqual([`bulk 3: ffffffff, expected ${simulated.sections.bulk?.[3]}`])
    expect(checkGpu(seen, simulated, path)).toBe(2)
    expect(readGolden(path)?.sections).toEqual(simulated.sections)
  })
})
