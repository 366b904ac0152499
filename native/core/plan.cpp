#include "core/plan.hpp"

#include <algorithm>

#include "core/model.hpp"

namespace befit {
namespace {

constexpr int kQueries = 16;         // of a block: enough rows to reuse a page from cache, few enough to balance
constexpr int kTogether = 8;         // rows that a kernel takes through the pages together, or nearly so
constexpr int kUnitsPerThread = 8;   // about so many even the threads out, and cost little to hand out

}  // namespace

void AttentionPlan::make(const Batch& batch, int threads) {
  blocks_.clear();
  units_.clear();
  const auto cost = [&](const Block& b) { return (int64_t)b.chunks() * ((rows(b) + kTogether - 1) / kTogether); };
  int64_t total = 0;
  for (int seq = 0; seq < batch.seqs; seq++)
    for (int from = batch.query_start[seq]; from < batch.query_start[seq + 1]; from += kQueries) {
      const int to = std::min(from + kQueries, (int)batch.query_start[seq + 1]);
      const int oldest = window ? std::max(0, batch.positions[from] - window + 1) : 0;
      blocks_.push_back({seq, from, to, oldest / kAttnChunk * kAttnChunk, batch.positions[to - 1] + 1, 1, 0});
      total += cost(blocks_.back()) * kv_heads;
    }
  const int64_t most = std::max<int64_t>(1, total / (threads * kUnitsPerThread));
  size_t parts = 0;
  for (int i = 0; i < (int)blocks_.size(); i++) {
    Block& b = blocks_[i];
    const int n = b.chunks();
    if (threads > 1) b.units = (int)std::min<int64_t>(n, (cost(b) + most - 1) / most);
    if (b.units > 1) {
      b.parts = parts;
      parts += (size_t)kv_heads * n * rows(b) * (dim + kAttnExtra);
    }
    for (int u = 0; u < b.units; u++)
      units_.push_back({i, b.begin + n * u / b.units * kAttnChunk, std::min(b.end, b.begin + n * (u + 1) / b.units * kAttnChunk), cost(b) / b.units});
  }
  std::sort(units_.begin(), units_.end(), [](const Unit& a, const Unit& b) { return std::pair(-a.cost, a.block) < std::pair(-b.cost, b.block); });
  if (parts * sizeof(float) > parts_.bytes()) parts_ = Memory(parts * sizeof(float));
  const size_t counters = blocks_.size() * kv_heads;
  if (counters > counters_) {
    left_ = std::make_unique<std::atomic<int>[]>(counters);
    counters_ = counters;
  }
  for (size_t i = 0; i < blocks_.size(); i++)
    for (int h = 0; h < kv_heads; h++) left_[i * kv_heads + h].store(blocks_[i].units, std::memory_order_relaxed);
}

}  // namespace befit
