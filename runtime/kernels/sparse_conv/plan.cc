#include <algorithm>
#include <initializer_list>

#include "sparse_conv.h"
#include "../sizes.h"
#include "../sparse_product/sparse_product.h"

namespace {

using lissom::ceil_div;
using lissom::kLargest;

/* The least and the most outputs of a tile. Below, the weight is read too often; beyond, rows of y leave the caches
 * before their lines are full. */
constexpr int64_t kLeastTile = 24;
constexpr int64_t kMostTile = 384;
/* A tile is this many times its halo where the panel is not larger than the second number then. No panel is
 * larger. */
constexpr int64_t kHalos = 4;
constexpr int64_t kLargestPanelFloats = 120 * 1024;
/* Elements that tiles are multiples of. */
constexpr int64_t kStep = 8;

bool sane(const lissom_conv2d& s, const lissom_f32_sparse& w) {
  for (const int64_t size : {s.batch, s.groups, s.in_channels, s.out_channels, s.out[0], s.out[1], s.kernel[0],
                             s.kernel[1], s.stride[0], s.stride[1], s.dilation[0], s.dilation[1]}) {
    if (size <= 0 || size >= kLargest) return false;
  }
  for (const int64_t size : {s.in[0], s.in[1], s.pad[0], s.pad[1]}) {
    if (size < 0 || size >= kLargest) return false;
  }
  if (s.in_channels % s.groups != 0 || s.out_channels % (s.groups * w.block) != 0 || w.rows != s.out_channels) {
    return false;
  }
  const int64_t taps = s.kernel[0] * s.kernel[1];
  return taps < kLargest && s.in_channels / s.groups * taps == w.depth && s.in[0] * s.in[1] < kLargest &&
         s.out[0] * s.out[1] < kLargest && s.dilation[0] * s.kernel[0] < kLargest &&
         s.dilation[1] * s.kernel[1] < kLargest && (s.dilation[0] * s.kernel[0] / s.stride[0]) * s.out[1] < kLargest &&
         (s.out[0] + s.kernel[0]) * s.stride[0] < kLargest && (s.out[1] + s.kernel[1]) * s.stride[1] < kLargest;
}

/* What decides how long a tile takes. */
struct Work {
  double stored;  /* weights */
  double planes;  /* rows of the panel */
  double halo;    /* elements that a row has besides the tile's */
  double packing; /* multiply-adds of a vector in the time in which one is packed */
};

/* What a tile of n outputs takes, in multiply-adds of a vector. For each stored weight that is one a vector, the last of
 * which may be partly empty, and two more for all that the inner loop does besides; and packing, by elements and rows. */
double cost_of(int64_t n, const Work& work) {
  const double vectors = static_cast<double>(ceil_div(n, kStep)) + 2.0 * static_cast<double>(n) / kStep;
  return work.stored * vectors + work.planes * (work.packing * (static_cast<double>(n) + work.halo) / kStep + 20.0);
}

/* The tile whose panels, the last one shorter, take least. */
int64_t tile_of(int64_t outputs, int64_t most, const Work& work) {
  int64_t best = 0;
  double least = 0.0;
  for (int64_t tile = kLeastTile; tile <= most; tile += kStep) {
    const int64_t n = std::min(tile, outputs), whole = outputs / n, rest = outputs % n;
    const double cost =
        static_cast<double>(whole) * cost_of(n, work) + (rest == 0 ? 0.0 : cost_of(rest, work));
    if (best == 0 || cost < least) {
      best = n;
      least = cost;
    }
    if (tile >= outputs) break;
  }
  return best;
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
  const int64_t stored = w->row_ptr[w->rows / w->block] * w->block / s.groups;
  const int64_t most = std::min(std::max(lissom::cache_floats(lissom::kPanelShare) / planes, kHalos * plan->halo),
                                kLargestPanelFloats / planes - plan->halo);
  const bool shifted = s.stride[0] == 1 && s.stride[1] == 1 && s.out[1] == s.in[1];
  const Work work{static_cast<double>(stored), static_cast<double>(planes), static_cast<double>(plan->halo),
                  shifted ? 1.5 : 6.0};
  plan->tile = tile_of(outputs, std::clamp(most, kLeastTile, kMostTile), work);
  plan->panels = ceil_div(outputs, plan->tile);
  plan->pitch = lissom::pitch_of(plan->tile + plan->halo);
  if (plan->pitch >= kLargest / planes) return -1;
  plan->scratch = planes * plan->pitch + LISSOM_PANEL_MULTIPLE;
  const int64_t images = s.batch * s.groups;
  if (images >= kLargest || images * plan->panels >= kLargest) return -1;
  const int64_t block_rows = w->rows / w->block / s.groups;
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
