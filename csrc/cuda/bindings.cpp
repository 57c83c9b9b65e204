// The Python face of the CUDA kernels; see csrc/bindings.cpp, whose types of parameters it takes. The types are in
// dynamicseg/_native_cuda.pyi.

#include <pybind11/pybind11.h>

#include <cstdint>

#include "cuda/device.h"
#include "dynamicseg/batch_norm_dynamic_loss.h"
#include "dynamicseg/dynamic_loss.h"
#include "dynamicseg/relu_batch_norm.h"

namespace py = pybind11;
using namespace dynamicseg;

namespace {

CudaLaunch cuda_launch(std::uintptr_t stream, std::uintptr_t workspace, bool cooperative) {
  return {reinterpret_cast<void*>(stream), reinterpret_cast<void*>(workspace), cooperative};
}

py::dict build_info() {
  py::dict info;
  info["compiler"] = DYNAMICSEG_CUDA_COMPILER;
  info["architectures"] = DYNAMICSEG_CUDA_ARCHITECTURES;
  return info;
}

// `name_workspace_bytes(params)` and `name(params, launch)`.
template <class Params>
void add_kernel(py::module_& m, const std::string& name, std::int64_t (*workspace_bytes)(const Params&),
                void (*launch)(const Params&, const CudaLaunch&)) {
  m.def((name + "_workspace_bytes").c_str(), workspace_bytes, py::arg("params"),
        py::call_guard<py::gil_scoped_release>());
  m.def(name.c_str(), launch, py::arg("params"), py::arg("launch"), py::call_guard<py::gil_scoped_release>());
}

}  // namespace

PYBIND11_MODULE(DYNAMICSEG_CUDA_MODULE, m) {
  m.doc() = "The CUDA kernels of DynamicSeg. Not public: use dynamicseg.ops.";
  py::module_::import("dynamicseg._native");  // which knows the types of parameters

  py::class_<CudaLaunch>(m, "CudaLaunch", py::module_local())
      .def(py::init(&cuda_launch), py::kw_only(), py::arg("stream"), py::arg("workspace"),
           py::arg("cooperative") = false);
  add_kernel(m, "dynamic_loss", &dynamic_loss_workspace_bytes, &launch_dynamic_loss);
  add_kernel(m, "dynamic_loss_backward", &dynamic_loss_workspace_bytes, &launch_dynamic_loss_backward);
  add_kernel(m, "batch_norm_dynamic_loss", &batch_norm_dynamic_loss_workspace_bytes, &launch_batch_norm_dynamic_loss);
  add_kernel(m, "relu_batch_norm", &relu_batch_norm_workspace_bytes, &launch_relu_batch_norm);
  add_kernel(m, "relu_batch_norm_backward", &relu_batch_norm_workspace_bytes, &launch_relu_batch_norm_backward);
  m.def("problem_of_current_device", &problem_of_current_device);
  m.def("build_info", &build_info);
}
