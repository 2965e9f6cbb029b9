/* A sparse weight column after column, for vectors with many zeros. */
#ifndef LISSOM_OPS_COLUMNS_H_
#define LISSOM_OPS_COLUMNS_H_

#include <cstdint>
#include <vector>

#include "../kernels/sparse_column/sparse_column.h"

namespace lissom {

class Columns {
 public:
  /* Copies the weight, cut into `parts`. */
  Columns(const lissom_f32_sparse& weight, int64_t parts);

  /* The first row of a part. */
  int64_t first(int64_t part) const { return block_rows(part) * weight_.block; }

  lissom_f32_columns part(int64_t part) const;

 private:
  int64_t block_rows(int64_t part) const { return weight_.rows / weight_.block * part / parts_; }

  const lissom_f32_sparse& weight_;
  const int64_t parts_;
  std::vector<int32_t> column_ptr_;
  std::vector<int32_t> block_rows_;
  std::vector<float> values_;
};

}  // namespace lissom

#endif
