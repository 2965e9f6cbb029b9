/* sparse_chain: up to three layers in one pass, so that what is between them never leaves the caches.
 *
 *   expand    1 x 1 and sparse                                      (or not there)
 *   spatial   a depthwise convolution, or a sparse one of one group between the other two
 *   project   1 x 1 and sparse                                      (or not there)
 *
 * The outputs of an image are cut into bands of rows. A task makes one band: what expand gives for the rows that the
 * band's taps reach, what spatial makes of those, and project's outputs. Rows that two bands reach are kept: a scratch
 * that was last used, in the same call, for the band above need only be given the rows below.
 *
 * Tasks write disjoint parts of y and may run in any order, at the same time, each with a scratch of its own. Every sum
 * runs in the order of sparse_product.h and depthwise.h, so results do not depend on the bands or on the order.
 */
#ifndef LISSOM_KERNELS_SPARSE_CHAIN_H_
#define LISSOM_KERNELS_SPARSE_CHAIN_H_

#include "../sparse.h"
#include "../sparse_conv/sparse_conv.h"

/* The layers; a null pointer is a layer that is not there. Exactly one of `spatial` and `depthwise` is there. */
struct lissom_f32_chain {
  const lissom_f32_sparse* expand;
  const lissom_f32_sparse* spatial;
  const float* depthwise;      /* [channels, kernel_height * kernel_width] */
  const float* depthwise_bias; /* [channels] */
  const lissom_f32_sparse* project;
  lissom_epilogue after[3]; /* of expand, of spatial or depthwise, of project */
};

/* How a run is cut. The scratch holds, one behind the other:
 *
 *   panel  [in_channels, panel_pitch]  rows of x that expand reads; before a depthwise layer in the form of `rows`
 *   fresh  [channels, fresh_pitch]     what expand gives before a sparse layer
 *   rows   [group, rows_pitch]         what the middle layer reads: padded and split by the stride of the width, before a
 *                                      sparse layer by that of the height too; before a depthwise one some channels at once
 *   kept   [channels, kept_pitch]      the last of those rows, which the next band reads too
 *   sums   [channels, sums_pitch]      what project reads
 *
 * Row r of `rows` begins at r mod split * split_pitch + r / split * row, and holds the padded input's columns
 * phase, phase + stride, ... from phase * phase_pitch on.
 */
struct lissom_chain_plan {
  lissom_conv2d shape;   /* of the layer in the middle */
  int64_t tasks;         /* how many */
  int64_t scratch;       /* floats of scratch that each task needs */
  int64_t offsets;       /* int32s of `offset`, shared by all tasks */
  int64_t band;          /* rows of outputs of a task; the last of an image may have fewer */
  int64_t bands;         /* of an image */
  int64_t span;          /* rows of input that the taps of one output reach over */
  int64_t kept;          /* rows that two bands read */
  int64_t split;         /* rows that lie apart, so that the rows of outputs one below the other read neighbours */
  int64_t split_pitch;   /* between them */
  int64_t phase;         /* elements of a row that are a stride apart */
  int64_t phase_pitch;   /* between those and the next */
  int64_t row;           /* from a row to the next one that is not split from it */
  int64_t tile;          /* rows of x that are packed at once */
  int64_t group;         /* channels that are expanded at once */
  int64_t panel_pitch;
  int64_t fresh_pitch;
  int64_t rows_pitch;
  int64_t kept_pitch;
  int64_t sums_pitch;
  int64_t fresh_start;   /* where each part begins */
  int64_t rows_start;
  int64_t kept_start;
  int64_t sums_start;
};

/* Plans a run for so many threads; `shape` is that of the layer in the middle. Returns 0, or -1 when a size is not
 * positive (pad, and in without expand: negative), layers do not fit each other, or sizes overflow what the kernels
 * count in. */
LISSOM_EXPORT int32_t lissom_f32_sparse_chain_plan(const lissom_conv2d* shape, const lissom_f32_chain* chain,
                                                   int64_t threads, lissom_chain_plan* plan);

/* Fills offset[plan->offsets]. */
LISSOM_EXPORT void lissom_f32_sparse_chain_offsets(const lissom_chain_plan* plan, const lissom_f32_chain* chain,
                                                   int32_t* offset);

/* Runs one task. `packed` says which task's rows the scratch holds (-1: none) and is told which it holds now.
 * x[batch, channels, in[0], in[1]] with the channels that the first layer reads; residual null or like y;
 * y[batch, channels, out[0], out[1]] with those that the last layer gives. The residual is added by project (without one
 * there is none), and may not be y. */
LISSOM_EXPORT void lissom_f32_sparse_chain_task(const lissom_chain_plan* plan, const lissom_f32_chain* chain,
                                                const int32_t* offset, const float* x, const float* residual, float* y,
                                                int64_t task, float* scratch, int64_t* packed);

#endif
