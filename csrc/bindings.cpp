// The Python face of the native core: addresses and plain values in, nothing out. Python checks and allocates
// (dynamicseg/ops); the types are in dynamicseg/_native.pyi.

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "dynamicseg/batch_norm_dynamic_loss.h"
#include "dynamicseg/cpu_runtime.h"
#include "dynamicseg/dynamic_loss.h"
#include "dynamicseg/felzenszwalb.h"
#include "dynamicseg/memory.h"
#include "dynamicseg/region_tree.h"
#include "dynamicseg/relu_batch_norm.h"

namespace py = pybind11;
using namespace dynamicseg;

namespace {

using FourIntegers = std::array<std::int64_t, 4>;

template <class Target>
Target* pointer(std::uintptr_t address) {
  return reinterpret_cast<Target*>(address);
}

DType dtype_named(const std::string& name) {
  if (name == "float32") return DType::float32;
  if (name == "float64") return DType::float64;
  if (name == "bfloat16") return DType::bfloat16;
  if (name == "float16") return DType::float16;
  throw std::invalid_argument("no kernel for dtype " + name);
}

MemoryFormat format_named(const std::string& name) {
  if (name == "contiguous") return MemoryFormat::contiguous;
  if (name == "channels_last") return MemoryFormat::channels_last;
  throw std::invalid_argument("no kernel for memory format " + name);
}

Weighting weighting_named(const std::string& name) {
  if (name == "fsf") return Weighting::fsf;
  if (name == "scf") return Weighting::scf;
  if (name == "fixed") return Weighting::fixed;
  throw std::invalid_argument("no weighting is named " + name);
}

Continuity continuity_named(const std::string& name) {
  if (name == "l1") return Continuity::l1;
  if (name == "huber") return Continuity::huber;
  throw std::invalid_argument("no continuity is named " + name);
}

MapStrides strides_of(const FourIntegers& s) { return {s[0], s[1], s[2], s[3]}; }

DynamicLossParams dynamic_loss_params(std::uintptr_t x, const std::string& dtype, const std::string& format,
                                      const FourIntegers& shape, const FourIntegers& strides, std::uintptr_t mask,
                                      std::uintptr_t superpixels, std::int64_t superpixel_count,
                                      std::uintptr_t scribbles, std::uintptr_t guide, std::uintptr_t guide_weight,
                                      double scribble_weight, const std::string& weighting, double mu,
                                      std::int64_t label_floor, const std::string& continuity_kind, bool diagonals,
                                      std::uintptr_t labels, std::uintptr_t logsumexp, std::uintptr_t label_counts,
                                      std::uintptr_t similarity, std::uintptr_t continuity, std::uintptr_t weight,
                                      std::uintptr_t loss, std::uintptr_t scribble_cross_entropy,
                                      std::uintptr_t guide_cross_entropy, std::uintptr_t grad_x,
                                      const FourIntegers& grad_strides, std::uintptr_t grad_loss) {
  DynamicLossParams params{};
  params.x = pointer<const void>(x);
  params.dtype = dtype_named(dtype);
  params.format = format_named(format);
  params.shape = {shape[0], shape[1], shape[2], shape[3]};
  params.strides = strides_of(strides);
  params.mask = pointer<const std::uint8_t>(mask);
  params.superpixels = pointer<const std::int32_t>(superpixels);
  params.superpixel_count = superpixel_count;
  params.scribbles = pointer<const std::int64_t>(scribbles);
  params.guide = pointer<const std::int64_t>(guide);
  params.guide_weight = pointer<const void>(guide_weight);
  params.scribble_weight = scribble_weight;
  params.weighting = weighting_named(weighting);
  params.mu = mu;
  params.label_floor = label_floor;
  params.continuity_kind = continuity_named(continuity_kind);
  params.diagonals = diagonals;
  params.labels = pointer<std::int64_t>(labels);
  params.logsumexp = pointer<void>(logsumexp);
  params.label_counts = pointer<std::int64_t>(label_counts);
  params.similarity = pointer<void>(similarity);
  params.continuity = pointer<void>(continuity);
  params.weight = pointer<void>(weight);
  params.loss = pointer<void>(loss);
  params.scribble_cross_entropy = pointer<void>(scribble_cross_entropy);
  params.guide_cross_entropy = pointer<void>(guide_cross_entropy);
  params.grad_x = pointer<void>(grad_x);
  params.grad_strides = strides_of(grad_strides);
  params.grad_loss = pointer<const void>(grad_loss);
  return params;
}

ReluBatchNormParams relu_batch_norm_params(std::uintptr_t x, const std::string& dtype, const std::string& format,
                                           const FourIntegers& shape, const FourIntegers& strides, bool relu,
                                           double eps, std::uintptr_t weight, std::uintptr_t bias, std::uintptr_t mean,
                                           std::uintptr_t rstd, std::uintptr_t y, const FourIntegers& y_strides,
                                           std::uintptr_t grad_y, const FourIntegers& grad_y_strides,
                                           std::uintptr_t grad_x, const FourIntegers& grad_x_strides,
                                           std::uintptr_t grad_weight, std::uintptr_t grad_bias) {
  ReluBatchNormParams params{};
  params.x = pointer<const void>(x);
  params.dtype = dtype_named(dtype);
  params.format = format_named(format);
  params.shape = {shape[0], shape[1], shape[2], shape[3]};
  params.strides = strides_of(strides);
  params.relu = relu;
  params.eps = eps;
  params.weight = pointer<const void>(weight);
  params.bias = pointer<const void>(bias);
  params.mean = pointer<void>(mean);
  params.rstd = pointer<void>(rstd);
  params.y = pointer<void>(y);
  params.y_strides = strides_of(y_strides);
  params.grad_y = pointer<const void>(grad_y);
  params.grad_y_strides = strides_of(grad_y_strides);
  params.grad_x = pointer<void>(grad_x);
  params.grad_x_strides = strides_of(grad_x_strides);
  params.grad_weight = pointer<void>(grad_weight);
  params.grad_bias = pointer<void>(grad_bias);
  return params;
}

BatchNormDynamicLossParams batch_norm_dynamic_loss_params(const DynamicLossParams& loss, double eps,
                                                          std::uintptr_t weight, std::uintptr_t bias,
                                                          std::uintptr_t grad_weight, std::uintptr_t grad_bias) {
  BatchNormDynamicLossParams params{};
  params.loss = loss;
  params.eps = eps;
  params.weight = pointer<const void>(weight);
  params.bias = pointer<const void>(bias);
  params.grad_weight = pointer<void>(grad_weight);
  params.grad_bias = pointer<void>(grad_bias);
  return params;
}

void felzenszwalb(std::uintptr_t image, const std::array<std::int64_t, 3>& shape, const std::vector<double>& scales,
                  const std::vector<std::int64_t>& min_sizes, bool wide_edges, std::uintptr_t segments) {
  if (scales.size() != min_sizes.size()) throw std::invalid_argument("as many min_sizes as scales are needed");
  FelzenszwalbParams params{};
  params.image = pointer<const float>(image);
  params.height = shape[0];
  params.width = shape[1];
  params.channels = shape[2];
  params.scales = scales.data();
  params.min_sizes = min_sizes.data();
  params.count = static_cast<std::int64_t>(scales.size());
  params.wide_edges = wide_edges;
  params.segments = pointer<std::int64_t>(segments);
  felzenszwalb_cpu(params);
}

void merge_neighbours(std::int64_t leaves, std::int64_t colours, std::int64_t features, std::uintptr_t areas,
                      std::uintptr_t means, std::int64_t pairs, std::uintptr_t first, std::uintptr_t second,
                      std::uintptr_t lengths, std::uintptr_t gradients, double gradient_weight, double half_area,
                      std::uintptr_t children) {
  MergeNeighboursParams params{};
  params.leaves = leaves;
  params.colours = colours;
  params.features = features;
  params.areas = pointer<const double>(areas);
  params.means = pointer<const double>(means);
  params.pairs = pairs;
  params.first = pointer<const std::int64_t>(first);
  params.second = pointer<const std::int64_t>(second);
  params.lengths = pointer<const double>(lengths);
  params.gradients = pointer<const double>(gradients);
  params.gradient_weight = gradient_weight;
  params.half_area = half_area;
  params.children = pointer<std::int64_t>(children);
  merge_neighbours_cpu(params);
}

void stability(std::int64_t leaves, std::uintptr_t children, std::uintptr_t areas, std::int64_t segmentations,
               std::uintptr_t first_region, std::uintptr_t region_areas, std::uintptr_t row_begin,
               std::uintptr_t regions, std::uintptr_t pixels, std::uintptr_t result) {
  StabilityParams params{};
  params.leaves = leaves;
  params.children = pointer<const std::int64_t>(children);
  params.areas = pointer<const std::int64_t>(areas);
  params.segmentations = segmentations;
  params.first_region = pointer<const std::int64_t>(first_region);
  params.region_areas = pointer<const std::int64_t>(region_areas);
  params.row_begin = pointer<const std::int64_t>(row_begin);
  params.regions = pointer<const std::int64_t>(regions);
  params.pixels = pointer<const std::int64_t>(pixels);
  params.stability = pointer<double>(result);
  stability_cpu(params);
}

// Holds the memory of one result for as long as Python does.
class ResultMemory {
 public:
  explicit ResultMemory(std::size_t bytes) : bytes_(bytes), memory_(take_result_memory(bytes)) {}
  ~ResultMemory() { give_back_result_memory(memory_, bytes_); }
  ResultMemory(const ResultMemory&) = delete;
  ResultMemory& operator=(const ResultMemory&) = delete;

