# The module _native_cuda, if there is an nvcc for it: sets DYNAMICSEG_WITH_CUDA, DYNAMICSEG_CUDA_REASON in words, and
# DYNAMICSEG_CUDA_PROBLEM where there is one.

include(CheckLanguage)
check_language(CUDA)
if(NOT CMAKE_CUDA_COMPILER)
  set(DYNAMICSEG_CUDA_PROBLEM "no CUDA compiler was found")
  set(DYNAMICSEG_CUDA_REASON "no CUDA compiler was found when DynamicSeg was built")
  return()
endif()
set(CMAKE_CUDA_ARCHITECTURES OFF)  # each target says what for
enable_language(CUDA)
if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)  # CMake before 3.26 does not know that nvcc 12 has C++20
  set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION -std=c++20)
  set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION -std=c++20)
endif()
if(CMAKE_CUDA_COMPILER_VERSION VERSION_LESS 12.4)
  set(DYNAMICSEG_CUDA_PROBLEM "nvcc ${CMAKE_CUDA_COMPILER_VERSION} is older than 12.4")
  set(DYNAMICSEG_CUDA_REASON "DynamicSeg was built where ${DYNAMICSEG_CUDA_PROBLEM}")
  return()
endif()

if(DYNAMICSEG_CUDA_ARCHITECTURES STREQUAL "")
  # A third of the time that all of them take to compile. Other GPUs compile the PTX when it is first used.
  set(architectures 75-virtual 80-virtual 90-real)
elseif(NOT DYNAMICSEG_CUDA_ARCHITECTURES STREQUAL "all")
  set(architectures ${DYNAMICSEG_CUDA_ARCHITECTURES})
elseif(CMAKE_CUDA_COMPILER_VERSION VERSION_LESS 12.8)
  set(architectures 75-real 80-real 86-real 89-real 90)
else()
  set(architectures 75-real 80-real 86-real 89-real 90-real 100-real 120)  # without -real: PTX as well
endif()
list(JOIN architectures " " architectures_text)

pybind11_add_module(_native_cuda NO_EXTRAS csrc/cuda/bindings.cpp ${DYNAMICSEG_CUDA_SOURCES})
set_target_properties(_native_cuda PROPERTIES CUDA_ARCHITECTURES "${architectures}" CUDA_VISIBILITY_PRESET hidden
  CUDA_RUNTIME_LIBRARY Static)
target_include_directories(_native_cuda PRIVATE csrc csrc/include)
# No fast-math: subnormal differences have a sign, and divisions are exact. --threads: one for each architecture.
target_compile_options(_native_cuda PRIVATE
  $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -Wpedantic -Wconversion -Wshadow>
  $<$<COMPILE_LANGUAGE:CUDA>:--threads=0 -Xcompiler=-Wall,-Wextra>
  $<$<AND:$<BOOL:${DYNAMICSEG_WERROR}>,$<COMPILE_LANGUAGE:CUDA>>:-Werror=all-warnings -Xcompiler=-Werror>)
# Symbols of the CUDA runtime, which is linked statically, stay inside: PyTorch brings another one.
target_link_options(_native_cuda PRIVATE -Wl,--exclude-libs,ALL)
target_compile_definitions(_native_cuda PRIVATE DYNAMICSEG_CUDA_MODULE=_native_cuda
  DYNAMICSEG_CUDA_COMPILER="nvcc ${CMAKE_CUDA_COMPILER_VERSION}" DYNAMICSEG_CUDA_ARCHITECTURES="${architectures_text}")
install(TARGETS _native_cuda DESTINATION dynamicseg)

set(DYNAMICSEG_WITH_CUDA 1)
set(DYNAMICSEG_CUDA_REASON "compiled by nvcc ${CMAKE_CUDA_COMPILER_VERSION} for ${architectures_text}")
