#include "sparse_gemm.h"

#include <algorithm>
#include <initializer_list>

#include "../sizes.h"
#include "../sparse_product/sparse_product.h"
#include "../sparse_vector/sparse_vector.h"

namespace {

using lissom::ceil_div;
using lissom::kLargest;

/* The least rows of x in a panel: below it the weight is read too often. */
constexpr int64_t kLeastTile = 32;
/* Rows of the output between the product and its transpose: they stay in the L1 cache. */
constexpr int64_t kStaged = 64;
/* Columns that are transposed at a time: a line of the cache. */
constexpr int64_t kLine = 16;

/* to[j, i] = from[i, j] for i < rows and j < columns. */
void transpose(const float* from, int64_t from_pitch, int64_t rows, int64_t columns, float* to, int64_t to_pitch) {
  for (int64_t first = 0; first < columns; first += kLine) {
    const int64_t last = std::min(first + kLine, columns);
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t j = first; j < last; ++j) to[j * to_pitch + i] = from[i * from_pitch + j];
    }
  }
}

}  // namespace

LISSOM_EXPORT int32_t lissom_f32_sparse_gemm_plan(int64_t m, const lissom_f32_sparse* w, lissom_gemm_plan* plan) {
  for (const int64_t size : {m, w->depth, w->rows}) {
    if (size <= 0 || size >= kLargest) return -1;
  }
  const int64_t block_rows = w->rows / w->block;
  const int64_t stored = w->row_ptr[block_rows] * w->block;
  plan->m = m;
  if (m <= LISSOM_VECTORS) {
    plan->tile = plan->offsets = plan->scratch = plan->pitch = 0;
    plan->panels = m;
  } else {
    const int64_t most = std::max(lissom::cache_floats(lissom::kPanelShare) / w->depth, kLeastTile);
    plan->tile = ceil_div(m, ceil_div(m, most));
    plan->panels = ceil_div(m, plan->tile);
    plan->pitch = lissom::pitch_of(plan->tile);
    if (plan->pitch >= kLargest / w->depth) return -1;
    plan->offsets = w->depth;
    plan->scratch = w->depth * plan->pitch + LISSOM_PANEL_MULTIPLE + kStaged * plan->pitch;
  }
  const int64_t worth = std::max<int64_t>(1, stored * std::max<int64_t>(plan->tile, 1) / lissom::kLeastWork);
  const int64_t sharing = plan->tile == 0 ? lissom::kTasks : ceil_div(lissom::kTasks, plan->panels);
  plan->row_parts = std::min({sharing, block_rows, worth});
  plan->tasks = plan->panels * plan->row_parts;
  return 0;
}

LISSOM_EXPORT void lissom_f32_sparse_gemm_offsets(const lissom_gemm_plan* plan, int32_t* offset) {
  for (int64_t k = 0; k < plan->offsets; ++k) offset[k] = static_cast<int32_t>(k * plan->pitch);
}

LISSOM_EXPORT void lissom_f32_sparse_gemm_task(const lissom_gemm_plan* plan, const lissom_f32_sparse* w,
                                               const int32_t* offset, const float* x, const float* residual, float* y,
                                               const lissom_epilogue* epilogue, int64_t task, float* scratch,
                                               int64_t* packed) {
  const int64_t panel = task / plan->row_parts, part = task % plan->row_parts;
  const int64_t block_rows = w->rows / w->block;
  const int64_t first = block_rows * part / plan->row_parts, last = block_rows * (part + 1) / plan->row_parts;
  if (plan->tile == 0) {
    const int64_t start = panel * w->rows;
    lissom_f32_sparse_vector(w, first, last, x + panel * w->depth, residual == nullptr ? nullptr : residual + start,
                             y + start, epilogue);
    return;
  }
  const int64_t begin = panel * plan->tile, n = std::min(plan->tile, plan->m - begin), pitch = plan->pitch;
  if (*packed != panel) {
    transpose(x + begin * w->depth, w->depth, n, w->depth, scratch, pitch);
    *packed = panel;
  }
  float* staged = scratch + plan->offsets * pitch + LISSOM_PANEL_MULTIPLE;
  for (int64_t r = first; r < last;) {
    const int64_t stop = std::min(r + kStaged / w->block, last), start = r * w->block, count = (stop - r) * w->block;
    lissom_f32_sparse rows = *w; /* the rows r to stop, as if they were all */
    rows.row_ptr += r;
    rows.bias += start;
    if (residual != nullptr) transpose(residual + begin * w->rows + start, w->rows, n, count, staged, pitch);
    lissom_f32_sparse_product(&rows, 0, stop - r, offset, scratch, n, residual == nullptr ? nullptr : staged, staged,
                              pitch, epilogue);
    transpose(staged, pitch, count, n, y + begin * w->rows + start, w->rows);
    r = stop;
  }
}
