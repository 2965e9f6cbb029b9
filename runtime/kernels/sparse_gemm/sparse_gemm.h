/* sparse_gemm: y[m, rows] = activation(x[m, depth] W^T + bias + residual), W sparse, cut into tasks as sparse_conv is.
 *
 * A few rows of x are multiplied as they lie (sparse_vector). More of them become columns: a task transposes a tile of
 * rows into a panel of its scratch, multiplies some block rows of the weight by it (sparse_product), and transposes the
 * result into y.
 */
#ifndef LISSOM_KERNELS_SPARSE_GEMM_H_
#define LISSOM_KERNELS_SPARSE_GEMM_H_

#include "../sparse.h"

/* Most rows of x that are multiplied as they lie. */
#define LISSOM_VECTORS 3

/* How a run is cut. */
struct lissom_gemm_plan {
  int64_t m;         /* rows of x and y */
  int64_t tasks;     /* how many */
  int64_t scratch;   /* floats of scratch that each task needs */
  int64_t offsets;   /* int32s of `offset`, shared by all tasks */
  int64_t tile;      /* rows of x per panel; 0: no panel, each row of x is multiplied as it lies */
  int64_t panels;    /* panels of x, or rows where there are no panels */
  int64_t row_parts; /* tasks that share a panel; where there are none, the same for every m */
  int64_t pitch;     /* elements between rows of the panel */
};

/* Plans a run. Returns 0, or -1 when a size is not positive or overflows what the kernels count in. */
LISSOM_EXPORT int32_t lissom_f32_sparse_gemm_plan(int64_t m, const lissom_f32_sparse* w, lissom_gemm_plan* plan);

/* Fills offset[plan->offsets]. */
LISSOM_EXPORT void lissom_f32_sparse_gemm_offsets(const lissom_gemm_plan* plan, int32_t* offset);

/* Runs one task; `packed` as in sparse_conv.h. x[m, depth]; residual null or like y; y[m, rows]. */
LISSOM_EXPORT void lissom_f32_sparse_gemm_task(const lissom_gemm_plan* plan, const lissom_f32_sparse* w,
                                               const int32_t* offset, const float* x, const float* residual, float* y,
                                               const lissom_epilogue* epilogue, int64_t task, float* scratch,
                                               int64_t* packed);

#endif
