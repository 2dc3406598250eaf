// The transpose of gather_rows: y[index[m]] += x[m], 0 where no index points.
//
// Two launches. The first hangs each m into a list of its row: the lists are in any order. In the second a warp owns
// some columns of a row of y: it walks the list, sorts it, and adds in ascending m, so that the order of the first
// launch leaves no trace. Where rows begin at multiples of 16 bytes, a lane has up to four units of them, so that of
// 16 bits 1,024 columns are one warp's, which walks the list once for them; else its units are elements. A row that
// more than kList indices name is not walked; its warps look through all of `index`, which is M / kList rows at most.
// Elements of x are read once and those of y written once, `index` once and the list of a row once for each of its
// warps. An element of 16 bits takes a lane 4.2 instructions (sm_90a), of which conversion and addition are 2.
//
// Halves are summed in float32 and rounded once; whole numbers wrap. An index outside the rows adds to nothing.
#include "blocks/lanes.cuh"
#include "launch/operation.cuh"

namespace grpo::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / kWarp;
constexpr int kList = 256;
constexpr int kAhead = 8;  // indices that a lane loads before it looks at them

struct Shared {
  uint32_t any[kWarps][kList], sorted[kWarps][kList];  // m
};

// head and next hold m + 1; 0 ends a list.
// Grid: ceil(M / 256). Block: 256. Shared: 0. Work: 16 bytes per index. Bound: memory.
__global__ void __launch_bounds__(kThreads)
    lists_kernel(const int32_t* index,  // [M]
                 uint32_t* head,        // [R], 0 before
                 uint32_t* next,        // [M]
                 int64_t R, int64_t M) {
  const int64_t m = thread_index();
  if (m >= M) return;
  const int64_t row = index[m];
  if (row >= 0 && row < R) next[m] = atomicExch(head + row, static_cast<uint32_t>(m + 1));
}

// The list from `m1` on, in ascending order; returns its length, or kList + 1 if it does not fit.
__device__ int sorted_list(uint32_t m1,
                           const uint32_t* next,  // [M]
                           uint32_t* any,         // [kList]
                           uint32_t* sorted) {    // [kList]
  int count = 0;
  if (lane_index() == 0) {
    for (; m1 != 0 && count < kList; m1 = next[m1 - 1]) any[count++] = m1 - 1;
    if (m1 != 0) count = kList + 1;
  }
  count = __shfl_sync(kAllLanes, count, 0);
  if (count > kList) return count;
  __syncwarp();
  for (int i = lane_index(); i < count; i += kWarp) {
    int rank = 0;
    for (int j = 0; j < count; ++j) rank += any[j] < any[i];
    sorted[rank] = any[i];
  }
  __syncwarp();
  return count;
}

// What a lane loads at a time.
template <class T, bool kWide>
struct Unit {
  static constexpr int kElements = kWide ? 16 / sizeof(T) : 1;
  T x[kElements];

  static __device__ __forceinline__ Unit load(const T* from) {
    if constexpr (kWide) return __builtin_bit_cast(Unit, *reinterpret_cast<const Words4*>(from));
    else return {{*from}};
  }
  __device__ __forceinline__ void store(T* to) const {
    if constexpr (kWide) *reinterpret_cast<Words4*>(to) = __builtin_bit_cast(Words4, *this);
    else *to = x[0];
  }
};

// Units of a lane: sums in 32 registers at most.
template <class T, bool kWide>
constexpr int kOwn = !kWide ? 8 : sizeof(T) == 1 ? 2 : 4;
template <class T, bool kWide>
constexpr int kColumns = kOwn<T, kWide> * Unit<T, kWide>::kElements* kWarp;  // of a warp

// Sum: what a column is added up in.
template <class T, class Sum>
__device__ __forceinline__ Sum widened(T x) {
  if constexpr (std::is_integral_v<T> || std::is_same_v<T, double>) return static_cast<Sum>(x);
  else return to_float(x);
}
template <class T, class Sum>
__device__ __forceinline__ T narrowed(Sum sum) {
  if constexpr (std::is_integral_v<T> || std::is_same_v<T, double>) return static_cast<T>(sum);
  else return from_float<T>(sum);
}

