/* sparse_conv: a 2-D convolution with a sparse weight, cut into tasks that any number of threads may run.
 *
 * The outputs of an image lie in one row, f = oh * out_width + ow, which is cut into tiles. A task packs what a tile
 * reads into a panel of its own scratch, and multiplies some block rows of the weight by it (sparse_product). The panel
 * is the input unfolded along the width and folded by the stride of the height:
 *
 *   panel[c, phase, kw][i] = x[c, r * stride_h + phase - pad_h, ow * stride_w + kw * dilation_w - pad_w]  (0 outside)
 *
 * with (r, ow) the row and column of f = tile's first + i. Then each tap of the kernel is a constant distance: the
 * column (c, kh, kw) of the weight reads, for all outputs of a tile, consecutive elements from
 *
 *   offset[c, kh, kw] = start of [c, kh * dilation_h mod stride_h, kw] + kh * dilation_h / stride_h * out_width.
 *
 * Nothing is unfolded along the height: three rows of taps read one panel.
 *
 * Tasks write disjoint parts of y and may run in any order, at the same time, each with a scratch of its own. Tasks of
 * one panel are numbered consecutively; a scratch that was last used, in the same call, by another task of its panel
 * need not be packed again.
 */
#ifndef LISSOM_KERNELS_SPARSE_CONV_H_
#define LISSOM_KERNELS_SPARSE_CONV_H_

#include "../sparse.h"

/* Shapes of one run. Two numbers are of the height and the width; pad is at the top and the left. */
struct lissom_conv2d {
  int64_t batch;
  int64_t groups;
  int64_t in_channels;  /* of all groups */
  int64_t out_channels; /* of all groups */
  int64_t in[2];
  int64_t out[2];
  int64_t kernel[2];
  int64_t stride[2];
  int64_t dilation[2];
  int64_t pad[2];
};

/* How a run is cut. */
struct lissom_conv_plan {
  lissom_conv2d shape;
  int64_t tasks;     /* how many */
  int64_t scratch;   /* floats of scratch that each task needs */
  int64_t offsets;   /* int32s of `offset`, shared by all tasks */
  int64_t tile;      /* outputs per panel */
  int64_t panels;    /* panels of one image and group */
  int64_t row_parts; /* tasks that share a panel */
  int64_t phases;    /* rows of the stride that taps begin at */
  int64_t halo;      /* elements that the taps of the last row reach beyond a tile */
  int64_t pitch;     /* elements between rows of the panel */
};

/* Plans a run. Returns 0, or -1 when a size is not positive (in and pad: negative), does not suit the weight, or
 * overflows what the kernels count in. */
LISSOM_EXPORT int32_t lissom_f32_sparse_conv_plan(const lissom_conv2d* shape, const lissom_f32_sparse* w,
                                                  lissom_conv_plan* plan);

/* Fills offset[plan->offsets]. */
LISSOM_EXPORT void lissom_f32_sparse_conv_offsets(const lissom_conv_plan* plan, int32_t* offset);

/* Runs one task. `packed` says which panel the scratch holds already (-1: none) and is told which it holds now.
 * x[batch, in_channels, in[0], in[1]]; residual null or like y; y[batch, out_channels, out[0], out[1]]. */
LISSOM_EXPORT void lissom_f32_sparse_conv_task(const lissom_conv_plan* plan, const lissom_f32_sparse* w,
                                               const int32_t* offset, const float* x, const float* residual, float* y,
                                               const lissom_epilogue* epilogue, int64_t task, float* scratch,
                                               int64_t* packed);

#endif
