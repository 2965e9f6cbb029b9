/* The sums column by column for one instruction set: included by one file each, after the header that defines Vec. */
#ifndef LISSOM_KERNELS_SPARSE_COLUMN_COLUMN_H_
#define LISSOM_KERNELS_SPARSE_COLUMN_COLUMN_H_

#include "../vec/activation.h"
#include "sparse_column.h"

#if defined(__GNUC__) || defined(__clang__)
#define LISSOM_PREFETCH(address) __builtin_prefetch(address)
#else
#define LISSOM_PREFETCH(address) static_cast<void>(address)
#endif

namespace {

/* sums[BLOCK] += a values[BLOCK]. */
template <int BLOCK>
inline void add_block(float a, const float* values, float* sums) {
  if constexpr (BLOCK >= Vec::kLanes) {
    LISSOM_UNROLL
    for (int v = 0; v < BLOCK; v += Vec::kLanes) {
      Vec::store(sums + v, Vec::fma(Vec::set(a), Vec::load(values + v), Vec::load(sums + v)));
    }
  } else {
    float block[BLOCK]; /* read before anything is written, so that it may become a vector */
    LISSOM_UNROLL
    for (int m = 0; m < BLOCK; ++m) block[m] = sums[m] + a * values[m];
    LISSOM_UNROLL
    for (int m = 0; m < BLOCK; ++m) sums[m] = block[m];
  }
}

/* Asks for the beginning of a column: from one column to the next nothing foresees where it is. */
template <int BLOCK>
inline void fetch(const lissom_f32_columns& w, int64_t column) {
  constexpr int64_t kLines = 4, kLine = 64;
  const int64_t begin = w.column_ptr[column];
  const char* values = reinterpret_cast<const char*>(w.values + begin * BLOCK);
  LISSOM_PREFETCH(w.block_rows + begin);
  LISSOM_UNROLL
  for (int64_t line = 0; line < kLines; ++line) LISSOM_PREFETCH(values + line * kLine);
}

template <int BLOCK>
inline void columns(const lissom_f32_columns& w, const float* x, const int32_t* index, int64_t count, float* sums) {
  constexpr int64_t kAhead = 8;
  for (int64_t k = 0; k < count; ++k) {
    if (k + kAhead < count) fetch<BLOCK>(w, index[k + kAhead]);
    const int64_t end = w.column_ptr[index[k] + 1];
    const float a = x[index[k]];
    for (int64_t i = w.column_ptr[index[k]]; i < end; ++i) {
      add_block<BLOCK>(a, w.values + i * BLOCK, sums + int64_t{w.block_rows[i]} * BLOCK);
    }
  }
}

inline void sparse_column(LISSOM_SPARSE_COLUMN_ARGUMENTS) {
  for (int64_t r = 0; r < w->rows; ++r) sums[r] = bias[r];
  switch (w->block) {
    case 1:
      columns<1>(*w, x, index, count, sums);
      break;
    case 2:
      columns<2>(*w, x, index, count, sums);
      break;
    case 4:
      columns<4>(*w, x, index, count, sums);
      break;
    case 8:
      columns<8>(*w, x, index, count, sums);
      break;
    default:
      columns<16>(*w, x, index, count, sums);
      break;
  }
  finish(w->rows, residual, sums, *epilogue);
  for (int64_t r = 0; r < w->rows; ++r) y[r] = sums[r];
}

}  // namespace

#endif
