// Packed layouts of token trees, from arrays on the device.
//
// First one block looks at segments and sequences: whether they are a forest in depth-first order, where segments begin
// and end, how deep they lie, which sequences there are and how long; O(B + N) in all. Then one thread per packed token
// and one per loss token finds its segment by search. Scratch memory: 24 bytes per segment, 4 per sequence.
//
// A walk from the segment before b up to b's parent passes the segments whose subtrees end at b. What it passes no
// later walk meets again, and the tokens on the path to b are the tokens before b but those of all passed segments.
//
// Arrays on the device that are no forest, or have too many tokens, give sizes and outputs of -1; so does an output
// whose length is not what `sizes` says, for itself.
#include "blocks/flags.cuh"
#include "blocks/offsets.cuh"
#include "launch/operation.cuh"

namespace grpo::cuda {
namespace {

constexpr int kThreads = 256, kSizesThreads = 512;
constexpr int64_t kLimit = int64_t{1} << 31;

struct Sizes {
  int32_t P, N, T, G;  // -1: no layout
};

struct Tree {
  const int32_t* length;  // [B]
  const int32_t* parent;  // [B]
  const int32_t* end;     // [N], of the caller; null: each leaf but the roots ends a sequence
  int64_t B, N;
  // Scratch memory.
  int32_t* start;        // [B+1]
  int32_t* group;        // [B]    number of its root
  int32_t* root;         // [B]    segment of root g
  int32_t* segment_end;  // [B]
  int32_t* depth;        // [B]    tokens on the path before it
  int32_t* leaf;         // [B]    ends of sequences, where the caller names none
  int32_t* first;        // [max(B, N)+1], first loss token of each sequence
  Sizes* sizes;          // [1]

