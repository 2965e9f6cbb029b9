/* The sparse weight of a node: checked, and in the form that the kernels read. */
#ifndef LISSOM_OPS_WEIGHT_H_
#define LISSOM_OPS_WEIGHT_H_

#include <cstdint>
#include <vector>

#include "../kernels/sparse.h"
#include "info.h"

namespace lissom {

/* `sparse` points into the session's constants, which live as long as the session does, and into the vectors. */
class Weight {
 public:
  /* Reads and checks the constant inputs of a sparse stage: shape (of `rank` extents), row_ptr, columns, values and
   * bias. `groups` divide the output channels. Throws an Error that says what is wrong. */
  Weight(const Info& info, const Stage& stage, size_t rank, int64_t groups);
  Weight(const Weight&) = delete;
  Weight& operator=(const Weight&) = delete;

  const lissom_f32_sparse& sparse() const { return sparse_; }

  /* Extent of an axis of the dense weight. */
  int64_t extent(size_t axis) const { return extents_[axis]; }

 private:
  void expand(bool along_columns);

  int64_t extents_[4] = {1, 1, 1, 1};
  lissom_f32_sparse sparse_ = {};
  std::vector<int32_t> row_ptr_;
  std::vector<int32_t> columns_;
  std::vector<float> values_;
};

}  // namespace lissom

#endif
