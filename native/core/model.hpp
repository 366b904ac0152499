// A lowered program with its weights, KV pool and activation buffers, run one whole step a call.
#pragma once
#include <algorithm>
#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "core/kernels.hpp"
#include "core/pool.hpp"
#include "core/sampler.hpp"
#include "core/weight.hpp"

namespace befit {

// One step's input; see StepBatch in backends/base.py for the meanings.
struct Batch {
  int tokens_count, seqs, blocks, rows_count;  // T, S, width of block_tables, R
  const int32_t *tokens, *positions, *query_start, *context_len, *block_tables, *rows, *targets, *logprobs;
  std::vector<Sampler*> samplers;
};

// Activations [count, width]: float32, and integers where a quantised matrix reads them. `local` values are computed by
// every thread for itself when there is just one token, which saves a barrier.
class Value {
 public:
  struct View {
    float* f = nullptr;
    QAct q;
  };
  int width = 0;
  bool floats = false, quantized = false, wide = false, local = false;

  void allocate(int tokens, int threads);
  const View& view(int thread, int count) const { return local && count == 1 ? private_[thread] : shared_; }
  const View& shared() const { return shared_; }
  float* row(const View& v, int token) const { return v.f + (size_t)token * width; }

 private:
  View make(int tokens);
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

// Ops run on every thread at once. run() returns only when what it wrote may be read by any thread.
struct Op {
  bool rows_only = false;  // works on the R rows that need logits instead of all T tokens
  std::atomic<int> next{0};
  virtual ~Op() = default;
  virtual void run(const Step&) = 0;

 protected:
  int count(const Step& s) const { return rows_only ? s.batch.rows_count : s.batch.tokens_count; }
  // Calls work(first, last) until all units are done. With few tokens each thread has its fixed share, which lies in
  // its own cache from step to step; with more, units are taken as threads get to them, so that a thread that loses
  // its core for a while does not hold up the rest.
  template <typename Work> void divide(const Step& s, int units, int tokens, const Work& work) {
    if (tokens < 4) {
      const auto [first, last] = s.share(units);
      if (first < last) work(first, last);
      return;
    }
    const int some = std::max(1, units / (4 * s.threads));
    for (int u; (u = next.fetch_add(some)) < units;) work(u, std::min(u + some, units));
  }
};

class Model {
 public:
  Model(const Kernels& kernels, int threads, bool wide, int max_tokens, int max_rows, int pages);

  int add_value(int width, bool floats, bool quantized, bool local);
  int add_matrix(Matrix form);  // memory for it; its weights come later, from pack or read
  void pack(const std::vector<std::pair<int, Source>>& weights);
  // Weights that were packed before and lie in a file, from the bytes given. Throws std::runtime_error.
  void read(int file, const std::vector<std::pair<int, size_t>>& weights);
  int add_rope(int dim, bool interleaved, float scale, std::vector<double> inv_freq);
  // Room in every page for a layer's keys and values; returns the offset in elements.
  size_t add_layer(int kv_heads, int head_dim);
  void add_op(std::unique_ptr<Op> op) { ops_.push_back(std::move(op)); }
  void set_logits(int value, int vocab) { logits_ = value; vocab_ = vocab; }
  void finish();

  void forward(const Batch&);                  // leaves the logits in the logits value
  std::vector<Sampled> step(const Batch&);     // forward, then sample or score each row
  float* logits(int row) { return values[logits_].row(values[logits_].shared(), row); }
  int vocab() const { return vocab_; }
  size_t page_elements() const { return page_elements_; }
  size_t weight_bytes() const { return weights_.used(); }

  const Kernels& kernels;
  ThreadPool pool;
  const bool wide;  // activations of quantised matrices have 16 bits, not 8
  const int max_tokens, max_rows, pages;
  std::vector<Value> values;
  std::vector<Matrix> matrices;
  std::vector<RopeTable> ropes;
  uint16_t* kv() const { return (uint16_t*)kv_.data(); }

 private:
  void run(const Batch&, int thread);
  void sample(const Batch&, std::vector<Sampled>&);

  std::vector<std::unique_ptr<Op>> ops_;
  std::atomic<int> next_row_{0};
  Arena weights_;
  Memory kv_;
  size_t page_elements_ = 0;
  int logits_ = -1, vocab_ = 0;
};

inline void Step::barrier() const { model.pool.barrier(); }

}  // namespace befit
