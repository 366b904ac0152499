// The fused ops that a program is lowered to.
#pragma once
#include <optional>

#include "core/model.hpp"

namespace befit {

// out[t] = table[token[t]] * scale
struct EmbedOp : Op {
  Source table;
  int out;
  float scale;
  void run(const Step&) override;
};

// out = norm(x) * weight (+ bias); or, when `add`, out += norm(x) * weight. Writes floats, and the integers of a local value.
struct NormOp : Op {
  int x, out;
  std::vector<float> weight, bias;
  bool layer = false, add = false;
  float eps;
  void run(const Step&) override;

 private:
  void one(const Step&, int from, int to, int count);
};

// One or more matrices over the same input, as one piece of work: act(x @ matrix.T + bias) stored, or added to out.
struct LinearOp : Op {
  struct Part {
    int matrix, out;
    std::vector<float> bias;
    bool add = false;
    std::optional<Activation> act;
  };
  int x;
  std::vector<Part> parts;
  void run(const Step&) override;
};

// out = act(x @ gate.T + gate_bias) * (x @ up.T + up_bias)
struct GatedOp : Op {
  int x, out, gate, up;
  std::vector<float> gate_bias, up_bias;
  Activation act;
  void run(const Step&) override;
};

// Norms and rotates queries and keys, writes the cache, attends. Shapes as in models/program.py.
struct AttentionOp : Op {
  int q, k, v, out;
  int dim;
  float scale;
  int rope = -1;
  int window = 0;  // 0: none
  std::vector<float> q_norm, k_norm;
  std::vector<float> k_center;  // [kv_heads * dim] subtracted from keys before they are rounded to int8; may be empty
  float norm_eps;
  size_t layer;  // offset of the layer inside a page
  AttentionPlan* plan;  // the model's
  void run(const Step&) override;

 private:
  void store(const Step&, int token, int seq, int head) const;
  void queries(const Step&, const AttentionPlan::Block&, int head, float* to) const;
  void attend(const Step&, const AttentionPlan::Unit&, int head) const;
  void finish(const Step&, const AttentionPlan::Block&, int head, const float* results) const;
  void rotate(const Step&, int token, float* x) const;
};

// Behind the last attention no token needs another's: where the batch narrows, the values that are still read keep only the
// R rows whose logits are wanted, moved to the front.
struct SelectOp : Op {
  std::vector<int> values;
  void run(const Step&) override;
};

// out = a + b, act(a), or act(a) * b, element by element, over floats; or, from a's floats, its integers.
struct ElementOp : Op {
  enum Kind { add, activate, gated, quantize } kind;
  int a, b = -1, out = -1;
  Activation act = Activation::silu;
  void run(const Step&) override;
};

}  // namespace befit
