// How the attention of a step is shared out between threads.
#pragma once
#include <atomic>
#include <memory>
#include <vector>

#include "core/kernels.hpp"
#include "core/weight.hpp"

namespace befit {

struct Batch;

// A block is some queries of one sequence that share their KV heads' pages. Where a step has too few blocks to keep its
// threads evenly busy, the positions of a block are cut into units, at multiples of kAttnChunk. Whoever finishes the last
// unit of a block and KV head joins its partial results, so that no barrier is needed. One plan serves all layers of the
// same shape: a barrier lies between them.
class AttentionPlan {
 public:
  struct Block {
    int seq, from, to;  // tokens of the step
    int begin, end;     // positions that some query sees; begin is a multiple of kAttnChunk
    int units;          // for each KV head
    size_t parts;       // where its partial results begin when it has several units

    int chunks() const { return (end - begin + kAttnChunk - 1) / kAttnChunk; }
  };
  struct Unit {
    int block, begin, end;
    int64_t cost;
  };

  AttentionPlan(int kv_heads, int share, int dim, int window) : kv_heads(kv_heads), share(share), dim(dim), window(window) {}
  void make(const Batch&, int threads);
  const std::vector<Block>& blocks() const { return blocks_; }
  // The longest first. Each stands for a unit of every KV head.
  const std::vector<Unit>& units() const { return units_; }
  int rows(const Block& b) const { return (b.to - b.from) * share; }
  // Partial results [rows][dim + kAttnExtra] of the block's chunk, counted from its first.
  float* part(const Block& b, int head, int chunk) const {
    return (float*)parts_.data() + b.parts + (size_t)(head * b.chunks() + chunk) * rows(b) * (dim + kAttnExtra);
  }
  // Called once for each unit that is done: whether it was the last of its block and KV head.
  bool last(int block, int head) {
    std::atomic<int>& left = left_[(size_t)block * kv_heads + head];
    if (left.fetch_sub(1, std::memory_order_acq_rel) != 1) return false;
    left.store(blocks_[block].units, std::memory_order_relaxed);  // for the next layer
    return true;
  }

  const int kv_heads, share, dim, window;

 private:
  std::vector<Block> blocks_;
  std::vector<Unit> units_;
  Memory parts_;
  std::unique_ptr<std::atomic<int>[]> left_;
  size_t counters_ = 0;
};

}  // namespace befit
