// A lowered program with its weights, KV pool and activation buffers, run one whole step a call.
#pragma once
#include <algorithm>
#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "core/gate.hpp"
#include "core/kernels.hpp"
#include "core/plan.hpp"
#include "core/pool.hpp"
#include "core/sampler.hpp"
#include "core/weight.hpp"

namespace befit {

// One step's input; see StepBatch in backends/base.py for the meanings.
struct Batch {
  int tokens_count, seqs, blocks, rows_count;  // T, S, width of block_tables, R
  const int32_t *tokens, *positions, *query_start, *context_len, *block_tables, *rows, *targets, *logprobs;
  const int32_t* drafts;  // null when no row has one
  int hidden_count;       // H
  const int32_t* hidden;
  std::vector<Sampler*> samplers;
  // Masks of allowed tokens, which others may still write until the gate opens; null when no row has one.
  const uint32_t* mask_bits = nullptr;
  const int32_t* mask_index = nullptr;
  const Gate* masks_ready = nullptr;
  // Whether few tokens' results are wanted, in rising order: behind the last attention only those are computed.
  bool narrows = false;

  const uint32_t* mask(int row, int vocab) const {
    return mask_index && mask_index[row] >= 0 ? mask_bits + (size_t)mask_index[row] * ((vocab + 31) / 32) : nullptr;
  }
};

// Activations [count, width]: float32, and integers where a quantised matrix reads them. A single token's integers are made
// by every thread for itself, which saves a barrier; so are the floats of `local` values.
class Value {
 public:
  struct View {
    float* f = nullptr;
    QAct q;
  };
  int width = 0;
  bool floats = false, quantized = false, local = false;

  void allocate(int tokens, int threads);
  size_t bytes() const;  // of what was allocated
  const View& view(int thread, int count) const { return count == 1 && !private_.empty() ? private_[thread] : shared_; }
  const View& shared() const { return shared_; }
  float* row(const View& v, int token) const { return v.f + (size_t)token * width; }

 private:
  float* make_floats(int tokens);
  QAct make_integers(int tokens);
  View shared_;
  std::vector<View> private_;
  std::vector<Memory> memory_;
};

struct RopeTable {
  int dim = 0;
  bool interleaved = false;
  float scale = 1;
  std::vector<double> inv_freq;
  std::vector<float> turns;  // [T][dim]: cos of dim/2 pairs, then sin
};

class Model;

// What an op sees of the running step.
struct Step {
  Model& model;
  const Batch& batch;
  int thread, threads;
  void barrier() const;
  // The share [first, second) of n units of work that belongs to this thread.
  std::pair<int, int> share(int n) const { return {(int)((int64_t)n * thread / threads), (int)((int64_t)n * (thread + 1) / threads)}; }
};

// Work that threads divide among themselves: each begins with its own share, which lies in its own cache from step to
// step, and then helps the others, so that a thread that loses its core for a while does not hold up the rest.
class Division {
 public:
  void allocate(int threads) { taken_ = std::vector<Counter>(threads); }
  void reset() {
    for (Counter& c : taken_) c.units.store(0, std::memory_order_relaxed);
  }
  // Calls work(first, last) until all units are taken; may return before others have finished theirs.
  template <typename Work> void run(const Step& s, int units, const Work& work) {
    for (int i = 0; i < s.threads; i++) {
      const int owner = (s.thread + i) % s.threads;
      const auto [first, last] = Step{s.model, s.batch, owner, s.threads}.share(units);
      const int some = std::max(1, (last - first) / 8);
      std::atomic<int>& taken = taken_[owner].units;
      while (taken.load(std::memory_order_relaxed) < last - first) {
        const int u = first + taken.fetch_add(some, std::memory_order_relaxed);
        if (u < last) work(u, std::min(u + some, last));
      }
    }
  }

