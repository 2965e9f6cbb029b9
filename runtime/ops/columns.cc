#include "columns.h"

namespace lissom {

Columns::Columns(const lissom_f32_sparse& weight, int64_t parts)
    : weight_(weight),
      parts_(parts),
      column_ptr_(static_cast<size_t>(parts * (weight.depth + 1))),
      block_rows_(static_cast<size_t>(weight.row_ptr[weight.rows / weight.block])),
      values_(block_rows_.size() * static_cast<size_t>(weight.block)) {
  lissom_f32_sparse_columns(&weight, parts, column_ptr_.data(), block_rows_.data(), values_.data());
}

lissom_f32_columns Columns::part(int64_t part) const {
  const int64_t begin = weight_.row_ptr[block_rows(part)];
  return {first(part + 1) - first(part), weight_.block, column_ptr_.data() + part * (weight_.depth + 1),
          block_rows_.data() + begin, values_.data() + begin * weight_.block};
}

}  // namespace lissom
