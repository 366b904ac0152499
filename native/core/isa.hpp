// Which kernels this CPU can run.
#pragma once
#include <string>
#include <vector>

#include "core/kernels.hpp"

namespace befit {

std::vector<std::string> available_isas();  // best first
// Throws std::invalid_argument when this build or this CPU lacks it.
const Kernels* find_kernels(const std::string& isa);

}  // namespace befit
