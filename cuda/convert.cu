// float32, bfloat16 and IEEE half into each other, rounded to nearest even.
//
// kPack elements per thread as one vector on either side, where one shift of the start aligns both; the elements before
// and after are converted one by one, and all of them where no shift does. Each element is read and written once.
#include "blocks/lanes.cuh"
#include "launch/operation.cuh"

namespace grpo::cuda {
namespace {

constexpr int kThreads = 256, kPack = 4;

template <class T>
struct alignas(kPack * sizeof(T)) Pack {
  T element[kPack];
};

// Grid: ceil(N / 1,024). Block: 256. Shared: 0. Work: each element read and written once. Bound: memory.
template <class From, class To>
__global__ void __launch_bounds__(kThreads)
    convert_kernel(const From* x,  // [N]
                   To* y,          // [N]
                   int64_t head,   // elements before the first vector
                   int64_t packs, int64_t N) {
  const int64_t i = thread_index();
  if (i < packs) {
    const Pack<From> from = *reinterpret_cast<const Pack<From>*>(x + head + i * kPack);
    Pack<To> to;
#pragma unroll
    for (int k = 0; k < kPack; ++k) to.element[k] = from_float<To>(to_float(from.element[k]));
    *reinterpret_cast<Pack<To>*>(y + head + i * kPack) = to;
  }
  // Those outside the vectors, numbered from 0.
  const int64_t at = i < head ? i : i + packs * kPack;
  if (at < N) y[at] = from_float<To>(to_float(x[at]));
}

// Elements from the address to the first that is aligned for a vector.
template <class T>
int64_t unaligned(const T* address) {
  const uintptr_t bytes = sizeof(Pack<T>), past = reinterpret_cast<uintptr_t>(address) % bytes;
  return static_cast<int64_t>((bytes - past) % bytes / sizeof(T));
}

template <class From, class To>
void convert(const From* x,  // [N]
             To* y,          // [N]
             int64_t N, Launch& on) {
  int64_t head = unaligned(x);
  if (head != unaligned(y) || head > N) head = N;
  if (head == N && N > 0) on.because("x and its copy are not aligned alike: converted one by one");
  const int64_t packs = (N - head) / kPack, singles = N - packs * kPack;
  on(convert_kernel<From, To>, {ceil_div(packs > singles ? packs : singles, kThreads), kThreads}, x, y, head, packs, N);
}

using Args = grpo_convert_args;

template <class From>
void convert_from(const Args& args, int64_t N, Launch& on) {
  const From* x = data<From>(args.x);
  switch (float_type(args.out_x)) {
    case Float::kF32: return convert(x, data<float>(args.out_x), N, on);
    case Float::kBf16: return convert(x, data<bf16>(args.out_x), N, on);
    case Float::kF16: return convert(x, data<f16>(args.out_x), N, on);
  }
}

int run(const Args& args, const Axes& axes, Launch& on) {
  if (args.out_x == nullptr) return GRPO_OK;
  const int64_t N = axes['N'];
  switch (float_type(args.x)) {
    case Float::kF32: convert_from<float>(args, N, on); break;
    case Float::kBf16: convert_from<bf16>(args, N, on); break;
    case Float::kF16: convert_from<f16>(args, N, on); break;
  }
  return GRPO_OK;
}

}  // namespace

GRPO_CUDA_OPERATION(kConvert, convert);

}  // namespace grpo::cuda