 private:
  struct alignas(64) Counter {
    std::atomic<int> units{0};
  };
  std::vector<Counter> taken_;
};

// Ops run on every thread at once. run() returns only when what it wrote may be read by any thread.
struct Op {
  bool rows_only = false;   // works on the R rows that need logits instead of all T tokens
  bool with_hidden = false;  // and, after them, on the H positions whose hidden states are asked for
  bool behind = false;       // behind a SelectOp: where the batch narrows, it works on the R rows, which come first
  Division division;
  std::atomic<int> next{0};
  virtual ~Op() = default;
  virtual void run(const Step&) = 0;
  int count(const Batch& b) const {
    if (behind && b.narrows) return b.rows_count;
    return rows_only ? b.rows_count + (with_hidden ? b.hidden_count : 0) : b.tokens_count;
  }
};

class Model {
 public:
  Model(const Kernels& kernels, int threads, KvType kv_type, int max_tokens, int max_rows, int pages);

  int add_value(int width, bool floats, bool quantized, bool local);
  int add_matrix(Matrix form);  // memory for it; its weights come later, from pack or read
  struct Rows {
    int matrix, first;  // the first row, a multiple of kTileRows
    Source from;
  };
  void pack(const std::vector<Rows>& weights);
  // Weights that were packed before and lie in a file, from the bytes given. Throws std::runtime_error.
  void read(int file, const std::vector<std::pair<int, size_t>>& weights);
  int add_rope(int dim, bool interleaved, float scale, std::vector<double> inv_freq);
  // Room in every page for a layer's keys and values; returns the offset in bytes.
  size_t add_layer(int kv_heads, int head_dim);
  // The one for all layers of this shape.
  AttentionPlan* plan(int kv_heads, int share, int dim, int window);
  void add_op(std::unique_ptr<Op> op) {
    op->behind = selected_;
    op->division.allocate(pool.size());
    ops_.push_back(std::move(op));
  }
  void select() { selected_ = true; }  // ops from here on are behind a SelectOp
  void set_logits(int value, int vocab) { logits_ = value; vocab_ = vocab; }
  void set_hidden(int value) { hidden_ = value; }
  void finish();

  void begin(const Batch&);                    // every op's work is to be divided anew
  // From any thread: the token's keys or values are not finite, nor then what sees them.
  void spoil(int token) {
    spoiled_[token].store(true, std::memory_order_relaxed);
    any_spoiled_.store(true, std::memory_order_relaxed);
  }
  std::vector<int> spoiled(const Batch&) const;  // those tokens of the last step
  void forward(const Batch&);                  // leaves the logits in the logits value
  std::vector<Sampled> step(const Batch&);     // forward, then sample or score each row
  float* logits(int row) { return values[logits_].row(values[logits_].shared(), row); }
  // What the head reads at position i of the H asked for.
  const float* hidden(const Batch& b, int i) const {
    const Value& v = values[hidden_];
    return v.row(v.view(0, b.rows_count + b.hidden_count), b.rows_count + i);
  }
  int hidden_width() const { return hidden_ < 0 ? 0 : values[hidden_].width; }
  int vocab() const { return vocab_; }
  size_t page_bytes() const { return page_bytes_; }
  size_t kv_bytes() const { return kv_.bytes(); }
  size_t weight_bytes() const { return weights_.used(); }
  size_t buffer_bytes() const;  // of values and rotations, once finish() has made them

  const Kernels& kernels;
  ThreadPool pool;
  const KvType kv_type;
  const int max_tokens, max_rows, pages;
  std::vector<Value> values;
  std::vector<Matrix> matrices;
  std::vector<RopeTable> ropes;
  uint8_t* kv() const { return kv_.data(); }

 private:
  void run(const Batch&, int thread);
  void sample(const Batch&, std::vector<Sampled>&);
  void sample_row(const Batch&, int row, Sampled&);
  bool sees_spoiled(const Batch&, int row) const;

  std::vector<std::unique_ptr<Op>> ops_;
  bool selected_ = false;
  std::vector<std::unique_ptr<AttentionPlan>> plans_;
  std::atomic<int> next_row_{0};
  std::unique_ptr<std::atomic<bool>[]> spoiled_;  // [max_tokens]
  std::atomic<bool> any_spoiled_{false};
  Arena weights_;
  Memory kv_;
  size_t page_bytes_ = 0;
  int logits_ = -1, hidden_ = -1, vocab_ = 0;
};

inline void Step::barrier() const { model.pool.barrier(); }

}  // namespace befit
