/* The product with one vector for one instruction set: included by one file each, after the header that defines Vec. */
#ifndef LISSOM_KERNELS_SPARSE_VECTOR_VECTOR_H_
#define LISSOM_KERNELS_SPARSE_VECTOR_VECTOR_H_

#include "../vec/activation.h"
#include "sparse_vector.h"

namespace {

/* The sums of block row r where a block fills one vector or more: even and odd columns apart. */
template <int BLOCK>
inline void dot_wide(const lissom_f32_sparse& w, int64_t r, const float* x, float* sum) {
  constexpr int kVectors = BLOCK / Vec::kLanes;
  Vec::Reg even[kVectors], odd[kVectors];
  LISSOM_UNROLL
  for (int v = 0; v < kVectors; ++v) {
    even[v] = Vec::load(w.bias + r * BLOCK + v * Vec::kLanes);
    odd[v] = Vec::zero();
  }
  const int64_t end = w.row_ptr[r + 1];
  const float* values = w.values + w.row_ptr[r] * BLOCK;
  for (int64_t i = w.row_ptr[r]; i < end; values += 2 * BLOCK, i += 2) {
    const Vec::Reg a = Vec::set(x[w.columns[i]]);
    LISSOM_UNROLL
    for (int v = 0; v < kVectors; ++v) even[v] = Vec::fma(a, Vec::load(values + v * Vec::kLanes), even[v]);
    if (i + 1 == end) break;
    const Vec::Reg b = Vec::set(x[w.columns[i + 1]]);
    LISSOM_UNROLL
    for (int v = 0; v < kVectors; ++v) odd[v] = Vec::fma(b, Vec::load(values + BLOCK + v * Vec::kLanes), odd[v]);
  }
  LISSOM_UNROLL
  for (int v = 0; v < kVectors; ++v) Vec::store(sum + v * Vec::kLanes, Vec::add(even[v], odd[v]));
}

/* Elements ahead that are asked for, since a weight is read once, from memory or a cache that is far. */
constexpr int64_t kAhead = 512;
constexpr int kLine = 16; /* of the cache */

inline void ask_for(const void* p) {
#if defined(__GNUC__)
  __builtin_prefetch(p);
#else
  (void)p;
#endif
}

/* The same where a vector holds several blocks: each lane of four vectors is a sum of its own. */
template <int BLOCK>
inline void dot_narrow(const lissom_f32_sparse& w, int64_t r, const float* x, float* sum) {
  constexpr int kBlocks = Vec::kLanes / BLOCK; /* in a vector */
  constexpr int kSums = 4;
  Vec::Reg sums[kSums] = {Vec::zero(), Vec::zero(), Vec::zero(), Vec::zero()};
  const int64_t end = w.row_ptr[r + 1];
  int64_t i = w.row_ptr[r];
  for (; i + kSums * kBlocks <= end; i += kSums * kBlocks) {
    const float* values = w.values + i * BLOCK;
    LISSOM_UNROLL
    for (int line = 0; line < kSums * Vec::kLanes; line += kLine) ask_for(values + kAhead + line);
    LISSOM_UNROLL
    for (int line = 0; line < kSums * kBlocks; line += kLine) ask_for(w.columns + i + kAhead / BLOCK + line);
    LISSOM_UNROLL
    for (int s = 0; s < kSums; ++s) {
      const Vec::Reg spread = Vec::spread<BLOCK>(x, w.columns + i + s * kBlocks);
      sums[s] = Vec::fma(spread, Vec::load(values + s * Vec::kLanes), sums[s]);
    }
  }
  for (; i + kBlocks <= end; i += kBlocks) {
    sums[0] = Vec::fma(Vec::spread<BLOCK>(x, w.columns + i), Vec::load(w.values + i * BLOCK), sums[0]);
  }
  float lanes[Vec::kLanes];
  Vec::store(lanes, Vec::add(Vec::add(sums[0], sums[1]), Vec::add(sums[2], sums[3])));
  for (int m = 0; m < BLOCK; ++m) {
    float total = w.bias[r * BLOCK + m];
    for (int k = 0; k < kBlocks; ++k) total += lanes[k * BLOCK + m];
    for (int64_t j = i; j < end; ++j) total += x[w.columns[j]] * w.values[j * BLOCK + m];
    sum[m] = total;
  }
}

/* sum[BLOCK] of block row r. */
template <int BLOCK>
inline void dot(const lissom_f32_sparse& w, int64_t r, const float* x, float* sum) {
  if constexpr (BLOCK >= Vec::kLanes) {
    dot_wide<BLOCK>(w, r, x, sum);
  } else {
    dot_narrow<BLOCK>(w, r, x, sum);
  }
}

template <int BLOCK>
inline void rows(const lissom_f32_sparse& w, int64_t begin, int64_t end, const float* x, const float* residual,
                 float* y, const lissom_epilogue& epilogue) {
  constexpr int64_t kPart = 256 / BLOCK; /* rows that are finished while they are in the L1 cache */
  for (; begin < end; begin += kPart) {
    const int64_t stop = end - begin < kPart ? end : begin + kPart;
    float sums[256];
    for (int64_t r = begin; r < stop; ++r) dot<BLOCK>(w, r, x, sums + (r - begin) * BLOCK);
    const int64_t first = begin * BLOCK, count = (stop - begin) * BLOCK;
    finish(count, residual == nullptr ? nullptr : residual + first, sums, epilogue);
    for (int64_t i = 0; i < count; ++i) y[first + i] = sums[i];
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
