// What the simulated bodies of cuda/launch/ptx.cuh call. Each takes the place of one PTX instruction and reports with the file
// and line of the kernel that called it.
#pragma once

#include <cstddef>
#include <cstdint>

namespace simt {

#define SIMT_CALL __attribute__((noinline))

// ---- cp.async: 4, 8 or 16 bytes from global to shared memory; bytes after valid_bytes become 0 ----------------------
SIMT_CALL void cp_async(void* shared, const void* global, int bytes, int valid_bytes);
SIMT_CALL void cp_async_commit();
SIMT_CALL void cp_async_wait(int pending);  // until at most `pending` of the thread's groups are under way

// ---- shared memory and clusters -------------------------------------------------------------------------------------
SIMT_CALL uint32_t shared_address(const void* shared);
SIMT_CALL uint32_t cluster_rank();
SIMT_CALL uint32_t cluster_size();
SIMT_CALL void cluster_arrive();  // release
SIMT_CALL void cluster_wait();    // acquire
SIMT_CALL void* map_shared(const void* own, uint32_t rank);

// ---- mbarrier -------------------------------------------------------------------------------------------------------
SIMT_CALL void mbarrier_init(uint64_t* barrier, uint32_t count);
SIMT_CALL void mbarrier_init_fence();
SIMT_CALL void mbarrier_arrive(uint64_t* barrier);
SIMT_CALL void mbarrier_expect(uint64_t* barrier, uint32_t bytes);  // arrive.expect_tx
SIMT_CALL void mbarrier_wait(uint64_t* barrier, uint32_t parity);   // blocks until the phase of that parity is over

// ---- bulk copies ----------------------------------------------------------------------------------------------------
SIMT_CALL void bulk_load(void* shared, const void* global, uint32_t bytes, uint64_t* barrier);
SIMT_CALL void bulk_store(void* global, const void* shared, uint32_t bytes);
SIMT_CALL void bulk_commit();
SIMT_CALL void bulk_wait(int pending, bool read_only);
SIMT_CALL void proxy_fence();
// Stores into a peer's shared memory and completes `bytes` on its barrier.
SIMT_CALL void st_async(void* peer_shared, const void* value, int bytes, uint64_t* peer_barrier);

// ---- barriers, hand-over between blocks ----------------------------------------------------------------------------
SIMT_CALL void named_barrier(uint32_t id, uint32_t threads);
SIMT_CALL uint32_t acquire_load(const uint32_t* address);
SIMT_CALL uint32_t release_add(uint32_t* address, uint32_t value);          // returns the value before
SIMT_CALL uint32_t acquire_release_add(uint32_t* address, uint32_t value);  // returns the value before

}  // namespace simt
