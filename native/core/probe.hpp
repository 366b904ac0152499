// What this machine can do at best, measured: the limits that kernels are compared with.
#pragma once
#include <string>
#include <vector>

#include "core/ops.hpp"

namespace befit {

// Bytes a second that `threads` threads together read from `bytes` of memory, each its own share, in the best of the
// passes that fit into `seconds` (three at least).
double read_bandwidth(size_t bytes, int threads, double seconds);

// Multiply-adds a second on registers: of 8-bit integers as the instruction set's integer kernels take them, or of
// float32. Throws std::invalid_argument when this CPU lacks the instruction set.
double multiply_add_peak(const std::string& isa, bool integers, int threads, double seconds);

// x [tokens, columns] times a packed matrix, as a Linear op computes it.
class Product {
 public:
  Product(const Kernels&, const Source&, const float* x, int tokens, int threads);
  void run();  // the input is quantised already
  const float* row(int token);
  size_t weight_bytes() const { return model_.weight_bytes(); }

 private:
  Model model_;
  LinearOp op_;
  int tokens_, out_;
};

// Loops of one instruction set, see isa/probe.cpp. Each returns how many multiply-adds one turn of its loop makes.
struct PeakLoops {
  long (*integers)(long turns);
  long (*floats)(long turns);
};
PeakLoops peak_loops(const std::string& isa);
// Reads whole cache lines; the result depends on all of them, so that nothing can be left out.
uint64_t read_lines(const std::string& isa, const uint8_t* data, size_t bytes);

}  // namespace befit
