// The Python module befit.backends.native._native: builds a Model op by op, then runs it a step a call.
#include "bind/arrays.hpp"

NB_MODULE(_native, m) {
  m.def("isas", &befit::available_isas, "Instruction sets that this build has and this CPU runs, best first.");
  befit::bind::kernels(m);
  befit::bind::sampler(m);
  befit::bind::model(m);
}