// Grid: ceil(R ceil(D / 256 to 1,024) / 8). Block: 256. Shared: 16,384. Work: each element of x read once, of y written
// once. Bound: memory.
template <class T, class Sum, bool kWide>
__global__ void __launch_bounds__(kThreads)
    scatter_rows_kernel(const T* x,            // [M, D]
                        const int32_t* index,  // [M]
                        const uint32_t* head,  // [R]
                        const uint32_t* next,  // [M]
                        T* y,                  // [R, D]
                        int64_t R, int64_t M, int64_t D, int64_t parts) {  // of a row, a warp's each
  DYN_SMEM(Shared, shared);
  using Units = Unit<T, kWide>;
  constexpr int kUnits = kOwn<T, kWide>, kElements = Units::kElements;
  const int64_t task = int64_t{blockIdx.x} * kWarps + warp_index(), row = task / parts;
  if (row >= R) return;
  const int64_t column = (task - row * parts) * kColumns<T, kWide> + lane_index() * kElements;
  const auto for_units = [&](auto visit) {
#pragma unroll
    for (int own = 0; own < kUnits; ++own)
      if (const int64_t at = column + own * kElements * kWarp; at < D) visit(own, at);
  };
  Sum sum[kUnits][kElements] = {};
  const auto add = [&](int64_t m) {
    Units units[kUnits];
    for_units([&](int own, int64_t at) { units[own] = Units::load(x + m * D + at); });
    for_units([&](int own, int64_t) {
#pragma unroll
      for (int i = 0; i < kElements; ++i) sum[own][i] += widened<T, Sum>(units[own].x[i]);
    });
  };
  const uint32_t* sorted = shared.sorted[warp_index()];
  const int count = sorted_list(head[row], next, shared.any[warp_index()], shared.sorted[warp_index()]);
  if (count <= kList) {
    for (int i = 0; i < count; ++i) add(sorted[i]);
  } else {
    for (int64_t begin = 0; begin < M; begin += kAhead * kWarp) {
      int32_t ahead[kAhead];
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        const int64_t m = begin + i * kWarp + lane_index();
        ahead[i] = m < M ? index[m] : -1;
      }
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        uint32_t found = __ballot_sync(kAllLanes, ahead[i] == row);
        for (; found != 0; found &= found - 1) add(begin + i * kWarp + __ffs(static_cast<int>(found)) - 1);
      }
    }
  }
  for_units([&](int own, int64_t at) {
    Units units;
#pragma unroll
    for (int i = 0; i < kElements; ++i) units.x[i] = narrowed<T, Sum>(sum[own][i]);
    units.store(y + row * D + at);
  });
}

using Args = grpo_scatter_rows_args;

template <class T, class Sum>
void scatter_rows(const Args& args, const uint32_t* head, const uint32_t* next, int64_t R, int64_t M, int64_t D,
                  Launch& on) {
  const T* x = data<T>(args.x);
  T* y = data<T>(args.out_x);
  const auto launch = [&]<bool kWide>(std::bool_constant<kWide>) {
    const int64_t parts = ceil_div(D, int64_t{kColumns<T, kWide>});
    on(scatter_rows_kernel<T, Sum, kWide>, {ceil_div(R * parts, kWarps), kThreads, sizeof(Shared)}, x,
       data<int32_t>(args.index), head, next, y, R, M, D, parts);
  };
  const bool wide = D * sizeof(T) % 16 == 0 && reinterpret_cast<uintptr_t>(x) % 16 == 0 &&
                    reinterpret_cast<uintptr_t>(y) % 16 == 0;
  if (wide) launch(std::true_type{});
  else launch(std::false_type{});
}

int run(const Args& args, const Axes& axes, Launch& on) {
  if (args.out_x == nullptr) return GRPO_OK;
  const int64_t R = args.rows, M = axes['M'], D = axes['D'];
  if (R == 0 || D == 0) return GRPO_OK;
  uint32_t* head = on.scratch<uint32_t>(R);
  uint32_t* next = on.scratch<uint32_t>(M);
  on.zero(head, R * int64_t{sizeof(uint32_t)});
  on(lists_kernel, {ceil_div(M, kThreads), kThreads}, data<int32_t>(args.index), head, next, R, M);
  const DLDataType dtype = args.x->dtype;
  if (dtype.code == 4) scatter_rows<bf16, float>(args, head, next, R, M, D, on);
  else if (dtype.code == 2 && dtype.bits == 16) scatter_rows<f16, float>(args, head, next, R, M, D, on);
  else if (dtype.code == 2 && dtype.bits == 32) scatter_rows<float, float>(args, head, next, R, M, D, on);
  else if (dtype.code == 2) scatter_rows<double, double>(args, head, next, R, M, D, on);
  else if (dtype.bits == 32) scatter_rows<uint32_t, uint32_t>(args, head, next, R, M, D, on);
  else scatter_rows<uint8_t, uint32_t>(args, head, next, R, M, D, on);
  return GRPO_OK;
}

}  // namespace

GRPO_CUDA_OPERATION(kScatterRows, scatter_rows);

}  // namespace grpo::cuda
