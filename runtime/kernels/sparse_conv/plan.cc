#include <algorithm>
#include <initializer_list>

#include "sparse_conv.h"
#include "../sizes.h"
#include "../sparse_product/sparse_product.h"

namespace {

using lissom::ceil_div;
using lissom::kLargest;
using lissom::round_up;

/* The least outputs of a tile: below it the weight is read too often. */
constexpr int64_t kLeastTile = 48;
/* The most, halo aside: a few chunks. Beyond it outputs leave the cache before their lines are full. */
constexpr int64_t kMostTile = 192;

bool sane(const lissom_conv2d& s, const lissom_f32_sparse& w) {
  for (const int64_t size : {s.batch, s.groups, s.in_channels, s.out_channels, s.in[0], s.in[1], s.out[0], s.out[1],
                             s.kernel[0], s.kernel[1], s.stride[0], s.stride[1], s.dilation[0], s.dilation[1]}) {
    if (size <= 0 || size >= kLargest) return false;
  }
  if (s.pad[0] < 0 || s.pad[0] >= kLargest || s.pad[1] < 0 || s.pad[1] >= kLargest) return false;
  if (s.in_channels % s.groups != 0 || s.out_channels % (s.groups * w.block) != 0 || w.rows != s.out_channels) {
    return false;
  }
  const int64_t taps = s.kernel[0] * s.kernel[1];
  return taps < kLargest && s.in_channels / s.groups * taps == w.depth && s.in[0] * s.in[1] < kLargest &&
         s.out[0] * s.out[1] < kLargest && s.dilation[0] * s.kernel[0] < kLargest &&
         s.dilation[1] * s.kernel[1] < kLargest && (s.out[0] + s.kernel[0]) * s.stride[0] < kLargest &&
         (s.out[1] + s.kernel[1]) * s.stride[1] < kLargest;
}

}  // namespace

LISSOM_EXPORT int32_t lissom_f32_sparse_conv_plan(const lissom_conv2d* shape, const lissom_f32_sparse* w,
                                                  lissom_conv_plan* plan) {
  if (!sane(*shape, *w)) return -1;
  const lissom_conv2d& s = *shape;
  plan->shape = s;
  plan->offsets = w->depth;
  const int64_t reach = (s.kernel[0] - 1) * s.dilation[0];
  plan->phases = std::min(s.stride[0], reach + 1);
  plan->halo = reach / s.stride[0] * s.out[1];
  const int64_t planes = s.in_channels / s.groups * plan->phases * s.kernel[1];
  const int64_t outputs = s.out[0] * s.out[1];
  const int64_t room = std::min(lissom::kPanelFloats / planes - plan->halo, kMostTile);
  const int64_t wanted = std::max({room, 2 * plan->halo, kLeastTile});
  /* Tiles of one size, in whole vectors, whose number is the nearest to what is wanted. */
  plan->tile = std::min(round_up(ceil_div(outputs, std::max<int64_t>((outputs + wanted / 2) / wanted, 1)), 8), outputs);
  plan->panels = ceil_div(outputs, plan->tile);
  plan->pitch = lissom::pitch_of(plan->tile + plan->halo);
  if (plan->pitch >= kLargest / planes) return -1;
  plan->scratch = planes * plan->pitch + LISSOM_PANEL_MULTIPLE;
  const int64_t images = s.batch * s.groups;
  if (images >= kLargest || images * plan->panels >= kLargest) return -1;
  const int64_t block_rows = w->rows / w->block / s.groups;
  const int64_t stored = w->row_ptr[w->rows / w->block] * w->block / s.groups;
  const int64_t worth = std::max<int64_t>(1, stored * plan->tile / lissom::kLeastWork);
  plan->row_parts = std::min({ceil_div(lissom::kTasks, images * plan->panels), block_rows, worth});
  plan->tasks = images * plan->panels * plan->row_parts;
  return 0;
}

LISSOM_EXPORT void lissom_f32_sparse_conv_offsets(const lissom_conv_plan* plan, int32_t* offset) {
  const lissom_conv2d& s = plan->shape;
  for (int64_t c = 0; c < s.in_channels / s.groups; ++c) {
    for (int64_t kh = 0; kh < s.kernel[0]; ++kh) {
      const int64_t row = kh * s.dilation[0];
      const int64_t plane = (c * plan->phases + row % s.stride[0]) * s.kernel[1];
      for (int64_t kw = 0; kw < s.kernel[1]; ++kw) {
        *offset++ = static_cast<int32_t>((plane + kw) * plan->pitch + row / s.stride[0] * s.out[1]);
      }
    }
  }
}
