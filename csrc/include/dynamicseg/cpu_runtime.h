// How the CPU kernels run: the instruction set they were compiled for, and whose threads they use.
#pragma once

#include <string>
#include <vector>

namespace dynamicseg {

// GOMP_parallel(task, data, threads, flags) of an OpenMP runtime: runs task(data) on a team of its threads.
using OpenMPParallel = void (*)(void (*task)(void*), void* data, unsigned threads, unsigned flags);

// How many threads a kernel may use, and the OpenMP runtime that lends them; without one, kernels start their own
// threads for each call. PyTorch's runtime keeps its threads spinning between parallel regions, and a second team of
// threads would have to share their cores with them.
void set_threads(int threads, OpenMPParallel openmp_parallel);
int thread_count();
bool uses_openmp();

// "avx512", "avx2", "baseline": those that this processor can run, best first.
std::vector<std::string> available_instruction_sets();
std::string instruction_set();
// Throws std::invalid_argument if the processor cannot run it.
void set_instruction_set(const std::string& name);

}  // namespace dynamicseg
