// One small kernel for each group of functions of ptx.cuh: a fixed pattern of lanes in, registers out. A GPU and the
// interpreter have to give the same words; that is the one check that both mean the same by an instruction.
//
//   nvcc -std=c++20 -arch=sm_90a -DGRPO_SELF_TEST_MAIN cuda/self_test.cu -o self_test && ./self_test
//
// prints a line per word. Where an instruction may be off by a few ulp the word says whether it is no further off.
#ifdef __CUDACC__
#include <cuda_runtime.h>
#endif

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <vector>

#include "ptx.cuh"

namespace grpo::cuda {
namespace {

constexpr int kLanes = 32;

// What a kernel reads besides its lane: word i is pattern(i).
constexpr int kInputWords = 1024;
__host__ __device__ constexpr uint32_t pattern(uint32_t i) { return (i + 1) * 2654435761u; }

__device__ __forceinline__ uint32_t float_bits(float x) {
  return x != x ? 0x7fffffffu : __float_as_uint(x);  // which NaN does not matter
}

// ---- number formats -------------------------------------------------------------------------------------------------

// Ties, the largest and smallest of each format, what lies beside them, and no number.
__device__ __forceinline__ float special(uint32_t lane) {
  const uint32_t bits[kLanes] = {
      0x00000000, 0x80000000, 0x3f800000, 0xbf800000, 0x7f800000, 0xff800000, 0x7fc00000, 0x7f800001,
      0x3f808000, 0x3f818000, 0x3f808001, 0x3f801000, 0x3f803000, 0x3f801001, 0x477fe000, 0x477fefff,
      0x477ff000, 0x477fffff, 0x7f7fffff, 0x7f7f8000, 0x7f7f7fff, 0x38800000, 0x387fe000, 0x387ff000,
      0x33800000, 0x33000000, 0x33000001, 0x33c00000, 0xb3c00001, 0x00000001, 0x00008000, 0x00018000};
  return __uint_as_float(bits[lane]);
}

__global__ void convert_kernel(uint32_t* words, const uint32_t*) {  // [5][32]
  const uint32_t lane = threadIdx.x;
  const float x = special(lane), y = special((lane + 5) % kLanes);
  const bf16 b = from_float<bf16>(x);
  const f16 h = from_float<f16>(x);
  words[lane] = uint32_t{b.bits} << 16 | h.bits;
  words[32 + lane] = float_bits(to_float(b));
  words[64 + lane] = float_bits(to_float(h));
  words[96 + lane] = pack2<bf16>(x, y);
  words[128 + lane] = pack2<f16>(x, y);
}

// ---- copies by threads ----------------------------------------------------------------------------------------------

struct CopyShared {
  alignas(16) uint32_t first[kLanes][4], second[kLanes][4];
  uint32_t single[kLanes];
};

__global__ void cp_async_kernel(uint32_t* words, const uint32_t* input) {  // [10][32]
  DYN_SMEM(CopyShared, s);
  const uint32_t lane = threadIdx.x;
  for (uint32_t i = 0; i < 4; ++i) s.second[lane][i] = ~0u;
  s.single[lane] = ~0u;
  cp_async16(s.first[lane], input + 4 * lane, true);
  cp_async_commit();
  cp_async16(s.second[lane], input + 128 + 4 * lane, lane % 3 != 0);
  cp_async4(&s.single[lane], input + 256 + lane, lane % 4 != 1);
  cp_async_commit();
  cp_async_wait<1>();
  for (uint32_t i = 0; i < 4; ++i) words[i * kLanes + lane] = s.first[lane][i];
  cp_async_wait<0>();
  for (uint32_t i = 0; i < 4; ++i) words[(4 + i) * kLanes + lane] = s.second[lane][i];
  words[8 * kLanes + lane] = s.single[lane];
  words[9 * kLanes + lane] = shared_address(&s.single[lane]) - shared_address(&s);
}

// ---- matrices -------------------------------------------------------------------------------------------------------

struct MatrixShared {
  alignas(16) uint16_t rows[kLanes][8];
};

__global__ void ldmatrix_kernel(uint32_t* words, const uint32_t*) {  // [12][32]
  DYN_SMEM(MatrixShared, s);
  const uint32_t lane = threadIdx.x;
  for (uint32_t i = 0; i < 8; ++i) s.rows[lane][i] = static_cast<uint16_t>(lane << 8 | i);
  __syncthreads();
  const uint16_t* row = s.rows[(lane + 3) % kLanes];  // any row of shared memory, not only the next one
  uint32_t r[4], t[4], two[2], two_t[2];
  ldmatrix_x4(r, row);
  ldmatrix_x4_trans(t, row);
  ldmatrix_x2(two, row);
  ldmatrix_x2_trans(two_t, row);
  for (uint32_t i = 0; i < 4; ++i) words[i * kLanes + lane] = r[i], words[(4 + i) * kLanes + lane] = t[i];
  for (uint32_t i = 0; i < 2; ++i) words[(8 + i) * kLanes + lane] = two[i], words[(10 + i) * kLanes + lane] = two_t[i];
}

// Small integers: every sum is exact, in whichever order.
template <class T>
__device__ __forceinline__ uint32_t two_integers(uint32_t seed, int modulus) {
  const int low = static_cast<int>(seed * 7 % modulus), high = static_cast<int>(seed * 11 % modulus);
  return pack2<T>(static_cast<float>(low - modulus / 2), static_cast<float>(high - modulus / 2));
}

template <class T>
__global__ void mma_kernel(uint32_t* words, const uint32_t*) {  // [4][32]
  const uint32_t lane = threadIdx.x;
  uint32_t a[4], b[2];
  float d[4];
  for (uint32_t i = 0; i < 4; ++i) {
    a[i] = two_integers<T>(lane * 4 + i + 1, 13);
    d[i] = static_cast<float>(lane * 4 + i);
  }
  for (uint32_t i = 0; i < 2; ++i) b[i] = two_integers<T>(lane * 2 + i + 5, 11);
  mma_16x8x16<T>(d, a, b);
  for (uint32_t i = 0; i < 4; ++i) words[i * kLanes + lane] = __float_as_uint(d[i]);
}

// ---- mbarriers, bulk copies -----------------------------------------------------------------------------------------

struct BulkShared {
  alignas(16) uint32_t loaded[128];
  uint32_t exchanged[kLanes];
  uint64_t barrier;
};

__global__ void bulk_kernel(uint32_t* words, const uint32_t* input) {  // [9][32]: the last 4 stored in bulk
  DYN_SMEM(BulkShared, s);
  const uint32_t lane = threadIdx.x;
  if (lane == 0) {
    mbarrier_init(&s.barrier, kLanes);
    mbarrier_init_fence();
  }
  __syncthreads();
  s.exchanged[lane] = lane * 3;
  mbarrier_arrive(&s.barrier);
  mbarrier_wait(&s.barrier, 0);
  words[lane] = s.exchanged[(lane + 1) % kLanes];
  if (lane == 0) {
    mbarrier_expect(&s.barrier, sizeof s.loaded);
    bulk_load(s.loaded, input + 64, sizeof s.loaded, &s.barrier);
  } else {
    mbarrier_arrive(&s.barrier);
  }
  mbarrier_wait(&s.barrier, 1);
  for (uint32_t i = 0; i < 4; ++i) {
    uint32_t& word = s.loaded[i * kLanes + lane];
    words[(1 + i) * kLanes + lane] = word;
    word += lane;
  }
  proxy_fence();
  __syncthreads();
  if (lane == 0) {
    bulk_store(words + 5 * kLanes, s.loaded, 256);
    bulk_commit();
    bulk_store(words + 7 * kLanes, s.loaded + 64, 256);
    bulk_commit();
    bulk_wait<1>();
    bulk_wait_read<0>();
    bulk_wait<0>();
  }
}

// ---- clusters -------------------------------------------------------------------------------------------------------

struct alignas(16) Four {
  uint32_t x, y, z, w;
};
struct alignas(8) Pair {
  uint32_t x, y;
};

struct ClusterShared {
  Four four[kLanes];
  Pair pair[kLanes];
  uint32_t one[kLanes], own[kLanes];
  uint64_t barrier;
};

__global__ void cluster_kernel(uint32_t* words, const uint32_t*) {  // [2 blocks][9][32]
  DYN_SMEM(ClusterShared, s);
  const uint32_t lane = threadIdx.x, rank = cluster_rank(), peer = (rank + 1) % cluster_size();
  words += blockIdx.x * 9 * kLanes;
  if (lane == 0) {
    mbarrier_init(&s.barrier, 1);
    mbarrier_init_fence();
    mbarrier_expect(&s.barrier, kLanes * (4 + 8 + 16));
  }
  s.own[lane] = rank * 1000 + lane;
  cluster_sync();
  uint64_t* barrier = map_shared(&s.barrier, peer);
  const uint32_t value = pattern(rank * kLanes + lane);
  st_async(map_shared(&s.one[lane], peer), value, barrier);
  st_async(map_shared(&s.pair[lane], peer), Pair{value + 1, value + 2}, barrier);
  st_async(map_shared(&s.four[lane], peer), Four{value + 3, value + 4, value + 5, value + 6}, barrier);
  words[lane] = rank << 16 | cluster_size();
  words[kLanes + lane] = *map_shared(&s.own[(lane + 7) % kLanes], peer);
  cluster_arrive();
  mbarrier_wait_cluster(&s.barrier, 0);
  const Four four = s.four[lane];
  const Pair pair = s.pair[lane];
  const uint32_t got[7] = {s.one[lane], pair.x, pair.y, four.x, four.y, four.z, four.w};
  for (uint32_t i = 0; i < 7; ++i) words[(2 + i) * kLanes + lane] = got[i];
  cluster_wait();  // no block leaves while its peer may still read `own`
}

// ---- barriers, hand-over, memory ------------------------------------------------------------------------------------

struct NamedShared {
  uint32_t value[64];
};

__global__ void named_barrier_kernel(uint32_t* words, const uint32_t*) {  // [96 threads]
  DYN_SMEM(NamedShared, s);
  const uint32_t thread = threadIdx.x;
  if (thread >= 64) {  // a warp that has no part in it
    words[thread] = thread;
    return;
  }
  s.value[thread] = thread * thread;
  named_barrier(3, 64);
  words[thread] = s.value[63 - thread];
}

// Zeroed before: counters in words 64 and 65. Every block adds, and the last one reads what the others left.
__global__ void hand_over_kernel(uint32_t* words, const uint32_t*) {  // [66], 32 blocks of 32
  if (threadIdx.x != 0) return;
  words[blockIdx.x] = pattern(blockIdx.x);
  release_add(words + 64, 2);
  if (acquire_release_add(words + 65, 1) != gridDim.x - 1) return;
  for (uint32_t i = 0; i < gridDim.x; ++i) words[32 + i] = words[i] + acquire_load(words + 64);
}

__global__ void stream_kernel(uint32_t* words, const uint32_t* input) {  // [8][32]
  const uint32_t lane = threadIdx.x;
  store_stream(words + lane, load_stream(input + lane));
  store_stream(reinterpret_cast<Pair*>(words + 32) + lane, load_stream(reinterpret_cast<const Pair*>(input) + lane));
  store_stream(reinterpret_cast<Four*>(words + 96) + lane, load_stream(reinterpret_cast<const Four*>(input) + lane));
  const auto* halves = reinterpret_cast<const bf16*>(input + 512);
  auto* to = reinterpret_cast<bf16*>(words + 224);
  store_stream(to + lane, load_stream(halves + lane));
  store_stream(to + 32 + lane, load_stream(halves + 63 - lane));
}

// 0: within 2^-21 (relative, or absolute where log2 is near 0), else the bits of the result.
__device__ __forceinline__ uint32_t off(float got, double exact, double scale) {
  const double error = static_cast<double>(got) - exact;
  return (error < 0 ? -error : error) <= scale * 0x1p-21 ? 0 : __float_as_uint(got);
}

__global__ void approximate_kernel(uint32_t* words, const uint32_t*) {  // [6][32]
  const uint32_t lane = threadIdx.x;
  const float x = (static_cast<float>(lane) - 15.7f) * 3.1f, positive = 0.03f + static_cast<float>(lane * lane) * 0.37f;
  const double power = exp2(static_cast<double>(x)), logarithm = log2(static_cast<double>(positive));
  words[lane] = off(exp2_approx(x), power, power);
  words[32 + lane] = off(log2_approx(positive), logarithm, logarithm < 0 ? 1 - logarithm : 1 + logarithm);
  words[64 + lane] = off(rcp_approx(positive), 1.0 / positive, 1.0 / positive);
  const float edge = special(lane);
  // Zeros, infinities and subnormals are exact.
  const bool exact = edge == 0 || edge - edge != 0 || fabsf(edge) < 0x1p-126f;
  words[96 + lane] = exact ? float_bits(exp2_approx(edge)) : 0;
  words[128 + lane] = exact ? float_bits(log2_approx(edge)) : 0;
  words[160 + lane] = exact ? float_bits(rcp_approx(edge)) : 0;
}

// ---- launches -------------------------------------------------------------------------------------------------------

struct Section {
  const char* name;
  void (*kernel)(uint32_t*, const uint32_t*);
  unsigned blocks, threads;
  size_t shared;
  unsigned cluster;
  int words;
};

constexpr Section kSections[] = {
    {"convert", convert_kernel, 1, 32, 0, 1, 160},
    {"cp_async", cp_async_kernel, 1, 32, sizeof(CopyShared), 1, 320},
    {"ldmatrix", ldmatrix_kernel, 1, 32, sizeof(MatrixShared), 1, 384},
    {"mma bf16", mma_kernel<bf16>, 1, 32, 0, 1, 128},
    {"mma f16", mma_kernel<f16>, 1, 32, 0, 1, 128},
    {"bulk", bulk_kernel, 1, 32, sizeof(BulkShared), 1, 288},
    {"cluster", cluster_kernel, 2, 32, sizeof(ClusterShared), 2, 576},
    {"named_barrier", named_barrier_kernel, 1, 96, sizeof(NamedShared), 1, 96},
    {"hand_over", hand_over_kernel, 32, 32, 0, 1, 66},
    {"stream", stream_kernel, 1, 32, 0, 1, 256},
    {"approximate", approximate_kernel, 1, 32, 0, 1, 192},
};

bool needs_sm90(const Section& section) { return section.kernel == bulk_kernel || section.kernel == cluster_kernel; }

}  // namespace

// Runs all sections on the current device. Left out, words 0, is what the device is too old for.
cudaError_t self_test(std::vector<uint32_t>& words) {
  words.clear();
  int device = 0, major = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess) error = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
  constexpr size_t kMost = 1024;
  uint32_t *input = nullptr, *output = nullptr;
  if (error == cudaSuccess) error = cudaMalloc(&input, kInputWords * sizeof(uint32_t));
  if (error == cudaSuccess) error = cudaMalloc(&output, kMost * sizeof(uint32_t));
  std::vector<uint32_t> host(kInputWords);
  for (uint32_t i = 0; i < kInputWords; ++i) host[i] = pattern(i);
  if (error == cudaSuccess)
    error = cudaMemcpy(input, host.data(), kInputWords * sizeof(uint32_t), cudaMemcpyHostToDevice);
  for (const Section& section : kSections) {
    if (error == cudaSuccess) error = cudaMemset(output, 0, kMost * sizeof(uint32_t));
    if (error == cudaSuccess && (major >= 9 || !needs_sm90(section))) {
      cudaLaunchAttribute cluster;
      cluster.id = cudaLaunchAttributeClusterDimension;
      cluster.val.clusterDim.x = section.cluster;
      cluster.val.clusterDim.y = cluster.val.clusterDim.z = 1;
      cudaLaunchConfig_t config{};
      config.gridDim = dim3(section.blocks);
      config.blockDim = dim3(section.threads);
      config.dynamicSmemBytes = section.shared;
      config.attrs = &cluster;
      config.numAttrs = section.cluster > 1 ? 1 : 0;
      error = cudaLaunchKernelEx(&config, section.kernel, output, static_cast<const uint32_t*>(input));
    }
    const size_t before = words.size();
    words.resize(before + section.words);
    if (error == cudaSuccess)
      error = cudaMemcpy(words.data() + before, output, section.words * sizeof(uint32_t), cudaMemcpyDeviceToHost);
  }
  cudaFree(input);
  cudaFree(output);
  return error;
}

// "convert 3" for word 3 of the first section.
void print_self_test(const std::vector<uint32_t>& words) {
  size_t word = 0;
  for (const Section& section : kSections)
    for (int i = 0; i < section.words && word < words.size(); ++i, ++word)
      std::printf("%s %d %08x\n", section.name, i, words[word]);
}

}  // namespace grpo::cuda

#ifdef GRPO_SELF_TEST_MAIN
int main() {
  std::vector<uint32_t> words;
  const cudaError_t error = grpo::cuda::self_test(words);
  grpo::cuda::print_self_test(words);
  if (error == cudaSuccess) return 0;
  std::fprintf(stderr, "self_test: %s: %s\n", cudaGetErrorName(error), cudaGetErrorString(error));
  return 1;
}
#endif
