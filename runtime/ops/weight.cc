#include "weight.h"

#include <limits>
#include <string>

#include "../kernels/packed/packed.h"
#include "status.h"

namespace lissom {
namespace {

constexpr int64_t kMost = std::numeric_limits<int32_t>::max();

/* The product of positive numbers below 2^31. Throws an Error when it is not below 2^31. */
int64_t product(int64_t a, int64_t b, const char* what) {
  if (a > kMost / b) {
    throw Error(std::string("expected at most ") + std::to_string(kMost) + " " + what + ", but got " +
                std::to_string(a) + " times " + std::to_string(b));
  }
  return a * b;
}

}  // namespace

Weight::Weight(const Info& info, const Stage& stage, size_t rank, int64_t groups) {
  const Tensor shape = info.constant(stage.first + kShape, 1);
  if (shape.shape.dims[0] != static_cast<int64_t>(rank)) {
    throw Error("expected the input " + info.signature().inputs[stage.first + kShape].name + " to hold " +
                std::to_string(rank) + " extents, but got " + std::to_string(shape.shape.dims[0]));
  }
  sparse_.depth = 1;
  for (size_t axis = 0; axis < rank; ++axis) {
    extents_[axis] = shape.as<int64_t>()[axis];
    if (extents_[axis] < 1 || extents_[axis] > kMost) {
      throw Error("expected extents of the weight from 1 to " + std::to_string(kMost) + ", but got " +
                  std::to_string(extents_[axis]) + " on axis " + std::to_string(axis));
    }
    if (axis > 0) sparse_.depth = product(sparse_.depth, extents_[axis], "columns of the folded weight");
  }
  sparse_.rows = extents_[0];
  if (sparse_.rows % groups) {
    throw Error("expected a number of output channels that " + std::to_string(groups) + " groups divide, but got " +
                std::to_string(sparse_.rows));
  }
  product(extents_[1], groups, "input channels");

  const Tensor bias = info.constant(stage.bias, 1);
  if (bias.shape.dims[0] != sparse_.rows) {
    throw Error("expected " + std::to_string(sparse_.rows) + " elements of the bias, one an output channel, but got " +
                std::to_string(bias.shape.dims[0]));
  }
  const Tensor row_ptr = info.constant(stage.first + kRowPtr, 1);
  const Tensor columns = info.constant(stage.first + kColumns, 1);
  const Tensor values = info.constant(stage.first + kValues, 2);
  const int32_t orientation = info.signature().orientation;
  lissom_packed packed = {};
  packed.rows = sparse_.rows;
  packed.depth = sparse_.depth;
  packed.orientation = orientation;
  packed.columns_format = info.signature().columns;
  packed.row_ptr = row_ptr.as<int32_t>();
  packed.row_ptr_length = row_ptr.shape.dims[0];
  packed.columns = columns.data;
  packed.columns_length = columns.shape.dims[0];
  packed.values_blocks = values.shape.dims[0];
  packed.block = values.shape.dims[1];
  if (const char* violation = lissom_packed_check(&packed)) {
    throw Error(std::string(violation) + ", in a packed weight of shape [" + std::to_string(packed.rows) + ", " +
                std::to_string(packed.depth) + "] with row_ptr " + row_ptr.shape.text() + ", columns " +
                columns.shape.text() + " and values " + values.shape.text());
  }
  columns_.resize(static_cast<size_t>(packed.values_blocks));
  lissom_packed_columns(&packed, columns_.data());
  sparse_.block = packed.block;
  sparse_.row_ptr = packed.row_ptr;
  sparse_.columns = columns_.data();
  sparse_.values = values.as<float>();
  sparse_.bias = bias.as<float>();
  if (sparse_.block == 1) return;
  /* The kernels know blocks of output channels of one group. */
  if (orientation == LISSOM_INPUT || (sparse_.rows / groups) % sparse_.block) expand(orientation == LISSOM_INPUT);
}

/* Rewrites blocks along the columns, or along the rows, as blocks of one. */
void Weight::expand(bool along_columns) {
  const int64_t block = sparse_.block;
  const int64_t stored = static_cast<int64_t>(columns_.size());
  if (stored > kMost / block) {
    throw Error("expected at most " + std::to_string(kMost) + " stored weights, but got " + std::to_string(stored) +
                " blocks of " + std::to_string(block));
  }
  std::vector<int32_t> row_ptr(1, 0), columns;
  row_ptr.reserve(static_cast<size_t>(sparse_.rows + 1));
  columns.reserve(static_cast<size_t>(stored * block));
  values_.reserve(static_cast<size_t>(stored * block));
  for (int64_t row = 0; row < sparse_.rows; ++row) {
    const int64_t pattern = along_columns ? row : row / block;
    for (int64_t n = sparse_.row_ptr[pattern]; n < sparse_.row_ptr[pattern + 1]; ++n) {
      const float* values = sparse_.values + n * block;
      if (along_columns) {
        for (int64_t i = 0; i < block; ++i) {
          columns.push_back(static_cast<int32_t>(columns_[n] * block + i));
          values_.push_back(values[i]);
        }
      } else {
        columns.push_back(columns_[n]);
        values_.push_back(values[row % block]);
      }
    }
    row_ptr.push_back(static_cast<int32_t>(columns.size()));
  }
  row_ptr_.swap(row_ptr);
  columns_.swap(columns);
  sparse_.block = 1;
  sparse_.row_ptr = row_ptr_.data();
  sparse_.columns = columns_.data();
  sparse_.values = values_.data();
}

}  // namespace lissom
