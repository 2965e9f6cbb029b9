/* The product for one instruction set: included by one file each, after the header that defines Vec. */
#ifndef LISSOM_KERNELS_SPARSE_PRODUCT_PRODUCT_H_
#define LISSOM_KERNELS_SPARSE_PRODUCT_PRODUCT_H_

#include "../vec/activation.h"
#include "sparse_product.h"

namespace {

struct Product {
  const lissom_f32_sparse& w;
  const int32_t* offset;
  const float* residual;
  float* y;
  int64_t ldy;
  const lissom_epilogue& epilogue;
};

/* Apart from its callers, so that the inner loop has the integer registers for itself. */
#if defined(_MSC_VER)
#define LISSOM_NOINLINE __declspec(noinline)
#else
#define LISSOM_NOINLINE __attribute__((noinline))
#endif

/* MR rows from `row` on, which lie at `lane` of their block row r, times NV vectors from x on; the last of the vectors
 * has `last` elements. */
template <int MR, int NV>
LISSOM_NOINLINE void tile(const Product& p, int64_t r, int64_t lane, const float* x, int64_t j, int64_t last) {
  using Reg = Vec::Reg;
  const int64_t block = p.w.block, row = r * block + lane;
  const int32_t begin = p.w.row_ptr[r], end = p.w.row_ptr[r + 1];
  Reg sum[MR * NV];
  LISSOM_UNROLL
  for (int m = 0; m < MR; ++m) {
    LISSOM_UNROLL
    for (int v = 0; v < NV; ++v) sum[m * NV + v] = Vec::set(p.w.bias[row + m]);
  }
  const float* values = p.w.values + begin * block + lane;
  for (int32_t i = begin; i < end; ++i, values += block) {
    const float* source = x + p.offset[p.w.columns[i]];
    /* The fewer of the two kinds of operands stay in registers. */
    if constexpr (MR < NV) {
      Reg weight[MR];
      LISSOM_UNROLL
      for (int m = 0; m < MR; ++m) weight[m] = Vec::set(values[m]);
      LISSOM_UNROLL
      for (int v = 0; v < NV; ++v) {
        const Reg loaded = Vec::load(source + v * Vec::kLanes);
        LISSOM_UNROLL
        for (int m = 0; m < MR; ++m) sum[m * NV + v] = Vec::fma(weight[m], loaded, sum[m * NV + v]);
      }
    } else {
      Reg loaded[NV];
      LISSOM_UNROLL
      for (int v = 0; v < NV; ++v) loaded[v] = Vec::load(source + v * Vec::kLanes);
      LISSOM_UNROLL
      for (int m = 0; m < MR; ++m) {
        const Reg weight = Vec::set(values[m]);
        LISSOM_UNROLL
        for (int v = 0; v < NV; ++v) sum[m * NV + v] = Vec::fma(weight, loaded[v], sum[m * NV + v]);
      }
    }
  }
  const bool whole = last == Vec::kLanes;
  if (p.residual != nullptr) {
    LISSOM_UNROLL
    for (int m = 0; m < MR; ++m) {
      const float* from = p.residual + (row + m) * p.ldy + j;
      LISSOM_UNROLL
      for (int v = 0; v < NV; ++v) {
        const float* q = from + v * Vec::kLanes;
        sum[m * NV + v] = Vec::add(sum[m * NV + v], v == NV - 1 && !whole ? Vec::load_part(q, last) : Vec::load(q));
      }
    }
  }
  activate(p.epilogue, sum);
  LISSOM_UNROLL
  for (int m = 0; m < MR; ++m) {
    float* to = p.y + (row + m) * p.ldy + j;
    LISSOM_UNROLL
    for (int v = 0; v < NV - 1; ++v) Vec::store(to + v * Vec::kLanes, sum[m * NV + v]);
    if (whole) {
      Vec::store(to + (NV - 1) * Vec::kLanes, sum[m * NV + NV - 1]);
    } else {
      Vec::store_part(to + (NV - 1) * Vec::kLanes, sum[m * NV + NV - 1], last);
    }
  }
}

/* Block rows [begin, end) times `vectors` vectors, at most NV of them. */
template <int MR, int NV>
inline void chunk(const Product& p, int64_t begin, int64_t end, int vectors, const float* x, int64_t j, int64_t last) {
  if constexpr (NV > 1) {
    if (vectors < NV) return chunk<MR, NV - 1>(p, begin, end, vectors, x, j, last);
  }
  for (int64_t r = begin; r < end; ++r) {
    for (int64_t lane = 0; lane < p.w.block; lane += MR) tile<MR, NV>(p, r, lane, x, j, last);
  }
}

/* Block rows that pass over all chunks before the next ones begin. Few, so that rows of y are written whole and the
 * branches at the end of a row repeat; more where a block is one row, which loads a vector for each multiply-add and
 * gains more from a chunk that stays in the L1 cache (benchmarks/LOG.md). */
template <int MR>
constexpr int64_t kGroup = MR == 1 ? 16 : 1;

/* Cuts n into chunks of nearly equal numbers of vectors. */
template <int MR, int NV>
inline void product(const Product& p, int64_t begin, int64_t end, const float* x, int64_t n) {
  const int64_t vectors = (n + Vec::kLanes - 1) / Vec::kLanes;
  const int64_t chunks = (vectors + NV - 1) / NV;
  for (int64_t r = begin; r < end; r += kGroup<MR>) {
    const int64_t stop = end - r < kGroup<MR> ? end : r + kGroup<MR>;
    int64_t done = 0;
    for (int64_t c = 0; c < chunks; ++c) {
      const int64_t next = vectors * (c + 1) / chunks;
      const int64_t j = done * Vec::kLanes;
      const int64_t rest = n - (next - 1) * Vec::kLanes, last = rest < Vec::kLanes ? rest : Vec::kLanes;
      chunk<MR, NV>(p, r, stop, static_cast<int>(next - done), x + j, j, last);
      done = next;
    }
  }
}

template <int NV1, int NV2, int NV4>
inline void sparse_product(const lissom_f32_sparse* w, int64_t begin, int64_t end, const int32_t* offset,
                           const float* x, int64_t n, const float* residual, float* y, int64_t ldy,
                           const lissom_epilogue* epilogue) {
  const Product p{*w, offset, residual, y, ldy, *epilogue};
  if (w->block == 1) return product<1, NV1>(p, begin, end, x, n);
  if (w->block == 2) return product<2, NV2>(p, begin, end, x, n);
  return product<4, NV4>(p, begin, end, x, n);
}

}  // namespace

#endif
