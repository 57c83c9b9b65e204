// Which of the compiled instruction sets the kernels use.
#pragma once

namespace dynamicseg {

enum class InstructionSet { baseline, avx2, avx512 };

InstructionSet active_instruction_set();

}  // namespace dynamicseg
