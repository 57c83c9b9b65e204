// Memory for large arrays on the CPU: mapping it anew for each result costs more than computing the result.
#pragma once

#include <cstddef>

namespace dynamicseg {

// `bytes` of memory in large pages where the system gives them. The memory that was given back last is kept, and handed
// out again for a result of the same size; not above 256 MB, unless in a loop that keeps memory, see below.
// Throws std::bad_alloc.
void* take_result_memory(std::size_t bytes);
void give_back_result_memory(void* memory, std::size_t bytes) noexcept;

// Between `begin` and the `end` that belongs to it, the C library keeps freed memory of any size for its next use. This
// is for a training loop, whose every step frees and asks for the same large arrays. It holds for the whole process;
// pairs may overlap, and after the last `end` what is free goes back to the system. Does nothing where the C library is
// not glibc.
void begin_keeping_freed_memory();
void end_keeping_freed_memory();

}  // namespace dynamicseg
