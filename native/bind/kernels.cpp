// Kernels by themselves: packing, products and attention for tests, and how fast this machine is.
#include "bind/arrays.hpp"
#include "core/probe.hpp"

#include <chrono>
#include <memory>

namespace befit::bind {

namespace {

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

void kernels(nb::module_& m) {
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
}

}  // namespace befit::bind
