#include "core/isa.hpp"

#include <stdexcept>

#if defined(BEFIT_X86) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace befit {
#if defined(BEFIT_X86)
namespace {

// AMX registers are large, so Linux hands them out only to processes that ask (arch_prctl, since 5.16).
bool amx_granted() {
#if defined(__linux__)
  unsigned a, b, c, d;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d >> 24 & 1) || !(d >> 25 & 1)) return false;  // tiles, int8
  constexpr long request_permission = 0x1023, tile_data = 18;
  return syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
#else
  return false;
#endif
}

}  // namespace
#endif

std::vector<std::string> available_isas() {
  std::vector<std::string> out;
#if defined(BEFIT_X86)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vnni")) {
    static const bool amx = amx_granted();
    if (amx) out.push_back("amx");
    out.push_back("avx512");
  }
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
    if (isa == "amx") return kernels_amx();
    if (isa == "avx512") return kernels_avx512();
    if (isa == "avx2") return kernels_avx2();
#endif
    return kernels_generic();
  }
  throw std::invalid_argument("instruction set '" + isa + "' is not available; this machine runs: " + have);
}

}  // namespace befit
