/* The rows of one channel for one instruction set: included by one file each, after the header that defines Vec. */
#ifndef LISSOM_KERNELS_DEPTHWISE_ROWS_H_
#define LISSOM_KERNELS_DEPTHWISE_ROWS_H_

#include "../vec/activation.h"
#include "depthwise.h"

namespace {

/* Sums in registers: two fused multiply-adds begin in a cycle, and each takes four. */
constexpr int kSums = 8;

struct Channel {
  const float* w;
  const int32_t* offset;
  int64_t taps;
  float bias;
  int64_t step;
  int64_t ldy;
  const lissom_epilogue& epilogue;
};

/* R rows of NV vectors. The first `whole` rows store their last vector whole, the others its `last` first elements. */
template <int R, int NV>
inline void tile(const Channel& c, const float* x, float* y, int64_t last, int64_t whole) {
  using Reg = Vec::Reg;
  Reg sum[R * NV];
  LISSOM_UNROLL
  for (int i = 0; i < R * NV; ++i) sum[i] = Vec::set(c.bias);
  for (int64_t t = 0; t < c.taps; ++t) {
    const Reg weight = Vec::set(c.w[t]);
    const float* source = x + c.offset[t];
    LISSOM_UNROLL
    for (int r = 0; r < R; ++r) {
      LISSOM_UNROLL
      for (int v = 0; v < NV; ++v) {
        sum[r * NV + v] = Vec::fma(weight, Vec::load(source + r * c.step + v * Vec::kLanes), sum[r * NV + v]);
      }
    }
  }
  activate(c.epilogue, sum);
  LISSOM_UNROLL
  for (int r = 0; r < R; ++r) {
    float* to = y + r * c.ldy;
    LISSOM_UNROLL
    for (int v = 0; v < NV - 1; ++v) Vec::store(to + v * Vec::kLanes, sum[r * NV + v]);
    float* end = to + (NV - 1) * Vec::kLanes;
    if (r < whole) {
      Vec::store(end, sum[r * NV + NV - 1]);
    } else {
      Vec::store_part(end, sum[r * NV + NV - 1], last);
    }
  }
}

/* How many rows from the first on may store `rounded` elements in the place of n: what lies beyond n is overwritten by
 * the rows that come behind, which are stored later. A masked store takes ten times as long on some processors. */
inline int64_t whole_rows(const Channel& c, int64_t rows, int64_t n, int64_t rounded) {
  if (rounded == n) return rows;
  if (c.ldy != n) return 0;
  const int64_t needed = (rounded + n - 1) / n - 1; /* rows behind, so that the excess stays within them */
  return rows > needed ? rows - needed : 0;
}

/* All rows where a row is NV vectors. */
template <int NV>
inline void narrow(const Channel& c, const float* x, int64_t rows, int64_t n, float* y) {
  constexpr int R = kSums / NV;
  const int64_t rounded = NV * Vec::kLanes, last = n - (NV - 1) * Vec::kLanes;
  const int64_t whole = whole_rows(c, rows, n, rounded);
  int64_t r = 0;
  for (; r + R <= rows; r += R) tile<R, NV>(c, x + r * c.step, y + r * c.ldy, last, whole - r);
  if constexpr (R > 2) {
    for (; r + 2 <= rows; r += 2) tile<2, NV>(c, x + r * c.step, y + r * c.ldy, last, whole - r);
  }
  if constexpr (R > 1) {
    for (; r < rows; ++r) tile<1, NV>(c, x + r * c.step, y + r * c.ldy, last, whole - r);
  }
}

template <int NV>
inline void by_vectors(const Channel& c, int64_t vectors, const float* x, int64_t rows, int64_t n, float* y) {
  if constexpr (NV > 1) {
    if (vectors < NV) return by_vectors<NV - 1>(c, vectors, x, rows, n, y);
  }
  narrow<NV>(c, x, rows, n, y);
}

/* A part of one row. */
template <int NV>
inline void part(const Channel& c, int64_t vectors, const float* x, float* y, int64_t last) {
  if constexpr (NV > 1) {
    if (vectors < NV) return part<NV - 1>(c, vectors, x, y, last);
  }
  tile<1, NV>(c, x, y, last, last == Vec::kLanes);
}

inline void depthwise(LISSOM_DEPTHWISE_ARGUMENTS) {
  const Channel c{w, offset, taps, bias, step, ldy, *epilogue};
  const int64_t vectors = (n + Vec::kLanes - 1) / Vec::kLanes;
  if (vectors <= kSums) return by_vectors<kSums>(c, vectors, x, rows, n, y);
  const int64_t chunks = (vectors + kSums - 1) / kSums;
  for (int64_t r = 0; r < rows; ++r) {
    int64_t done = 0;
    for (int64_t i = 0; i < chunks; ++i) {
      const int64_t next = vectors * (i + 1) / chunks, j = done * Vec::kLanes;
      const int64_t rest = n - (next - 1) * Vec::kLanes, last = rest < Vec::kLanes ? rest : Vec::kLanes;
      part<kSums>(c, next - done, x + r * step + j, y + r * ldy + j, last);
      done = next;
    }
  }
}

}  // namespace

#endif
