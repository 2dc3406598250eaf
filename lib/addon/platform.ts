// What differs between platforms in the names and places of binaries: a new platform's are added here, and how they are
// made in native/platform/.

const { join } = process.getBuiltinModule('node:path')

/** The folder of this platform within prebuilds/: linux-x64, darwin-arm64, win32-x64, ... */
export const platform = `${process.platform}-${process.arch}`

/** Written so that tools which copy what a program needs (Next.js's standalone build) see the binaries. */
export const ownPrebuilds =
  typeof __dirname === 'string' ? `${__dirname}/../../prebuilds/${process.platform}-${process.arch}/` : ''

export const prebuildsIn = (folder: string): string => join(folder, 'prebuilds', platform)

/** The version of this process's glibc; undefined where there is none. */
export function glibcVersion(): string | undefined {
  const { report } = process as { report?: { excludeNetwork?: boolean; getReport(): object } }
  if (report) report.excludeNetwork = true // it would look up names
  return (report?.getReport() as { header?: { glibcVersionRuntime?: string } })?.header?.glibcVersionRuntime
}

/** The addon's file in prebuilds/, where this process has that C library; on Linux there is one for each. */
export const addonOf = (glibc: string | undefined): string =>
  process.platform === 'linux' ? `grpo-kernels.${glibc ? 'glibc' : 'musl'}.node` : 'grpo-kernels.node'

/** The addon's files in prebuilds/, those of another C library too, which do not load. */
export const addons: readonly string[] =
  process.platform === 'linux' ? [addonOf('any'), addonOf(undefined)] : [addonOf(undefined)]

/** The library of the CUDA kernels. */
export const cudaLibraryFile = process.platform === 'win32' ? 'grpo_kernels_cuda.dll' : 'libgrpo_kernels_cuda.so'

/** Whether the installed package can compile its addon here (native/platform/compile.mjs). */
export const compiles = process.platform !== 'win32'