  py::buffer_info buffer() const {
    return py::buffer_info(static_cast<std::uint8_t*>(memory_), static_cast<py::ssize_t>(bytes_));
  }

 private:
  std::size_t bytes_;
  void* memory_;
};

py::dict build_info() {
  py::dict info;
  info["compiler"] = DYNAMICSEG_COMPILER;
  info["build_type"] = DYNAMICSEG_BUILD_TYPE;
  info["cuda"] = DYNAMICSEG_WITH_CUDA != 0;
  info["cuda_reason"] = DYNAMICSEG_CUDA_REASON;
  return info;
}

}  // namespace

PYBIND11_MODULE(_native, m) {
  m.doc() = "The native core of DynamicSeg. Not public: use dynamicseg.ops.";

  py::class_<DynamicLossParams>(m, "DynamicLossParams")
      .def(py::init(&dynamic_loss_params), py::kw_only(), py::arg("x"), py::arg("dtype"), py::arg("format"),
           py::arg("shape"), py::arg("strides"), py::arg("mask"), py::arg("superpixels"), py::arg("superpixel_count"),
           py::arg("scribbles"), py::arg("guide"), py::arg("guide_weight"), py::arg("scribble_weight"),
           py::arg("weighting"), py::arg("mu"), py::arg("label_floor"), py::arg("continuity_kind"),
           py::arg("diagonals"), py::arg("labels"), py::arg("logsumexp"), py::arg("label_counts"),
           py::arg("similarity"), py::arg("continuity"), py::arg("weight"), py::arg("loss"),
           py::arg("scribble_cross_entropy"), py::arg("guide_cross_entropy"), py::arg("grad_x"),
           py::arg("grad_strides"), py::arg("grad_loss"));
  m.def("dynamic_loss", &dynamic_loss_cpu, py::arg("params"), py::call_guard<py::gil_scoped_release>());
  m.def("dynamic_loss_backward", &dynamic_loss_backward_cpu, py::arg("params"),
        py::call_guard<py::gil_scoped_release>());

  py::class_<BatchNormDynamicLossParams>(m, "BatchNormDynamicLossParams")
      .def(py::init(&batch_norm_dynamic_loss_params), py::kw_only(), py::arg("loss"), py::arg("eps"), py::arg("weight"),
           py::arg("bias"), py::arg("grad_weight"), py::arg("grad_bias"));
  m.def("batch_norm_dynamic_loss", &batch_norm_dynamic_loss_cpu, py::arg("params"),
        py::call_guard<py::gil_scoped_release>());

  py::class_<ReluBatchNormParams>(m, "ReluBatchNormParams")
      .def(py::init(&relu_batch_norm_params), py::kw_only(), py::arg("x"), py::arg("dtype"), py::arg("format"),
           py::arg("shape"), py::arg("strides"), py::arg("relu"), py::arg("eps"), py::arg("weight"), py::arg("bias"),
           py::arg("mean"), py::arg("rstd"), py::arg("y"), py::arg("y_strides"), py::arg("grad_y"),
           py::arg("grad_y_strides"), py::arg("grad_x"), py::arg("grad_x_strides"), py::arg("grad_weight"),
           py::arg("grad_bias"));
  m.def("relu_batch_norm", &relu_batch_norm_cpu, py::arg("params"), py::call_guard<py::gil_scoped_release>());
  m.def("relu_batch_norm_backward", &relu_batch_norm_backward_cpu, py::arg("params"),
        py::call_guard<py::gil_scoped_release>());

  m.def("felzenszwalb", &felzenszwalb, py::kw_only(), py::arg("image"), py::arg("shape"), py::arg("scales"),
        py::arg("min_sizes"), py::arg("wide_edges"), py::arg("segments"), py::call_guard<py::gil_scoped_release>());

  m.def("merge_neighbours", &merge_neighbours, py::kw_only(), py::arg("leaves"), py::arg("colours"),
        py::arg("features"), py::arg("areas"), py::arg("means"), py::arg("pairs"), py::arg("first"), py::arg("second"),
        py::arg("lengths"), py::arg("gradients"), py::arg("gradient_weight"), py::arg("half_area"), py::arg("children"),
        py::call_guard<py::gil_scoped_release>());
  m.def("stability", &stability, py::kw_only(), py::arg("leaves"), py::arg("children"), py::arg("areas"),
        py::arg("segmentations"), py::arg("first_region"), py::arg("region_areas"), py::arg("row_begin"),
        py::arg("regions"), py::arg("pixels"), py::arg("stability"), py::call_guard<py::gil_scoped_release>());

  py::class_<ResultMemory>(m, "ResultMemory", py::buffer_protocol())
      .def(py::init<std::size_t>(), py::arg("bytes"))
      .def_buffer(&ResultMemory::buffer);
  m.def("begin_keeping_freed_memory", &begin_keeping_freed_memory);
  m.def("end_keeping_freed_memory", &end_keeping_freed_memory);
  m.def(
      "set_threads",
      [](int threads, std::uintptr_t openmp_parallel) {
        set_threads(threads, reinterpret_cast<OpenMPParallel>(openmp_parallel));
      },
      py::arg("threads"), py::arg("openmp_parallel"));
  m.def("thread_count", &thread_count);
  m.def("uses_openmp", &uses_openmp);
  m.def("available_instruction_sets", &available_instruction_sets);
  m.def("instruction_set", &instruction_set);
  m.def("set_instruction_set", &set_instruction_set, py::arg("name"));
  m.def("build_info", &build_info);
}
