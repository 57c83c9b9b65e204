// CUDA on the host: what .cu files need of <cooperative_groups.h>.
#pragma once

#include <cuda_runtime.h>

namespace cooperative_groups {

class grid_group {
 public:
  void sync(CUDA_ON_HOST_WHERE) const { cuda_on_host::wait_for_grid(where); }
};
inline grid_group this_grid() { return {}; }

class thread_block {
 public:
  void sync(CUDA_ON_HOST_WHERE) const { __syncthreads(where); }
};
inline thread_block this_thread_block() { return {}; }

}  // namespace cooperative_groups
