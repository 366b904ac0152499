// What the bindings share: arrays as they come from NumPy and go back, and weights in a format of a file.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <cstring>
#include <stdexcept>

#include "core/isa.hpp"
#include "core/ops.hpp"

namespace befit::bind {

namespace nb = nanobind;
using nb::literals::operator""_a;

using Raw = nb::ndarray<const uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Ints = nb::ndarray<const int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Table = nb::ndarray<const int32_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Floats = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Rows = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Words = nb::ndarray<const uint32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Masks = nb::ndarray<const uint32_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using MaybeFloats = std::optional<Floats>;

inline void require(bool ok, const std::string& what) {
  if (!ok) throw std::invalid_argument(what);
}

template <typename T> nb::object to_numpy(std::vector<size_t> shape, const T* data, size_t n) {
  T* copy = new T[n ? n : 1];
  if (data) memcpy(copy, data, n * sizeof(T));
  nb::capsule owner(copy, [](void* p) noexcept { delete[] (T*)p; });
  return nb::cast(nb::ndarray<nb::numpy, T>(copy, shape.size(), shape.data(), owner));
}

inline Source source_form(int rows, int columns, const std::string& format) {
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

inline Matrix matrix_form(int rows, int columns, const std::string& format) { return source_form(rows, columns, format).packed(); }

inline Source source(const Raw& raw, int rows, int columns, const std::string& format) {
  Source s = source_form(rows, columns, format);
  s.data = raw.data();
  require(raw.size() == s.row_bytes() * (size_t)rows,
          "matrix bytes: " + std::to_string(raw.size()) + ", expected " + std::to_string(s.row_bytes() * (size_t)rows));
  return s;
}

inline void check_head_size(int dim) {
  require(dim > 0 && dim % 32 == 0 && dim <= 512, "head size is " + std::to_string(dim) + "; it must be a multiple of 32, at most 512");
}

inline KvType kv_type_of(const std::string& name) {
  if (name == "f16") return KvType::f16;
  require(name == "int8", "unknown KV type " + name);
  return KvType::int8;
}

// The parts of the module, a file each.
void kernels(nb::module_& m);
void sampler(nb::module_& m);
void model(nb::module_& m);
void steps(nb::class_<Model>& model);

}  // namespace befit::bind
