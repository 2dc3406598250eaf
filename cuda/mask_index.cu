// The places where a mask is not 0, ascending.
//
// Three launches: each block counts its 4096 values, one block sums the counts, then each block scans its values again
// and writes. A thread has 16 neighbouring values, in one load where they lie inside the mask. 2 bytes per value are
// read, 4 per place written. Places beyond the number of values that are set, where `index` is longer, are -1; what it
// has no room for is left out.
#include "blocks/flags.cuh"
#include "launch/operation.cuh"

namespace grpo::cuda {
namespace {

struct MaskFlags {
  const uint8_t* mask;  // [N]
  int32_t skip;         // so that the loads of 16 are aligned
  __device__ __forceinline__ uint32_t bits(int64_t first, int64_t N) const {
    uint32_t result = 0;
    if (first >= 0 && first + kFlags <= N) {
      const Words4 words = *reinterpret_cast<const Words4*>(mask + first);
      const uint32_t word[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
      for (int i = 0; i < kFlags; ++i) result |= uint32_t{(word[i / 4] >> i % 4 * 8 & 255u) != 0} << i;
    } else {
      for (int i = 0; i < kFlags; ++i)
        if (first + i >= 0 && first + i < N && mask[first + i] != 0) result |= 1u << i;
    }
    return result;
  }
};

using Args = grpo_mask_index_args;

int run(const Args& args, const Axes& axes, Launch& on) {
  const uint8_t* mask = data<uint8_t>(args.mask);
  const MaskFlags flags{mask, static_cast<int32_t>(reinterpret_cast<uintptr_t>(mask) % kFlags)};
  list_flags(flags, data<double>(args.count), data<int32_t>(args.index), -1, axes['N'], axes['M'], on);
  return GRPO_OK;
}

}  // namespace

GRPO_CUDA_OPERATION(kMaskIndex, mask_index);

}  // namespace grpo::cuda