  __device__ __forceinline__ const int32_t* ends() const { return end != nullptr ? end : leaf; }
  __device__ __forceinline__ int32_t root_length(int64_t b) const { return length[root[group[b]]]; }
};

struct Shared {
  int64_t partial[kSizesThreads / kWarp];
};

// Starts, groups and roots. Whether lengths and parents are what they may be, each for itself; `total`: of the lengths.
__device__ bool number_segments(const Tree& tree, Sizes& sizes, Shared& shared) {
  int64_t total = 0, groups = 0;
  bool bad = false;
  for (int64_t base = 0; base < tree.B; base += kSizesThreads) {
    const int64_t b = base + threadIdx.x;
    const bool valid = b < tree.B;
    const int64_t length = valid ? tree.length[b] : 0, parent = valid ? tree.parent[b] : 0;
    const bool is_root = valid && parent < 0;
    bad |= valid && (length < 0 || parent < -1 || parent >= b);
    const Scanned<int64_t> lengths = block_scan(length, shared.partial);
    const Scanned<int64_t> roots = block_scan(int64_t{is_root}, shared.partial);
    if (valid) {
      tree.start[b] = static_cast<int32_t>(total + lengths.before);
      tree.group[b] = static_cast<int32_t>(groups + roots.before + is_root - 1);
      if (is_root) tree.root[groups + roots.before] = static_cast<int32_t>(b);
    }
    total += lengths.total;
    groups += roots.total;
  }
  if (threadIdx.x == 0) tree.start[tree.B] = static_cast<int32_t>(total);
  sizes.P = static_cast<int32_t>(total);
  sizes.G = static_cast<int32_t>(groups);
  return __syncthreads_or(bad || total >= kLimit) == 0;
}

// Where every parent lies before its child.
__device__ bool is_depth_first(const Tree& tree) {
  bool bad = false;
  int64_t steps = 0;  // all walks through a forest take B together; through a tangle they could take B each
  for (int64_t b = threadIdx.x; b < tree.B; b += kSizesThreads) {
    const int64_t parent = tree.parent[b];
    int64_t on_path = b - 1;
    while (on_path > parent && steps++ < tree.B) on_path = tree.parent[on_path];
    bad |= on_path != parent;
  }
  return __syncthreads_or(bad) == 0;
}

// Ends of subtrees, and depths.
__device__ void measure_segments(const Tree& tree, Shared& shared) {
  int64_t passed_before = 0;
  for (int64_t base = 0; base <= tree.B; base += kSizesThreads) {
    const int64_t b = base + threadIdx.x;
    int64_t passed = 0;
    if (b <= tree.B) {
      const int64_t parent = b < tree.B ? tree.parent[b] : -1;
      for (int64_t on_path = b - 1; on_path > parent; on_path = tree.parent[on_path]) {
        tree.segment_end[on_path] = static_cast<int32_t>(b);
        passed += tree.length[on_path];
      }
    }
    const Scanned<int64_t> scanned = block_scan(passed, shared.partial);
    if (b < tree.B) tree.depth[b] = static_cast<int32_t>(tree.start[b] - (passed_before + scanned.before + passed));
    passed_before += scanned.total;
  }
  __syncthreads();
}

__device__ bool find_sequences(const Tree& tree, Sizes& sizes, Shared& shared) {
  int64_t N = tree.N;
  bool bad = false;
  if (tree.end != nullptr) {
    const auto inside = [&](int64_t segment) { return segment >= 0 && segment < tree.B; };
    for (int64_t i = threadIdx.x; i < N; i += kSizesThreads) {
      const int64_t own = tree.end[i], before = i > 0 ? tree.end[i - 1] : own;
      bad |= !inside(own) || !inside(before) || tree.group[before] > tree.group[own];
    }
  } else {
    const auto ends = [&](int64_t b) { return tree.parent[b] >= 0 && (b + 1 == tree.B || tree.parent[b + 1] != b); };
    N = block_list(tree.B, shared.partial, ends, [&](int64_t n, int64_t b) { tree.leaf[n] = static_cast<int32_t>(b); });
  }
  if (__syncthreads_or(bad) != 0) return false;
  int64_t total = 0;
  for (int64_t base = 0; base < N; base += kSizesThreads) {
    const int64_t i = base + threadIdx.x, last = i < N ? tree.ends()[i] : -1;
    const int64_t tokens = last < 0 ? 0 : int64_t{tree.depth[last]} + tree.length[last] - tree.root_length(last);
    const Scanned<int64_t> scanned = block_scan(tokens, shared.partial);
    if (i < N) tree.first[i] = static_cast<int32_t>(total + scanned.before);
    total += scanned.total;
  }
  if (threadIdx.x == 0) tree.first[N] = static_cast<int32_t>(total);
  sizes.N = static_cast<int32_t>(N);
  sizes.T = static_cast<int32_t>(total);
  return total < kLimit;
}

// Grid: 1. Block: 512. Shared: 128. Work: 24 bytes per segment, 4 per sequence. Bound: latency.
__global__ void __launch_bounds__(kSizesThreads)
    sizes_kernel(Tree tree,
                 int32_t* sizes_out) {  // [4], may be null
  DYN_SMEM(Shared, shared);
  Sizes sizes{-1, -1, -1, -1};
  bool good = number_segments(tree, sizes, shared) && is_depth_first(tree);
  if (good) {
    measure_segments(tree, shared);
    good = find_sequences(tree, sizes, shared);
  }
  if (threadIdx.x != 0) return;
  if (!good) sizes = {-1, -1, -1, -1};
  *tree.sizes = sizes;
  if (sizes_out == nullptr) return;
  sizes_out[0] = sizes.P, sizes_out[1] = sizes.N, sizes_out[2] = sizes.T, sizes_out[3] = sizes.G;
}

// What is shorter than tokens; G and N: of the outputs.
// Grid: ceil((longest output) / 256). Block: 256. Shared: 0. Work: 8 bytes per element. Bound: latency.
__global__ void __launch_bounds__(kThreads)
    segments_kernel(Tree tree,
                    int32_t* segment_start,   // [B+1], may be null
                    int32_t* segment_end,     // [B], may be null
                    int32_t* group_start,     // [G+1], may be null
                    int32_t* sequence_start,  // [N+1], may be null
                    int64_t G, int64_t N) {
  const int64_t i = thread_index();
  const Sizes sizes = *tree.sizes;
  if (segment_start != nullptr && i <= tree.B) segment_start[i] = sizes.P < 0 ? -1 : tree.start[i];
  if (segment_end != nullptr && i < tree.B) segment_end[i] = sizes.P < 0 ? -1 : tree.segment_end[i];
  if (sequence_start != nullptr && i <= N) sequence_start[i] = sizes.N != N ? -1 : tree.first[i];
  if (group_start == nullptr || i > G) return;
  if (sizes.G != G) {
    group_start[i] = -1;
    return;
  }
  int64_t low = 0, high = sizes.N;  // the first sequence of root i or a later one
  while (low < high) {
    const int64_t middle = low + (high - low) / 2;
    if (tree.group[tree.ends()[middle]] < i) low = middle + 1;
    else high = middle;
  }
  group_start[i] = static_cast<int32_t>(low);
}

// Grid: ceil(P / 256). Block: 256. Shared: 0. Work: 4 bytes per token, and a search in cache. Bound: latency.
__global__ void __launch_bounds__(kThreads)
    position_kernel(Tree tree,
                    int32_t* position,  // [P]
                    int64_t P) {
  const int64_t p = thread_index();
  if (p >= P) return;
  int64_t own = -1;
  if (tree.sizes->P == P) {
    const int64_t b = last_at_most(tree.start, 0, tree.B - 1, p);
    own = tree.depth[b] + p - tree.start[b];
  }
  position[p] = static_cast<int32_t>(own);
}

// Grid: ceil(T / 256). Block: 256. Shared: 0. Work: 8 bytes per token, and a search in cache. Bound: latency.
__global__ void __launch_bounds__(kThreads)
    rows_kernel(Tree tree,
                int32_t* row,    // [T], may be null
                int32_t* place,  // [T], may be null
                int64_t T) {
  const int64_t t = thread_index();
  if (t >= T) return;
  int64_t own = -1, before = -1;
  if (tree.sizes->T == T) {
    const int64_t i = last_at_most(tree.first, 0, tree.sizes->N - 1, t);
    int64_t b = tree.ends()[i];
    const int64_t on_path = t - tree.first[i] + tree.root_length(b);  // tokens of the path before this one
    while (tree.depth[b] > on_path) b = tree.parent[b];
    own = tree.start[b] + on_path - tree.depth[b];
    if (on_path > tree.depth[b]) before = own - 1;
    else {
      do b = tree.parent[b];
      while (b >= 0 && tree.length[b] == 0);
      if (b >= 0) before = int64_t{tree.start[b]} + tree.length[b] - 1;
    }
  }
  if (row != nullptr) row[t] = static_cast<int32_t>(before);
  if (place != nullptr) place[t] = static_cast<int32_t>(own);
}

using Args = grpo_tree_layout_args;

// Of an output whose length only the contents of the inputs give; 0 where it is absent.
int64_t length_of(const DLTensor* tensor) { return tensor == nullptr ? 0 : tensor->shape[0]; }

int run(const Args& args, const Axes& axes, Launch& on) {
  const int64_t B = axes['B'], N = args.end != nullptr ? axes['N'] : 0, sequences = B > N ? B : N;
  Tree tree{data<int32_t>(args.length), data<int32_t>(args.parent), data<int32_t>(args.end), B, N,
            on.scratch<int32_t>(B + 1), on.scratch<int32_t>(B), on.scratch<int32_t>(B), on.scratch<int32_t>(B),
            on.scratch<int32_t>(B), on.scratch<int32_t>(B), on.scratch<int32_t>(sequences + 1), on.scratch<Sizes>(1)};
  if (args.end != nullptr && tree.end == nullptr) tree.end = tree.leaf;  // of length 0: no memory, but not absent
  on(sizes_kernel, {1, kSizesThreads, sizeof(Shared)}, tree, data<int32_t>(args.sizes));

  const int64_t groups = length_of(args.group_start), starts = length_of(args.sequence_start);
  const int64_t most = groups > starts ? groups : starts, threads = B + 1 > most ? B + 1 : most;
  if (args.segment_start != nullptr || args.segment_end != nullptr || groups > 0 || starts > 0)
    on(segments_kernel, {ceil_div(threads, kThreads), kThreads}, tree, data<int32_t>(args.segment_start),
       data<int32_t>(args.segment_end), data<int32_t>(args.group_start), data<int32_t>(args.sequence_start), groups - 1,
       starts - 1);
  const int64_t P = length_of(args.position), T = axes['T'];
  on(position_kernel, {ceil_div(P, kThreads), kThreads}, tree, data<int32_t>(args.position), P);
  if (args.row != nullptr || args.place != nullptr)
    on(rows_kernel, {ceil_div(T, kThreads), kThreads}, tree, data<int32_t>(args.row), data<int32_t>(args.place), T);
  return GRPO_OK;
}

}  // namespace

GRPO_CUDA_OPERATION(kTreeLayout, tree_layout);

}  // namespace grpo::cuda
