// A row of logits read once, on sm_90, and the choice between that and two_read_kernel.
//
// A cluster of 1, 2, 4 or 8 blocks has a row, and each block keeps its part of it in shared memory. Bulk copies bring
// it in pieces with one mbarrier each; the softmax takes a piece while the next ones are under way. Then every block
// sends its max and sums to every other one, and merges all of them in the order of rank, so that all have the same
// bits; the coefficients are formed by every block for itself. Parts are at most kPartBytes where 8 blocks suffice, so
// that three of them, each in another phase, share a multiprocessor. Rows that do not begin at a multiple of 16 bytes
// are copied by the threads, by groups that are cut out of aligned ones, and their gradients are written as aligned
// groups that are cut out of the copy: of 8 elements of 16 bits 2 loads and 1 store of 16 bytes,
// where 8 loads and 8 stores of 2 bytes had a warp touch each of its 16 sectors 8 times each way.
#pragma once

#include "launch/operation.cuh"
#include "logits/logits_kept.cuh"

namespace grpo::cuda {

constexpr int kMostRanks = 8, kMostPieces = 16, kOneReadThreads = 192;
constexpr int64_t kPieceBytes = 16384, kPartBytes = 76032;

struct ClusterRowShared {
  RowShared row;
  int32_t begin, n;  // of the row's columns
  Online of_rank[kMostRanks];
  uint64_t exchanged;
  uint64_t arrived[kMostPieces];
  alignas(16) unsigned char logits[16];  // as long as the launch says
};

// A multiprocessor of sm_90 has 228 KiB, of which a block takes 1 KiB more than it asks for.
static_assert(3 * (kPartBytes + int64_t{sizeof(ClusterRowShared)} + 1024) <= 228 * 1024);

// Elements of a row that each block of a cluster has, the last one fewer: whole vectors.
__host__ __device__ constexpr int64_t part_of_row(int64_t V, int64_t ranks) { return ceil_div(V, ranks * 8) * 8; }
static_assert(part_of_row(152064, 4) * 2 <= kPartBytes, "Qwen's vocabulary in 16 bits takes four blocks");

// Blocks of kFused that share a multiprocessor. On sm_90a the 80 registers that four leave are enough: loops over logits
// are as long as with the 94 that three would have, and the function of the coefficients alone, called once for a token,
// saves 8 bytes more. On sm_100 the kernel itself would. With 100 KB of shared memory two are the most that fit.
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ < 1000
constexpr int kFusedBlocks = 4;
#elif __CUDA_ARCH__ < 1200
constexpr int kFusedBlocks = 3;
#else
constexpr int kFusedBlocks = 2;
#endif

// Three blocks share a multiprocessor where parts are as long as kPartBytes, four where they are shorter (V = 163,840
// or 201,088 in 16 bits).
// Grid: R clusters of 1, 2, 4 or 8 blocks, or T where rows are listed, from sm_90 on. Block: 192. Shared: 76,720 or
// less where eight blocks can keep a row. Work: each logit read once, each gradient written once. Bound: memory.
template <RowPass kPass, class T, class G, class Coefficients>
__global__ void __launch_bounds__(kOneReadThreads, kPass == RowPass::kFused ? kFusedBlocks : 4)
    one_read_kernel(LogitRows<T> given, GradRows<G> gradient, RowWork work,
                    const __grid_constant__ Coefficients coefficients) {
#if GRPO_SM90
  static_assert(kPass != RowPass::kBackwardSaved);
  DYN_SMEM(ClusterRowShared, s);
  const uint32_t rank = cluster_rank(), ranks = cluster_size();
  const RowOfBlock block = row_of_block<kPass>(work.tokens, blockIdx.x / ranks);
  const int64_t r = block.r;
  if (work.sets.has(r)) return;
  LogitRows<T> logits = given.of_row(r);
  const OwnTokens own = block.own;
  // Rows that fit a cluster's shared memory: 32 bits do, and save the registers that the call of `coefficients` needs.
  const int32_t V = static_cast<int32_t>(logits.V), part = static_cast<int32_t>(part_of_row(V, ranks));
  const int32_t begin = static_cast<int32_t>(rank) * part < V ? static_cast<int32_t>(rank) * part : V;
  const int32_t n = begin + part < V ? part : V - begin;
  G* y = kPass == RowPass::kForward ? nullptr : gradient.data + r * gradient.stride + begin;
  if constexpr (kPass != RowPass::kForward)
    if (rank == 0) fill_padding(logits, gradient, r);
  if (own.count == 0) {
    if constexpr (kPass != RowPass::kForward) fill(y, n, 0);
    return;
  }
  RowCoefficients c{};
  if constexpr (kPass == RowPass::kBackward) {
    c = coefficients_of<kPass>(work, own, 0, s.row);
    if (c.zero) return fill(y, n, 0);
  }
  Slice<T> slice = slice_of(logits.row(r) + begin, n, logits.inverse_cap);
  const int64_t bytes = int64_t{slice.groups} * 16, pieces = slice.aligned ? ceil_div(bytes, kPieceBytes) : 0;
  Words4* copied = reinterpret_cast<Words4*>(s.logits);
  if (threadIdx.x == 0) {
    s.row.block = block, s.begin = begin, s.n = n;
    mbarrier_init(&s.exchanged, 1);
    for (int64_t piece = 0; piece < pieces; ++piece) mbarrier_init(&s.arrived[piece], 1);
    mbarrier_init_fence();
    if (ranks > 1) mbarrier_expect(&s.exchanged, ranks * sizeof(Online));
    for (int64_t piece = 0; piece < pieces; ++piece) {
      const int64_t from = piece * kPieceBytes;
      const uint32_t size = static_cast<uint32_t>(bytes - from < kPieceBytes ? bytes - from : kPieceBytes);
      mbarrier_expect(&s.arrived[piece], size);
      bulk_load(s.logits + from, reinterpret_cast<const unsigned char*>(slice.x) + from, size, &s.arrived[piece]);
    }
  }
  if (!slice.aligned)
    for (int64_t g = threadIdx.x; g < slice.groups; g += blockDim.x) copied[g] = slice.group_of_x(g);
  const float first_logit =
      static_cast<int>(threadIdx.x) < own.count ? logit_of(logits, r, column_of(logits, work, own[threadIdx.x])) : 0;
  __syncthreads();
  cluster_arrive();  // the barriers exist, and where the gradient is written in place, the first logits are read
  const RowOfBlock& same = s.row.block;
  load_first_operands<kPass>(same.own, coefficients, s.row);
  slice.copied = copied;
  Online online = no_logits();
  constexpr bool kAccurate = sizeof(T) == 4;  // see with_accuracy: the row is long
  add_ends<kAccurate>(online, slice, logits.scale2);
  constexpr int32_t kPieceGroups = kPieceBytes / 16;
  for (int32_t first = 0; first < slice.groups; first += kPieceGroups) {
    if (slice.aligned) mbarrier_wait(&s.arrived[first / kPieceGroups], 0);
    const int32_t last = first + kPieceGroups;
    add_groups<kAccurate>(online, slice, first, last < slice.groups ? last : slice.groups, logits.scale2);
  }
  online = merge_block(online, s.row, logits.scale2);
  cluster_wait();
  if (threadIdx.x == 0) {
    if (ranks > 1) {
      for (uint32_t peer = 0; peer < ranks; ++peer)
        st_async(map_shared(&s.of_rank[rank], peer), online, map_shared(&s.exchanged, peer));
      mbarrier_wait_cluster(&s.exchanged, 0);
      online = s.of_rank[0];
      for (uint32_t peer = 1; peer < ranks; ++peer) merge(online, s.of_rank[peer], logits.scale2);
    }
    SoftmaxOfRow softmax = softmax_of(online, logits.part);
    if constexpr (kPass == RowPass::kBackward)
      softmax = with_given(softmax, logits.scale, work.given_logsumexp[same.own[0]],
                           work.given_entropy == nullptr ? nullptr : work.given_entropy + same.own[0]);
    if (kPass == RowPass::kForward && rank == 0 && work.softmax != nullptr)
      work.softmax_of_row(same.r, same.own) = softmax;
    s.row.softmax = softmax;
    s.row.scale = logits.scale, s.row.scale2 = logits.scale2;
  }
  __syncthreads();
  const SoftmaxOfRow& softmax = s.row.softmax;
  if constexpr (kPass != RowPass::kBackward)
    write_tokens<kPass>(given, work, same.own, same.r, s.row, softmax, first_logit, rank, coefficients);
  // A block that has received from all ranks is sent nothing more: it may exit before its peers.
  if constexpr (kPass == RowPass::kForward) return;
  if constexpr (kPass == RowPass::kFused) {
    logits.scale = s.row.scale, logits.scale2 = s.row.scale2;
    __syncthreads();
    c = coefficients_of<kPass>(work, same.own, rank, s.row);
  }
  y = gradient.data + same.r * gradient.stride + s.begin;
  slice = slice_of(logits.row(same.r) + s.begin, s.n, logits.inverse_cap);
  slice.copied = copied;
  // Where a row has more tokens than a block has threads, and the gradient is written in place, that has to wait until
  // all peers have read the tokens' logits. Those of the threads' first tokens were read before the exchange.
  gradient_of_row<kPass, true>(logits, work, same.own, same.r, softmax, c, first_logit, slice, y, s.begin, [&] {
    __syncthreads();
    if (same.own.count > static_cast<int>(blockDim.x)) cluster_sync();
  });
#endif
}

// ---- the launch -----------------------------------------------------------------------------------------------------

inline Shape shape_of_cluster(int64_t V, int64_t size, int32_t ranks) {
  return {ranks, kOneReadThreads, sizeof(ClusterRowShared) + static_cast<size_t>(part_of_row(V, ranks) * size), ranks};
}

// Blocks of a cluster that keep a row of so many bytes in shared memory; 0: the row is read twice, and `why` says why a
// long one is. The same for all kernels of a row, so that all of them have the same bits: the forward one is asked
// whether it has room.
inline int32_t ranks_of_row(const Device& device, int64_t V, int64_t size, const char** why = nullptr) {
  const auto read_twice = [&](const char* reason) {
    if (why != nullptr) *why = reason;
    return 0;
  };
  if (V * size < kLongRow) return 0;
  if (device.major < 9) return read_twice("a row is read once by clusters of blocks, which need compute capability 9.0");
  int32_t ranks = 1;
  while (ranks < kMostRanks && part_of_row(V, ranks) * size > kPartBytes) ranks *= 2;
  const int64_t part = part_of_row(V, ranks) * size;
  const bool fits = part + int64_t{sizeof(ClusterRowShared)} <= device.shared_limit;
  if (!fits || part > kMostPieces * kPieceBytes) return read_twice("a row is longer than the shared memory of a cluster");
  const void* const forward =
      size == 4 ? reinterpret_cast<const void*>(one_read_kernel<RowPass::kForward, float, float, NoCoefficients>)
                : reinterpret_cast<const void*>(one_read_kernel<RowPass::kForward, bf16, bf16, NoCoefficients>);
  if (ranks == 1 || device.has_room(forward, shape_of_cluster(V, size, ranks))) return ranks;
  return read_twice("this part of a GPU has no room for a cluster of blocks");
}

// The coefficients that kFused writes have one copy for each rank.
inline int32_t copies_of_coefficients(const Device& device, int64_t V, int64_t size) {
  const int32_t ranks = ranks_of_row(device, V, size);
  return ranks == 0 ? 1 : ranks;
}

template <RowPass kPass, class T, class G, class Coefficients>
void launch_rows(const LogitRows<T>& logits, const GradRows<G>& gradient, const RowWork& work,
                 const Coefficients& coefficients, Launch& on) {
  constexpr int64_t kSize = sizeof(T);
  const int64_t bytes = logits.V * kSize;
  // All rows of a gradient are written, those without tokens with zeros.
  const int64_t rows = kPass == RowPass::kForward ? work.tokens.most : logits.width == 0 ? 0 : logits.R;
  if (work.sets.set != nullptr) {
    on.runs("kept_row_kernel");
    on(kept_row_kernel<kPass, T, G, Coefficients>, {rows, kKeptThreads, sizeof(RowShared)}, logits, gradient, work,
       coefficients);
  }
  if (!aligned16(logits.data) || logits.stride * kSize % 16 != 0)
    on.because("rows of logits do not begin at multiples of 16 bytes: read by shifted groups");
  // Forward too: the log-probabilities of all operations have the same bits, so that the ratio of a policy to itself
  // is exactly 1.
  if constexpr (kPass != RowPass::kBackwardSaved) {
    const char* why = "";
    if (const int32_t ranks = ranks_of_row(on.device, logits.V, kSize, &why); ranks > 0) {
      Shape shape = shape_of_cluster(logits.V, kSize, ranks);
      shape.blocks *= rows;
      on.runs("one_read_kernel");
      return on(one_read_kernel<kPass, T, G, Coefficients>, shape, logits, gradient, work, coefficients);
    }
    on.because(why);
  }
  on.runs("two_read_kernel");
  const int32_t threads = bytes >= 96 * 1024 ? kMostWarps * kWarp : bytes >= kLongRow ? 256 : 64;
  on(two_read_kernel<kPass, T, G, Coefficients>, {rows, threads, sizeof(RowShared)}, logits, gradient, work,
     coefficients);
}

// Null: the whole vocabulary.
template <class Args>
int64_t vocab_start_of(const Args& args) {
  if constexpr (requires { args.vocab_start; }) return args.vocab_start;
  else return -1;
}

// visit(LogitRows<T>, GradRows<G>) with the types that the call has. Without a gradient G is T.
template <bool kGradient, class Args, class Visit>
void with_types(const Args& args, const Axes& axes, const DLTensor* grad_logits, Visit visit) {
  const auto typed = [&]<class T>(T) {
    const int64_t start = vocab_start_of(args);
    const Temperature temperature = temperature_of(args);
    const float scale = static_cast<float>(scale_of(temperature, temperature.whole));
    const LogitRows<T> logits{data<T>(args.logits), row_stride(args.logits), axes['R'], valid_columns(args, axes),
                              axes['V'], temperature, scale, log2_scale(scale),
                              !is_null(start), is_null(start) ? 0 : start, inverse_cap(temperature)};
    if constexpr (kGradient) {
      const int64_t stride = row_stride(grad_logits);
      if (sizeof(T) == 2 && float_type(grad_logits) == Float::kF32)
        visit(logits, GradRows<float>{const_cast<float*>(data<float>(grad_logits)), stride});
      else
        visit(logits, GradRows<T>{const_cast<T*>(data<T>(grad_logits)), stride});
    } else {
      visit(logits, GradRows<T>{nullptr, 0});
    }
  };
  const Float type = float_type(args.logits);
  if (type == Float::kF32) typed(float{});
  else if (type == Float::kBf16) typed(bf16{});
  else typed(f16{});
}

}  // namespace grpo::cuda
