// The part of the self-test that needs sm_90: mbarriers, bulk copies, clusters.
#pragma once

#include "launch/self_test/pattern.cuh"

namespace grpo::cuda {
namespace {

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

struct ClusterShared {
  Four four[kLanes];
  Pair pair[kLanes];
  uint32_t one[kLanes], own[kLanes];
  uint64_t barrier;
};

__global__ void cluster_kernel(uint32_t* words, const uint32_t*) {  // [2 blocks][10][32]
  DYN_SMEM(ClusterShared, s);
  const uint32_t lane = threadIdx.x, rank = cluster_rank(), peer = (rank + 1) % cluster_size();
  words += blockIdx.x * 10 * kLanes;
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
  words[9 * kLanes + lane] = cluster_address(map_shared(&s.own[lane], peer)) - cluster_address(map_shared(&s, peer));
  cluster_wait();  // no block leaves while its peer may still read `own`
}

}  // namespace
}  // namespace grpo::cuda
