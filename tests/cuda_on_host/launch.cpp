// CUDA on the host: runs the threads of a block as fibers, each with a stack of its own, on one thread of the system.
//
// A fiber runs until it waits for others, so a block is as fast as a loop over its threads but for switches of a few
// nanoseconds. Where none can go on and not all have ended, the launch fails with the list of who waits where.
//
// The blocks of a cooperative launch run on as many threads of the system, those of any other one after another.

#include <cuda_runtime.h>

#include <numeric>
#include <string>
#include <thread>
#include <vector>

#include "block.h"
#include "device.h"
#include "grid.h"
#include "random_order.h"

constinit thread_local uint3 threadIdx{};
constinit thread_local uint3 blockIdx{};
constinit thread_local dim3 blockDim{};
constinit thread_local dim3 gridDim{};

namespace cuda_on_host {

namespace {

void run_block(Grid& grid, unsigned index, const cudaLaunchConfig_t& config, const std::function<void()>& thread,
               std::uint64_t seed) {
  gridDim = config.gridDim;
  blockDim = config.blockDim;
  try {
    Block(grid, index, config.blockDim.x, config.dynamicSmemBytes, thread, seed).run();
    grid.finish();
  } catch (const Failure& failure) {
    grid.fail(failure.message);
  }
  Block::current = nullptr;
}

}  // namespace

cudaError_t occupancy(int* blocks, int threads, const void* kernel, std::size_t shared_bytes) {
  const bool fits = threads <= static_cast<int>(kMaxThreads) && shared_bytes <= most_shared_bytes(kernel);
  *blocks = fits ? device().blocks_per_multiprocessor : 0;
  return cudaSuccess;
}

cudaError_t launch(const cudaLaunchConfig_t& config, const void* kernel, const std::function<void()>& thread,
                   const Where&) {
  const Device on = device();
  const std::uint64_t order_seed = seed();
  bool cooperative = false;
  for (unsigned i = 0; i < config.numAttrs; ++i) cooperative |= config.attrs[i].val.cooperative != 0;
  const unsigned blocks = config.gridDim.x, threads = config.blockDim.x;
  if (config.gridDim.y * config.gridDim.z * config.blockDim.y * config.blockDim.z != 1) {
    return failed(cudaErrorInvalidConfiguration, "grids and blocks have one dimension here");
  }
  if (blocks == 0 || blocks > 0x7fffffffu || threads == 0 || threads > kMaxThreads) {
    return failed(cudaErrorInvalidConfiguration,
                  std::to_string(blocks) + " blocks of " + std::to_string(threads) + " threads cannot be launched");
  }
  if (config.dynamicSmemBytes > most_shared_bytes(kernel)) {
    return failed(cudaErrorInvalidValue, std::to_string(config.dynamicSmemBytes) +
                                             " bytes of shared memory: more than the kernel is allowed to have");
  }
  Grid grid(blocks, cooperative);
  if (cooperative) {
    const auto resident = static_cast<unsigned>(on.multiprocessors * on.blocks_per_multiprocessor);
    if (!on.cooperative_launch || blocks > resident) {
      return failed(cudaErrorCooperativeLaunchTooLarge, std::to_string(blocks) + " blocks together: the device holds " +
                                                            std::to_string(on.cooperative_launch ? resident : 0));
    }
    std::vector<std::thread> workers;
    for (unsigned block = 0; block < blocks; ++block) {
      workers.emplace_back([&, block] { run_block(grid, block, config, thread, order_seed); });
    }
    for (auto& worker : workers) worker.join();
  } else {
    std::vector<unsigned> order(blocks);
    std::iota(order.begin(), order.end(), 0u);
    if (order_seed != 0) Random(order_seed).shuffle(order);
    for (const unsigned block : order) {
      run_block(grid, block, config, thread, order_seed);
      if (grid.failed()) break;
    }
  }
  return grid.failed() ? failed(cudaErrorLaunchFailure, grid.message()) : cudaSuccess;
}

void* dynamic_shared() { return Block::current->shared(); }
Votes wait_for_block(bool predicate, const Where& where) {
  return Block::current->wait_for_others(State::at_block, predicate, where);
}
void wait_for_grid(const Where& where) { Block::current->wait_for_others(State::at_grid, false, where); }
std::uint64_t exchange(WarpOperation operation, unsigned mask, FromLane given, const Where& where) {
  return Block::current->exchange(operation, mask, given, where);
}

}  // namespace cuda_on_host
