#include "core/probe.hpp"

#include <chrono>
#include <cstring>
#include <stdexcept>

#include "core/isa.hpp"

namespace befit {
namespace {

using Clock = std::chrono::steady_clock;

double since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

// The shortest of the passes of `work`, run on every thread of the pool.
template <typename Work> double best_pass(ThreadPool& pool, double seconds, const Work& work) {
  double best = 0;
  const auto begin = Clock::now();
  for (int pass = 0; pass < 4 || since(begin) < seconds; pass++) {
    const auto start = Clock::now();
    pool.run(work);
    const double time = since(start);
    if (pass == 1 || (pass > 1 && time < best)) best = time;  // the first pass wakes the threads and the clock
  }
  return best;
}

}  // namespace

double read_bandwidth(size_t bytes, int threads, double seconds) {
  if (threads < 1 || bytes < (size_t)threads * 4096) throw std::invalid_argument("reading needs a thread and 4096 bytes for each");
  const std::string isa = available_isas().front();
  const size_t share = bytes / threads / 64 * 64;
  Memory memory(share * threads);
  ThreadPool pool(threads);
  std::vector<uint64_t> sums(threads);
  pool.run([&](int t) { memset(memory.data() + share * t, t + 1, share); });
  const double time = best_pass(pool, seconds, [&](int t) { sums[t] += read_lines(isa, memory.data() + share * t, share); });
  return (double)share * threads / time;
}

double multiply_add_peak(const std::string& isa, bool integers, int threads, double seconds) {
  if (threads < 1) throw std::invalid_argument("a peak needs a thread");
  find_kernels(isa);  // refuses what this machine cannot run
  const PeakLoops loops = peak_loops(isa);
  const auto loop = integers ? loops.integers : loops.floats;
  constexpr long kTurns = 200000;  // about a millisecond
  ThreadPool pool(threads);
  std::vector<long> products(threads);
  const double time = best_pass(pool, seconds, [&](int t) { products[t] = loop(kTurns); });
  return (double)products[0] * kTurns * threads / time;
}

Product::Product(const Kernels& kernels, const Source& source, const float* x, int tokens, int threads)
    : model_(kernels, threads, tokens, tokens, 1), tokens_(tokens) {
  const int in = model_.add_value(source.columns, true, source.blocks != nullptr, false);
  out_ = model_.add_value(source.rows, true, false, false);
  op_.x = in;
  op_.division.allocate(threads);
  const int matrix = model_.add_matrix(source.packed());
  model_.pack({{matrix, source}});
  op_.parts.push_back({matrix, out_, {}, false, {}});
  model_.finish();
  const Value& value = model_.values[in];
  for (int thread = 0; thread < threads; thread++) {  // each may have a view of its own
    const Value::View& view = value.view(thread, tokens);
    for (int t = 0; t < tokens; t++) {
      memcpy(value.row(view, t), x + (size_t)t * source.columns, source.columns * sizeof(float));
      if (source.blocks) kernels.quantize(value.row(view, t), view.q, t);
    }
  }
}

void Product::run() {
  Batch batch{};
  batch.tokens_count = tokens_;
  op_.division.reset();
  model_.pool.run([&](int t) { op_.run(Step{model_, batch, t, model_.pool.size()}); });
}

const float* Product::row(int token) { return model_.values[out_].row(model_.values[out_].shared(), token); }

}  // namespace befit
