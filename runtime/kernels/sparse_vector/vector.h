/* The product with one vector for one instruction set: included by one file each, after the header that defines Vec. */
#ifndef LISSOM_KERNELS_SPARSE_VECTOR_VECTOR_H_
#define LISSOM_KERNELS_SPARSE_VECTOR_VECTOR_H_

#include <algorithm>

#include "../vec/activation.h"
#include "sparse_vector.h"

namespace {

/* sum[BLOCK] of block row r. The compiler makes vectors of the constant number of lanes. */
template <int BLOCK>
inline void dot(const lissom_f32_sparse& w, int64_t r, const float* x, float* sum) {
  float even[BLOCK], odd[BLOCK];
  for (int m = 0; m < BLOCK; ++m) even[m] = w.bias[r * BLOCK + m], odd[m] = 0.0f;
  const int64_t end = w.row_ptr[r + 1];
  int64_t i = w.row_ptr[r];
  for (; i + 1 < end; i += 2) {
    const float a = x[w.columns[i]], b = x[w.columns[i + 1]];
    const float* values = w.values + i * BLOCK;
    for (int m = 0; m < BLOCK; ++m) even[m] += a * values[m];
    for (int m = 0; m < BLOCK; ++m) odd[m] += b * values[BLOCK + m];
  }
  if (i < end) {
    const float a = x[w.columns[i]];
    for (int m = 0; m < BLOCK; ++m) even[m] += a * w.values[i * BLOCK + m];
  }
  for (int m = 0; m < BLOCK; ++m) sum[m] = even[m] + odd[m];
}

/* What is left to do with a sum, for whole rows of the output at once. */
inline void finish(int64_t begin, int64_t end, const float* residual, float* y, const lissom_epilogue& epilogue) {
  for (int64_t r = begin; r < end; r += Vec::kLanes) {
    const int64_t n = std::min<int64_t>(Vec::kLanes, end - r);
    Vec::Reg sum[1] = {Vec::load_part(y + r, n)};
    if (residual != nullptr) sum[0] = Vec::add(sum[0], Vec::load_part(residual + r, n));
    activate(epilogue, sum);
    Vec::store_part(y + r, sum[0], n);
  }
}

template <int BLOCK>
inline void rows(const lissom_f32_sparse& w, int64_t begin, int64_t end, const float* x, const float* residual,
                 float* y, const lissom_epilogue& epilogue) {
  constexpr int64_t kPart = 256 / BLOCK; /* rows that are finished while they are in the L1 cache */
  for (; begin < end; begin += kPart) {
    const int64_t stop = std::min(begin + kPart, end);
    float sums[256];
    for (int64_t r = begin; r < stop; ++r) dot<BLOCK>(w, r, x, sums + (r - begin) * BLOCK);
    const int64_t first = begin * BLOCK, count = (stop - begin) * BLOCK;
    finish(0, count, residual == nullptr ? nullptr : residual + first, sums, epilogue);
    std::copy(sums, sums + count, y + first);
  }
}

inline void sparse_vector(const lissom_f32_sparse* w, int64_t begin, int64_t end, const float* x,
                          const float* residual, float* y, const lissom_epilogue* epilogue) {
  switch (w->block) {
    case 1:
      return rows<1>(*w, begin, end, x, residual, y, *epilogue);
    case 2:
      return rows<2>(*w, begin, end, x, residual, y, *epilogue);
    case 4:
      return rows<4>(*w, begin, end, x, residual, y, *epilogue);
    case 8:
      return rows<8>(*w, begin, end, x, residual, y, *epilogue);
    default:
      return rows<16>(*w, begin, end, x, residual, y, *epilogue);
  }
}

}  // namespace

#endif
