// The Python module befit.backends.native._native: builds a Model op by op, then runs it a step a call.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <chrono>
#include <cstring>
#include <memory>
#include <stdexcept>

#include "core/isa.hpp"
#include "core/ops.hpp"
#include "core/probe.hpp"

namespace nb = nanobind;
using namespace befit;
using nb::literals::operator""_a;

namespace {

using Raw = nb::ndarray<const uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Ints = nb::ndarray<const int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Table = nb::ndarray<const int32_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Floats = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Rows = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Words = nb::ndarray<const uint32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Masks = nb::ndarray<const uint32_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using MaybeFloats = std::optional<Floats>;

void require(bool ok, const std::string& what) {
  if (!ok) throw std::invalid_argument(what);
}

template <typename T> nb::object to_numpy(std::vector<size_t> shape, const T* data, size_t n) {
  T* copy = new T[n ? n : 1];
  if (data) memcpy(copy, data, n * sizeof(T));
  nb::capsule owner(copy, [](void* p) noexcept { delete[] (T*)p; });
  return nb::cast(nb::ndarray<nb::numpy, T>(copy, shape.size(), shape.data(), owner));
}

Source source_form(int rows, int columns, const std::string& format) {
  Source s{nullptr, rows, columns, find_block_format(format), Format::f32};
  require(rows > 0 && columns > 0, "a matrix needs rows and columns");
  require(rows < 1 << 30, "a matrix has " + std::to_string(rows) + " rows; the most is 2^30 - 1");
  if (s.blocks) {
    require(columns % s.blocks->block == 0, format + " rows hold whole blocks; columns is " + std::to_string(columns));
    require(columns <= kMaxColumns, format + " has " + std::to_string(columns) + " columns; the most is " + std::to_string(kMaxColumns));
  }
  else if (format == "f16") s.dense = Format::f16;
  else if (format == "bf16") s.dense = Format::bf16;
  else require(format == "f32", "unknown weight format " + format);
  return s;
}

Matrix matrix_form(int rows, int columns, const std::string& format) { return source_form(rows, columns, format).packed(); }

const Matrix& matrix_at(const Model& m, int matrix) {
  require(matrix >= 0 && matrix < (int)m.matrices.size(), "there is no matrix " + std::to_string(matrix));
  return m.matrices[matrix];
}

Source source(const Raw& raw, int rows, int columns, const std::string& format) {
  Source s = source_form(rows, columns, format);
  s.data = raw.data();
  require(raw.size() == s.row_bytes() * (size_t)rows,
          "matrix bytes: " + std::to_string(raw.size()) + ", expected " + std::to_string(s.row_bytes() * (size_t)rows));
  return s;
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

void check_head_size(int dim) {
  require(dim > 0 && dim % 32 == 0 && dim <= 512, "head size is " + std::to_string(dim) + "; it must be a multiple of 32, at most 512");
}

KvType kv_type_of(const std::string& name) {
  if (name == "f16") return KvType::f16;
  require(name == "int8", "unknown KV type " + name);
  return KvType::int8;
}

struct BatchArrays {
  Ints tokens, positions, query_start, context_len;
  Table block_tables;
  Ints rows, targets, logprobs, drafts, hidden;
};

// Views of a step's arrays, checked so that no index can leave the model's memory.
Batch make_batch(const Model& m, const BatchArrays& a, std::vector<Sampler*> samplers) {
  Batch b{(int)a.tokens.size(), (int)a.context_len.size(), (int)a.block_tables.shape(1), (int)a.rows.size(),
          a.tokens.data(), a.positions.data(), a.query_start.data(), a.context_len.data(), a.block_tables.data(),
          a.rows.data(), a.targets.data(), a.logprobs.data(), a.drafts.size() ? a.drafts.data() : nullptr, (int)a.hidden.size(), a.hidden.data(), std::move(samplers)};
  require(b.tokens_count > 0 && b.tokens_count <= m.max_tokens,
          "a step of " + std::to_string(b.tokens_count) + " tokens; this model takes 1 to " + std::to_string(m.max_tokens));
  require(b.rows_count <= m.max_rows, "a step with " + std::to_string(b.rows_count) + " rows; this model takes " + std::to_string(m.max_rows));
  require((int)a.positions.size() == b.tokens_count && (int)a.query_start.size() == b.seqs + 1 &&
              (int)a.block_tables.shape(0) >= b.seqs && (int)a.targets.size() == b.rows_count &&
              (int)a.logprobs.size() == b.rows_count && (int)b.samplers.size() == b.rows_count &&
              (!b.drafts || (int)a.drafts.size() == b.rows_count),
          "the arrays of a step disagree in length");
  require(b.query_start[0] == 0 && b.query_start[b.seqs] == b.tokens_count, "query_start must run from 0 to the token count");
  for (int s = 0; s < b.seqs; s++) {
    const int from = b.query_start[s], to = b.query_start[s + 1], len = b.context_len[s];
    require(from < to, "every sequence of a step needs a token");
    require(len >= to - from && (len + kPage - 1) / kPage <= b.blocks, "context_len does not fit the block table");
    for (int t = from; t < to; t++) require(b.positions[t] == len - (to - t), "positions must end at context_len");
    for (int i = 0; i < (len + kPage - 1) / kPage; i++) {
      const int page = b.block_tables[(size_t)s * b.blocks + i];
      require(page >= 0 && page < m.pages, "block table names page " + std::to_string(page) + " of " + std::to_string(m.pages));
    }
  }
  for (int t = 0; t < b.tokens_count; t++)
    require(b.tokens[t] >= 0 && b.tokens[t] < m.vocab(), "token id " + std::to_string(b.tokens[t]) + " is outside the vocabulary");
  for (int r = 0; r < b.rows_count; r++) {
    require(b.rows[r] >= 0 && b.rows[r] < b.tokens_count, "a row is outside the step");
    require(b.targets[r] >= 0 ? b.targets[r] < m.vocab() : b.samplers[r] != nullptr, "a row needs a target or a sampler");
    if (!b.drafts || b.drafts[r] < 0) continue;
    require(r + 1 < b.rows_count && b.rows[r + 1] == b.rows[r] + 1 && b.tokens[b.rows[r + 1]] == b.drafts[r] &&
                b.targets[r] < 0 && b.targets[r + 1] < 0 && b.samplers[r + 1] == b.samplers[r],
            "the row after a draft must be the draft's own, with the same sampler");
  }
  b.narrows = !b.hidden_count && b.rows_count < b.tokens_count;
  for (int r = 1; r < b.rows_count; r++) b.narrows = b.narrows && b.rows[r - 1] < b.rows[r];
  require(!b.hidden_count || m.hidden_width(), "this model has no hidden states to give");
  std::vector<bool> taken(b.tokens_count);
  for (int r = 0; r < b.rows_count; r++) taken[b.rows[r]] = true;
  for (int i = 0; i < b.hidden_count; i++) {
    require(b.hidden[i] >= 0 && b.hidden[i] < b.tokens_count && !taken[b.hidden[i]], "hidden names each token once, and no row");
    taken[b.hidden[i]] = true;
  }
  return b;
}

// Masks of allowed tokens for a step's rows; `bits` may still be written until the gate opens.
void set_masks(Batch& b, const Model& m, const Masks& bits, const Ints& index, const Gate& ready) {
  require((int)index.size() == b.rows_count && (int)bits.shape(1) == (m.vocab() + 31) / 32, "the masks do not fit the step");
  for (int r = 0; r < b.rows_count; r++)
    require(index.data()[r] >= -1 && index.data()[r] < (int64_t)bits.shape(0), "a row names a mask that is not there");
  b.mask_bits = bits.data();
  b.mask_index = index.data();
  b.masks_ready = &ready;
}

nb::tuple step(Model& m, const BatchArrays& arrays, std::vector<Sampler*> samplers, const Masks* bits = nullptr,
               const Ints* index = nullptr, const Gate* ready = nullptr) {
  Batch batch = make_batch(m, arrays, std::move(samplers));
  if (bits) set_masks(batch, m, *bits, *index, *ready);
  std::vector<Sampled> out;
  {
    nb::gil_scoped_release release;
    out = m.step(batch);
  }
  const size_t n = out.size();
  std::vector<int32_t> tokens(n), rank(n);
  std::vector<uint8_t> status(n);
  std::vector<float> logprob(n);
  nb::list top;
  for (size_t i = 0; i < n; i++) {
    tokens[i] = out[i].skipped ? -1 : out[i].token;
    rank[i] = out[i].rank;
    status[i] = out[i].skipped ? 2 : out[i].finite ? 0 : 1;
    logprob[i] = out[i].logprob;
    top.append(nb::cast(out[i].top));
  }
  nb::object hidden = nb::none();
  if (batch.hidden_count) {
    const size_t asked = batch.hidden_count, width = m.hidden_width();
    std::vector<float> states(asked * width);
    for (size_t i = 0; i < asked; i++) memcpy(&states[i * width], m.hidden(batch, (int)i), width * sizeof(float));
    hidden = to_numpy({asked, width}, states.data(), states.size());
  }
  return nb::make_tuple(to_numpy({n}, tokens.data(), n), to_numpy({n}, status.data(), n), to_numpy({n}, logprob.data(), n),
                        to_numpy({n}, rank.data(), n), top, hidden, m.spoiled(batch));
}

nb::object logits(Model& m, const BatchArrays& arrays) {
  Sampler unused({}, {});
  const Batch batch = make_batch(m, arrays, std::vector<Sampler*>(arrays.rows.size(), &unused));
  {
    nb::gil_scoped_release release;
    m.forward(batch);
  }
  const size_t rows = (size_t)batch.rows_count, vocab = (size_t)m.vocab();
  std::vector<float> out(rows * vocab);
  for (size_t r = 0; r < rows; r++) memcpy(&out[r * vocab], m.logits((int)r), vocab * sizeof(float));
  return to_numpy({rows, vocab}, out.data(), out.size());
}

template <typename Op> void add(Model& m, std::unique_ptr<Op> op) { m.add_op(std::move(op)); }

// x [tokens, columns] times a packed matrix, as a Linear op computes it: for tests and kernel benchmarks.
nb::object matmul(const std::string& isa, const Raw& raw, int rows, int columns, const std::string& format, const Rows& x, int repeat) {
  const int n = (int)x.shape(0);
  require((int)x.shape(1) == columns, "x has " + std::to_string(x.shape(1)) + " columns, the matrix " + std::to_string(columns));
  Product product(*find_kernels(isa), source(raw, rows, columns, format), x.data(), n, 1);
  for (int i = 0; i < repeat; i++) product.run();
  std::vector<float> y((size_t)n * rows);
  for (int t = 0; t < n; t++) memcpy(&y[(size_t)t * rows], product.row(t), rows * sizeof(float));
  return to_numpy({(size_t)n, (size_t)rows}, y.data(), y.size());
}

// (bytes of the packed matrix, seconds of each such product), for as many of them as fit into `seconds`, three at least.
nb::tuple time_matmul(const std::string& isa, const Raw& raw, int rows, int columns, const std::string& format, const Rows& x,
                      int threads, double seconds) {
  using Clock = std::chrono::steady_clock;
  require((int)x.shape(1) == columns && threads > 0, "x needs the matrix's columns, and the product a thread");
  Product product(*find_kernels(isa), source(raw, rows, columns, format), x.data(), (int)x.shape(0), threads);
  std::vector<double> times;
  {
    nb::gil_scoped_release release;
    product.run();  // wakes the threads
    for (double total = 0; times.size() < 3 || total < seconds; total += times.back()) {
      const auto start = Clock::now();
      product.run();
      times.push_back(std::chrono::duration<double>(Clock::now() - start).count());
    }
  }
  return nb::make_tuple(product.weight_bytes(), times);
}

// See befit::attention: for tests.
nb::object attend(const std::string& isa, int threads, const std::string& kv_type, int heads, int kv_heads, int window, float scale, const Rows& q,
                  const Rows& k, const Rows& v, const std::vector<int>& table, const std::vector<int>& steps) {
  const int n = (int)q.shape(0);
  require(threads > 0 && kv_heads > 0 && heads > 0 && heads % kv_heads == 0 && window >= 0, "a group of heads for every KV head");
  const int dim = (int)q.shape(1) / heads;
  check_head_size(dim);
  require((int)q.shape(1) == heads * dim && (int)k.shape(0) == n && (int)v.shape(0) == n && (int)k.shape(1) == kv_heads * dim &&
              (int)v.shape(1) == kv_heads * dim,
          "the shapes of queries, keys and values disagree");
  int tokens = 0;
  for (const int step : steps) {
    require(step > 0, "a step needs a token");
    tokens += step;
  }
  require(tokens == n && (int)table.size() >= (n + kPage - 1) / kPage, "the steps or the pages do not fit the tokens");
  for (const int page : table) require(page >= 0, "a page has a negative number");
  const std::vector<float> out = attention(*find_kernels(isa), threads, kv_type_of(kv_type), {heads, kv_heads, dim, window, scale}, q.data(),
                                           k.data(), v.data(), table, steps);
  return to_numpy({(size_t)n, (size_t)heads * dim}, out.data(), out.size());
}

}  // namespace

NB_MODULE(_native, m) {
  m.def("isas", &available_isas, "Instruction sets that this build has and this CPU runs, best first.");
  m.def("matmul", &matmul, "isa"_a, "raw"_a, "rows"_a, "columns"_a, "format"_a, "x"_a, "repeat"_a = 1);
  m.def("time_matmul", &time_matmul, "isa"_a, "raw"_a, "rows"_a, "columns"_a, "format"_a, "x"_a, "threads"_a, "seconds"_a);
  m.def("read_bandwidth", &read_bandwidth, "bytes"_a, "threads"_a, "seconds"_a, nb::call_guard<nb::gil_scoped_release>(),
        "Bytes a second that threads read from so much memory.");
  m.def("multiply_add_peak", &multiply_add_peak, "isa"_a, "integers"_a, "threads"_a, "seconds"_a,
        nb::call_guard<nb::gil_scoped_release>(), "Multiply-adds a second, 8-bit or float32.");
  m.attr("packed_layout") = kPackedLayout;
  m.def("packed_bytes", [](int rows, int columns, const std::string& format) { return matrix_form(rows, columns, format).bytes(); },
        "rows"_a, "columns"_a, "format"_a);
  m.def("pack",
        [](const Raw& raw, int rows, int columns, const std::string& format, int threads) {
          require(threads > 0, "threads must be positive");
          const Source s = source(raw, rows, columns, format);
          Matrix out = s.packed();
          auto memory = std::make_unique<Memory>(out.bytes());
          out.data = memory->data();
          {
            nb::gil_scoped_release release;
            ThreadPool pool(threads);
            pack({{s, out}}, pool);
          }
          nb::capsule owner(memory.release(), [](void* p) noexcept { delete (Memory*)p; });
          return nb::cast(nb::ndarray<nb::numpy, uint8_t, nb::ndim<1>>(out.data, {out.bytes()}, owner));
        },
        "raw"_a, "rows"_a, "columns"_a, "format"_a, "threads"_a);
  m.def("attention", &attend, "isa"_a, "threads"_a, "kv_type"_a, "heads"_a, "kv_heads"_a, "window"_a, "scale"_a, "q"_a, "k"_a, "v"_a, "table"_a,
        "steps"_a);
  m.def("dequantize", [](const Raw& raw, int rows, int columns, const std::string& format) {
    const Source s = source(raw, rows, columns, format);
    std::vector<float> out((size_t)rows * columns);
    for (int r = 0; r < rows; r++) s.read_row(r, &out[(size_t)r * columns]);
    return to_numpy({(size_t)rows, (size_t)columns}, out.data(), out.size());
  });

  nb::class_<Sampler>(m, "Sampler")
      .def("__init__",
           [](Sampler* self, float temperature, int top_k, float top_p, float min_p, float typical_p, float repetition_penalty,
              float frequency_penalty, float presence_penalty, uint64_t seed, std::vector<std::pair<int, float>> logit_bias,
              std::vector<std::vector<int>> bad_words, int min_tokens, std::vector<int> stop_ids, std::vector<int> allowed_ids, bool watermark,
              const std::vector<int>& prompt) {
             for (const std::vector<int>& word : bad_words) require(!word.empty(), "a bad word has no tokens");
             for (int id : allowed_ids) require(id >= 0, "an allowed id is negative");
             new (self) Sampler({temperature, top_p, min_p, typical_p, repetition_penalty, frequency_penalty, presence_penalty, top_k,
                                 min_tokens, seed, std::move(logit_bias), std::move(bad_words), std::move(stop_ids), std::move(allowed_ids), watermark},
                                prompt);
           },
           "temperature"_a, "top_k"_a, "top_p"_a, "min_p"_a, "typical_p"_a, "repetition_penalty"_a, "frequency_penalty"_a,
           "presence_penalty"_a, "seed"_a, "logit_bias"_a, "bad_words"_a, "min_tokens"_a, "stop_ids"_a,
           "allowed_ids"_a, "watermark"_a, "prompt"_a)
      .def("sample",
           [](Sampler& self, const std::string& isa, const Floats& x, int logprobs, const std::optional<Words>& mask) {
             require(!mask || mask->size() == (x.size() + 31) / 32, "the mask does not fit the logits");
             std::vector<float> copy(x.data(), x.data() + x.size());
             const Sampled s = self.sample(*find_kernels(isa), copy.data(), (int)copy.size(), logprobs, mask ? mask->data() : nullptr);
             return nb::make_tuple(s.token, s.finite, s.logprob, s.rank, s.top);
           },
           "isa"_a, "logits"_a, "logprobs"_a, "mask"_a = nb::none());

  nb::class_<Gate>(m, "Gate").def(nb::init<>()).def("open", &Gate::open);

  nb::class_<Model>(m, "Model")
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
      .def_prop_ro("kv_bytes", &Model::kv_bytes)
      .def("step",
           [](Model& m, std::vector<Sampler*> samplers, Ints tokens, Ints positions, Ints query_start, Ints context_len,
              Table block_tables, Ints rows, Ints targets, Ints logprobs, Ints drafts, Ints hidden) {
             return step(m, {tokens, positions, query_start, context_len, block_tables, rows, targets, logprobs, drafts, hidden},
                         std::move(samplers));
           },
           "samplers"_a, "tokens"_a, "positions"_a, "query_start"_a, "context_len"_a, "block_tables"_a, "rows"_a, "targets"_a, "logprobs"_a,
           "drafts"_a, "hidden"_a)
      .def("step_masked",
           [](Model& m, std::vector<Sampler*> samplers, Ints tokens, Ints positions, Ints query_start, Ints context_len,
              Table block_tables, Ints rows, Ints targets, Ints logprobs, Ints drafts, Ints hidden, Ints index, Masks bits,
              const Gate& ready) {
             return step(m, {tokens, positions, query_start, context_len, block_tables, rows, targets, logprobs, drafts, hidden},
                         std::move(samplers), &bits, &index, &ready);
           },
           "samplers"_a, "tokens"_a, "positions"_a, "query_start"_a, "context_len"_a, "block_tables"_a, "rows"_a, "targets"_a, "logprobs"_a,
           "drafts"_a, "hidden"_a, "index"_a, nb::arg("bits").noconvert(), "ready"_a)
      .def("logits",
           [](Model& m, Ints tokens, Ints positions, Ints query_start, Ints context_len, Table block_tables, Ints rows, Ints targets,
              Ints logprobs, Ints drafts) {
             return logits(m, {tokens, positions, query_start, context_len, block_tables, rows, targets, logprobs, drafts, Ints()});
           },
           "tokens"_a, "positions"_a, "query_start"_a, "context_len"_a, "block_tables"_a, "rows"_a, "targets"_a, "logprobs"_a, "drafts"_a);
}
