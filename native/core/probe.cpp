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
    : model_(kernels, threads, KvType::f16, tokens, tokens, 1), tokens_(tokens) {
  const int in = model_.add_value(source.columns, true, source.blocks != nullptr, false);
  out_ = model_.add_value(source.rows, true, false, false);
  op_.x = in;
  op_.division.allocate(threads);
  const int matrix = model_.add_matrix(source.packed());
  model_.pack({{matrix, 0, source}});
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

std::vector<float> attention(const Kernels& kernels, int threads, KvType type, const AttentionShape& shape, const float* q, const float* k,
                             const float* v, const std::vector<int>& table, const std::vector<int>& steps) {
  int tokens = 0, longest = 0;
  for (const int n : steps) tokens += n, longest = std::max(longest, n);
  const int width = shape.heads * shape.dim, kv_width = shape.kv_heads * shape.dim;
  Model m(kernels, threads, type, longest, 1, 1 + *std::max_element(table.begin(), table.end()));
  AttentionOp op;
  op.q = m.add_value(width, true, false, false);
  op.k = m.add_value(kv_width, true, false, false);
  op.v = m.add_value(kv_width, true, false, false);
  op.out = m.add_value(width, true, false, false);
  op.dim = shape.dim;
  op.scale = shape.scale;
  op.window = shape.window;
  op.layer = m.add_layer(shape.kv_heads, shape.dim);
  op.plan = m.plan(shape.kv_heads, shape.heads / shape.kv_heads, shape.dim, shape.window);
  m.finish();
  std::vector<float> out((size_t)tokens * width);
  int done = 0;
  for (const int n : steps) {
    const auto bring = [&](int value, const float* from, int columns) {
      memcpy(m.values[value].shared().f, from + (size_t)done * columns, sizeof(float) * n * columns);
    };
    bring(op.q, q, width);
    bring(op.k, k, kv_width);
    bring(op.v, v, kv_width);
    std::vector<int32_t> positions(n);
    for (int i = 0; i < n; i++) positions[i] = done + i;
    const int32_t start[2] = {0, n}, length = done + n;
    Batch batch{};
    batch.tokens_count = n;
    batch.seqs = 1;
    batch.blocks = (int)table.size();
    batch.positions = positions.data();
    batch.query_start = start;
    batch.context_len = &length;
    batch.block_tables = table.data();
    op.plan->make(batch, threads);
    op.next = 0;
    m.pool.run([&](int t) { op.run(Step{m, batch, t, threads}); });
    memcpy(&out[(size_t)done * width], m.values[op.out].shared().f, sizeof(float) * n * width);
    done += n;
  }
  return out;
}

const float* Product::row(int token) { return model_.values[out_].row(model_.values[out_].shared(), token); }

}  // namespace befit
