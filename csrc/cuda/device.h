// Whether this module's kernels can run on a device.
#pragma once

#include <string>

namespace dynamicseg {

// Why they cannot run on the device that is current; empty where they can.
std::string problem_of_current_device();

}  // namespace dynamicseg
