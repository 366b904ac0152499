// A model that is built op by op, and its weights.
#include "bind/arrays.hpp"

#include <memory>

namespace befit::bind {

namespace {

const Matrix& matrix_at(const Model& m, int matrix) {
  require(matrix >= 0 && matrix < (int)m.matrices.size(), "there is no matrix " + std::to_string(matrix));
  return m.matrices[matrix];
}

// Copied and padded with zeros to whole tiles, so that kernels never test for the end.
std::vector<float> padded(const MaybeFloats& x) {
  if (!x) return {};
  std::vector<float> out((x->size() + 31) / 32 * 32, 0.0f);
  memcpy(out.data(), x->data(), x->size() * sizeof(float));
  return out;
}

std::vector<float> exact(const MaybeFloats& x) {
  return x ? std::vector<float>(x->data(), x->data() + x->size()) : std::vector<float>{};
}

Activation activation(const std::string& name) {
  if (name == "silu") return Activation::silu;
  if (name == "gelu_tanh") return Activation::gelu_tanh;
  require(name == "gelu_erf", "unknown activation " + name);
  return Activation::gelu_erf;
}

template <typename Op> void add(Model& m, std::unique_ptr<Op> op) { m.add_op(std::move(op)); }

}  // namespace

void model(nb::module_& m) {
  nb::class_<Model> bound(m, "Model");
  bound
      .def("__init__",
           [](Model* self, const std::string& isa, int threads, const std::string& kv_type, int max_tokens, int max_rows, int pages) {
             require(threads > 0 && max_tokens > 0 && max_rows > 0 && pages > 0, "threads, tokens, rows and pages must be positive");
             new (self) Model(*find_kernels(isa), threads, kv_type_of(kv_type), max_tokens, max_rows, pages);
           },
           "isa"_a, "threads"_a, "kv_type"_a, "max_tokens"_a, "max_rows"_a, "pages"_a)
      .def("value", &Model::add_value, "width"_a, "floats"_a, "quantized"_a, "local"_a)
      .def("matrix", [](Model& m, int rows, int columns, const std::string& format) { return m.add_matrix(matrix_form(rows, columns, format)); },
           "rows"_a, "columns"_a, "format"_a, "Room for a matrix; `pack` or `read` must bring its weights before a step.")
      .def("pack",
           [](Model& m, const std::vector<std::tuple<int, int, Raw, std::string>>& weights) {
             std::vector<Model::Rows> some;
             for (const auto& [matrix, first, raw, format] : weights) {
               const Matrix& to = matrix_at(m, matrix);
               const Source whole = source_form(to.rows, to.columns, format);
               const size_t rows = raw.size() / whole.row_bytes();
               require(first >= 0 && first % kTileRows == 0 && rows > 0 && first + rows <= (size_t)to.rows &&
                           (rows % kTileRows == 0 || first + rows == (size_t)to.rows),
                       "rows " + std::to_string(first) + " to " + std::to_string(first + rows) + " are no whole tiles of " + std::to_string(to.rows) + " rows");
               some.push_back({matrix, first, source(raw, (int)rows, to.columns, format)});
               require(whole.packed().format == to.format, "matrix " + std::to_string(matrix) + " is not of " + format);
             }
             nb::gil_scoped_release release;
             m.pack(some);
           },
           "weights"_a, "weights: (matrix, first row, some of its rows, format)")
      .def("read",
           [](Model& m, int file, const std::vector<std::pair<int, size_t>>& weights) {
             for (const auto& [matrix, offset] : weights) matrix_at(m, matrix);
             nb::gil_scoped_release release;
             m.read(file, weights);
           },
           "file"_a, "weights"_a, "weights: (matrix, offset in the file)")
      .def("rope", &Model::add_rope, "dim"_a, "interleaved"_a, "scale"_a, "inv_freq"_a)
      .def("embed",
           [](Model& m, const Raw& raw, int rows, int columns, const std::string& format, int out, float scale) {
             auto op = std::make_unique<EmbedOp>();
             op->table = source(raw, rows, columns, format);
             op->out = out;
             op->scale = scale;
             add(m, std::move(op));
           },
           "raw"_a, "rows"_a, "columns"_a, "format"_a, "out"_a, "scale"_a, "The caller keeps `raw` alive: rows are read from it.")
      .def("norm",
           [](Model& m, int x, int out, const Floats& weight, const MaybeFloats& bias, bool layer, float eps, bool add_to, bool rows_only) {
             auto op = std::make_unique<NormOp>();
             op->x = x;
             op->out = out;
             op->weight = exact(weight);
             op->bias = exact(bias);
             op->layer = layer;
             op->eps = eps;
             op->add = add_to;
             op->rows_only = op->with_hidden = rows_only;
             if (rows_only) m.set_hidden(out);
             add(m, std::move(op));
           },
           "x"_a, "out"_a, "weight"_a, "bias"_a.none(), "layer"_a, "eps"_a, "add"_a, "rows_only"_a)
      .def("linear",
           [](Model& m, int x, const std::vector<std::tuple<int, int, MaybeFloats, bool, std::optional<std::string>>>& parts, bool rows_only) {
             auto op = std::make_unique<LinearOp>();
             op->x = x;
             op->rows_only = rows_only;
             for (const auto& [matrix, out, bias, add_to, act] : parts)
               op->parts.push_back({matrix, out, padded(bias), add_to, act ? std::optional(activation(*act)) : std::nullopt});
             add(m, std::move(op));
           },
           "x"_a, "parts"_a, "rows_only"_a, "parts: (matrix, out, bias, add, activation)")
      .def("gated",
           [](Model& m, int x, int gate, int up, const MaybeFloats& gate_bias, const MaybeFloats& up_bias, const std::string& act, int out) {
             auto op = std::make_unique<GatedOp>();
             op->x = x;
             op->gate = gate;
             op->up = up;
             op->gate_bias = padded(gate_bias);
             op->up_bias = padded(up_bias);
             op->act = activation(act);
             op->out = out;
             add(m, std::move(op));
           },
           "x"_a, "gate"_a, "up"_a, "gate_bias"_a.none(), "up_bias"_a.none(), "act"_a, "out"_a)
      .def("attention",
           [](Model& m, int q, int k, int v, int out, int heads, int kv_heads, int dim, float scale, int rope, int window,
              const MaybeFloats& q_norm, const MaybeFloats& k_norm, float norm_eps, const MaybeFloats& k_center) {
             check_head_size(dim);
             auto op = std::make_unique<AttentionOp>();
             op->q = q;
             op->k = k;
             op->v = v;
             op->out = out;
             op->dim = dim;
             op->scale = scale;
             op->rope = rope;
             op->window = window;
             op->q_norm = exact(q_norm);
             op->k_norm = exact(k_norm);
             op->norm_eps = norm_eps;
             require(!k_center || (int)k_center->size() == kv_heads * dim, "k_center needs a value for every KV head and channel");
             op->k_center = exact(k_center);
             op->layer = m.add_layer(kv_heads, dim);
             op->plan = m.plan(kv_heads, heads / kv_heads, dim, window);
             add(m, std::move(op));
           },
           "q"_a, "k"_a, "v"_a, "out"_a, "heads"_a, "kv_heads"_a, "dim"_a, "scale"_a, "rope"_a, "window"_a, "q_norm"_a.none(),
           "k_norm"_a.none(), "norm_eps"_a, "k_center"_a.none())
      .def("select",
           [](Model& m, const std::vector<int>& values) {
             for (int v : values) require(m.values.at(v).floats, "a value that is selected from must have floats");
             auto op = std::make_unique<SelectOp>();
             op->values = values;
             add(m, std::move(op));
             m.select();
           },
           "values"_a)
      .def("element",
           [](Model& m, const std::string& kind, int a, int b, int out, const std::string& act, bool rows_only) {
             auto op = std::make_unique<ElementOp>();
             op->kind = kind == "add" ? ElementOp::add : kind == "act" ? ElementOp::activate : kind == "gated" ? ElementOp::gated : ElementOp::quantize;
             op->a = a;
             op->b = b;
             op->out = out;
             op->act = activation(act);
             op->rows_only = rows_only;
             add(m, std::move(op));
           },
           "kind"_a, "a"_a, "b"_a, "out"_a, "act"_a, "rows_only"_a)
      .def("finish",
           [](Model& m, int value, int vocab) {
             m.set_logits(value, vocab);
             m.finish();
           },
           "logits"_a, "vocab"_a)
      .def_prop_ro("isa", [](const Model& m) { return m.kernels.isa; })
      .def_prop_ro("weight_bytes", &Model::weight_bytes)
      .def_prop_ro("buffer_bytes", &Model::buffer_bytes)
      .def_prop_ro("kv_bytes", &Model::kv_bytes);
  steps(bound);
}

}  // namespace befit::bind
