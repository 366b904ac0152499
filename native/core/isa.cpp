#include "core/isa.hpp"

#include <stdexcept>

namespace befit {

std::vector<std::string> available_isas() {
  std::vector<std::string> out;
#if defined(BEFIT_X86)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vnni"))
    out.push_back("avx512");
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c")) out.push_back("avx2");
#endif
  out.push_back("generic");
  return out;
}

const Kernels* find_kernels(const std::string& isa) {
  std::string have;
  for (const std::string& name : available_isas()) {
    have += have.empty() ? name : ", " + name;
    if (name != isa) continue;
#if defined(BEFIT_X86)
    if (isa == "avx512") return kernels_avx512();
    if (isa == "avx2") return kernels_avx2();
#endif
    return kernels_generic();
  }
  throw std::invalid_argument("instruction set '" + isa + "' is not available; this machine runs: " + have);
}

}  // namespace befit
