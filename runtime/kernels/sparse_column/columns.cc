#include <algorithm>

#include "sparse_column.h"

LISSOM_EXPORT void lissom_f32_sparse_columns(const lissom_f32_sparse* w, int64_t parts, int32_t* column_ptr,
                                             int32_t* block_rows, float* values) {
  const int64_t all = w->rows / w->block;
  for (int64_t part = 0; part < parts; ++part, column_ptr += w->depth + 1) {
    const int64_t first = all * part / parts, last = all * (part + 1) / parts;
    const int32_t begin = w->row_ptr[first], end = w->row_ptr[last];
    std::fill(column_ptr, column_ptr + w->depth + 1, 0);
    for (int32_t i = begin; i < end; ++i) ++column_ptr[w->columns[i] + 1];
    for (int64_t k = 0; k < w->depth; ++k) column_ptr[k + 1] += column_ptr[k];
    for (int64_t r = first; r < last; ++r) {
      for (int32_t i = w->row_ptr[r]; i < w->row_ptr[r + 1]; ++i) {
        const int64_t place = begin + column_ptr[w->columns[i]]++; /* moves to the column's end */
        block_rows[place] = static_cast<int32_t>(r - first);
        std::copy_n(w->values + int64_t{i} * w->block, w->block, values + place * w->block);
      }
    }
    for (int64_t k = w->depth; k > 0; --k) column_ptr[k] = column_ptr[k - 1];
    column_ptr[0] = 0;
  }
}

LISSOM_EXPORT int64_t lissom_f32_nonzero(const float* x, int64_t n, int64_t most, int32_t* index) {
  int32_t total = 0; /* counted apart, which is many elements at a time */
  for (int64_t k = 0; k < n; ++k) total += x[k] != 0.0f;
  if (total > most) return total;
  int64_t count = 0;
  for (int64_t k = 0; k < n; ++k) {
    index[count] = static_cast<int32_t>(k);
    count += x[k] != 0.0f;
  }
  return count;
}
