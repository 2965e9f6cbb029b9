// A product that passes over the zero vectors of a panel: what SparseConv could do (skipping.py measures it, and
// docs/activations.md says why it does not). The arithmetic and the tiles are those of sparse_product, for this processor.
#if defined(__AVX512F__)
#include "vec/avx512.h"
#elif defined(__AVX2__)
#include "vec/avx2.h"
#elif defined(__ARM_NEON)
#include "vec/neon.h"
#else
#include "vec/scalar.h"
#endif

#include <cstring>

#include "sparse_product/product.h"

namespace {

// Vectors of a tile of one row, of two and of four, as the variants of sparse_product have them.
#if defined(__AVX512F__)
constexpr int kWide = 14, kMiddle = 8, kNarrow = 6;
#elif defined(__AVX2__)
constexpr int kWide = 12, kMiddle = 6, kNarrow = 3;
#elif defined(__ARM_NEON)
constexpr int kWide = 14, kMiddle = 8, kNarrow = 5;
#else
constexpr int kWide = 12, kMiddle = 6, kNarrow = 4;
#endif

// A stored block whose column is not zero in a stretch of the panel.
struct Step {
  int32_t offset;
  int32_t index;
};

// MR rows of block row r times NV vectors, over the steps of that block row.
template <int MR, int NV>
LISSOM_NOINLINE void tile_of(const Product& p, int64_t r, int64_t lane, const float* x, int64_t j, const Step* steps,
                             int64_t count) {
  using Reg = Vec::Reg;
  const int64_t block = p.w.block, row = r * block + lane;
  Reg sum[MR * NV];
  LISSOM_UNROLL
  for (int m = 0; m < MR; ++m) {
    LISSOM_UNROLL
    for (int v = 0; v < NV; ++v) sum[m * NV + v] = Vec::set(p.w.bias[row + m]);
  }
  for (int64_t i = 0; i < count; ++i) {
    const float* source = x + steps[i].offset;
    const float* values = p.w.values + steps[i].index * block + lane;
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
  activate(p.epilogue, sum);
  LISSOM_UNROLL
  for (int m = 0; m < MR; ++m) {
    LISSOM_UNROLL
    for (int v = 0; v < NV; ++v) Vec::store(p.y + (row + m) * p.ldy + j + v * Vec::kLanes, sum[m * NV + v]);
  }
}

// nonzero[n / tile, depth]: whether a column has an element that is not zero in a stretch.
template <int NV>
void look(const Product& p, const float* x, int64_t n, uint8_t* nonzero) {
  for (int64_t j = 0; j < n; j += NV * Vec::kLanes) {
    for (int64_t k = 0; k < p.w.depth; ++k) {
      const float* source = x + p.offset[k] + j;
      uint32_t bits = 0;  // compilers make vectors of the loop as it is, but not of one that is unrolled first
      for (int i = 0; i < NV * Vec::kLanes; ++i) {
        uint32_t word;
        std::memcpy(&word, source + i, sizeof(word));
        bits |= word;
      }
      *nonzero++ = bits << 1 != 0;
    }
  }
}

template <int MR, int NV>
void multiply(const Product& p, const float* x, int64_t n, const uint8_t* nonzero, Step* steps) {
  for (int64_t j = 0; j < n; j += NV * Vec::kLanes, nonzero += p.w.depth) {
    for (int64_t r = 0; r < p.w.rows / p.w.block; ++r) {
      int64_t count = 0;
      for (int32_t i = p.w.row_ptr[r]; i < p.w.row_ptr[r + 1]; ++i) {
        const int32_t column = p.w.columns[i];
        steps[count] = {p.offset[column], i};
        count += nonzero[column];
      }
      for (int64_t lane = 0; lane < p.w.block; lane += MR) tile_of<MR, NV>(p, r, lane, x + j, j, steps, count);
    }
  }
}

// What a call does. Of `known`, nonzero is used as it is.
enum Mode : int32_t { kProduct = 0, kCounted = 1, kKnown = 2 };

template <int MR, int NV>
void skip(const Product& p, const float* x, int64_t n, uint8_t* nonzero, Step* steps, int32_t mode) {
  if (mode == kCounted) look<NV>(p, x, n, nonzero);
  multiply<MR, NV>(p, x, n, nonzero, steps);
}

}  // namespace

// Outputs that the product of a weight in such blocks multiplies at once: the tile.
LISSOM_EXPORT int64_t skipping_tile(int64_t block) {
  return (block == 1 ? kWide : block == 2 ? kMiddle : kNarrow) * Vec::kLanes;
}

// y[rows, n] = relu(bias + W x), n a multiple of the tile, `repeats` times, so that the panel is in the caches as after
// packing. product is the library's; nonzero[n / tile, depth] and steps[depth + 1] are for the other modes.
LISSOM_EXPORT void skipping_run(lissom_f32_sparse_product_fn product, const lissom_f32_sparse* w, const int32_t* offset,
                                const float* x, int64_t n, float* y, uint8_t* nonzero, Step* steps, int32_t mode,
                                int64_t repeats) {
  const lissom_epilogue relu{LISSOM_RELU, 0, 0};
  const Product p{*w, offset, nullptr, y, n, relu};
  for (int64_t i = 0; i < repeats; ++i) {
    if (mode == kProduct) {
      product(w, 0, w->rows / w->block, offset, x, n, nullptr, y, n, &relu);
    } else if (w->block == 1) {
      skip<1, kWide>(p, x, n, nonzero, steps, mode);
    } else if (w->block == 2) {
      skip<2, kMiddle>(p, x, n, nonzero, steps, mode);
    } else {
      skip<4, kNarrow>(p, x, n, nonzero, steps, mode);
    }
  }
}
