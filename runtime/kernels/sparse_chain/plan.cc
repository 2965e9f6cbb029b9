#include <algorithm>
#include <initializer_list>
#include <numeric>

#include "sparse_chain.h"
#include "../sizes.h"
#include "../sparse_product/sparse_product.h"

namespace {

using lissom::ceil_div;
using lissom::kLargest;
using lissom::pitch_of;

/* What a band reads and writes again, as a share of the L2 cache: the weights pass over it. */
constexpr double kBandShare = 9.0 / 16;
/* Rows of x are packed for expand in tiles of at most this share, where bands need not have them all at once. */
constexpr double kTileShare = 5.0 / 16;
/* Channels that are expanded at once before a depthwise layer, unless a block has more: they stay in the L1 cache. */
constexpr int64_t kGroup = 4;
/* Outputs of a channel that a band has at least where there are more bands than the cache asks for: fewer leave vectors
 * partly empty. */
constexpr int64_t kLeastOutputs = 24;
/* Images for each thread from which on they need not be as many for all. */
constexpr int64_t kManyImages = 4;
/* What may be read behind a row. */
constexpr int64_t kSlack = LISSOM_PANEL_MULTIPLE;

bool sane(const lissom_conv2d& s) {
  for (const int64_t size : {s.batch, s.groups, s.in_channels, s.out_channels, s.out[0], s.out[1], s.kernel[0],
                             s.kernel[1], s.stride[0], s.stride[1], s.dilation[0], s.dilation[1]}) {
    if (size <= 0 || size >= kLargest) return false;
  }
  for (int axis = 0; axis < 2; ++axis) {
    if (s.in[axis] < 0 || s.in[axis] >= kLargest || s.pad[axis] < 0 || s.pad[axis] >= kLargest ||
        s.dilation[axis] * s.kernel[axis] >= kLargest || (s.out[axis] + s.kernel[axis]) * s.stride[axis] >= kLargest) {
      return false;
    }
  }
  return s.kernel[0] * s.kernel[1] < kLargest && s.in[0] * s.in[1] < kLargest && s.out[0] * s.out[1] < kLargest &&
         s.batch * s.out[0] < kLargest;
}

bool fits(const lissom_conv2d& s, const lissom_f32_chain& chain) {
  if (chain.expand != nullptr && (chain.expand->rows != s.in_channels || s.in[0] == 0 || s.in[1] == 0)) return false;
  if (chain.project != nullptr && chain.project->depth != s.out_channels) return false;
  if (chain.spatial == nullptr) {
    return chain.depthwise != nullptr && chain.depthwise_bias != nullptr && s.in_channels == s.out_channels &&
           s.groups == s.in_channels;
  }
  return chain.depthwise == nullptr && chain.expand != nullptr && chain.project != nullptr && s.groups == 1 &&
         chain.spatial->rows == s.out_channels &&
         chain.spatial->depth == s.in_channels * s.kernel[0] * s.kernel[1];
}

/* Lays the parts of the scratch out for a band of so many rows. Returns the floats that a band passes over. */
double lay_out(const lissom_f32_chain& chain, int64_t band, lissom_chain_plan* plan) {
  const lissom_conv2d& s = plan->shape;
  const int64_t reach = (band - 1) * s.stride[0] + plan->span;
  const int64_t in_channels = chain.expand == nullptr ? 0 : chain.expand->depth;
  plan->band = band;
  if (chain.spatial != nullptr) {
    plan->tile = std::clamp<int64_t>(lissom::cache_floats(kTileShare) / (in_channels * s.in[1]), 1, reach);
    plan->group = s.in_channels;
    plan->split = s.stride[0];
    plan->row = plan->phase;
    plan->phase_pitch = ceil_div(reach, plan->split) * plan->row;
    plan->split_pitch = s.stride[1] * plan->phase_pitch;
    plan->rows_pitch = pitch_of(plan->split * plan->split_pitch);
    plan->panel_pitch = plan->fresh_pitch = pitch_of(plan->tile * s.in[1]);
  } else {
    plan->tile = reach;
    plan->group = std::min(s.in_channels, std::max(kGroup, chain.expand == nullptr ? 1 : chain.expand->block));
    plan->split = 1;
    plan->split_pitch = 0;
    plan->row = plan->phase * s.stride[1];
    plan->phase_pitch = plan->phase;
    plan->rows_pitch = plan->panel_pitch = pitch_of(reach * plan->row);
    plan->fresh_pitch = 0;
  }
  plan->kept_pitch = plan->kept * plan->phase * s.stride[1];
  /* The sums of a sparse layer run over the padding between rows. */
  plan->sums_pitch = pitch_of(band * (chain.spatial == nullptr ? s.out[1] : plan->row));
  const double panel = static_cast<double>(in_channels) * static_cast<double>(plan->panel_pitch);
  const double rows = static_cast<double>(plan->group) * static_cast<double>(plan->rows_pitch);
  const double sums = chain.project == nullptr ? 0.0 : static_cast<double>(s.out_channels) * static_cast<double>(plan->sums_pitch);
  return chain.spatial == nullptr ? panel + sums : rows + sums;
}

}  // namespace

LISSOM_EXPORT int32_t lissom_f32_sparse_chain_plan(const lissom_conv2d* shape, const lissom_f32_chain* chain,
                                                   int64_t threads, lissom_chain_plan* plan) {
  if (!sane(*shape) || !fits(*shape, *chain) || threads < 1 || threads >= kLargest) return -1;
  plan->shape = *shape;
  const lissom_conv2d& s = plan->shape;
  if (s.in[1] == 0) plan->shape.in[0] = 0; /* rows without columns are none */
  plan->span = (s.kernel[0] - 1) * s.dilation[0] + 1;
  plan->kept = chain->expand == nullptr ? 0 : std::max<int64_t>(0, plan->span - s.stride[0]);
  const int64_t read = (s.out[1] - 1) * s.stride[1] + (s.kernel[1] - 1) * s.dilation[1] + 1;
  plan->phase = ceil_div(read, s.stride[1]);
  if ((s.out[0] + plan->span) * s.stride[0] >= kLargest / (plan->phase * s.stride[1])) return -1;
  int64_t low = 1, high = s.out[0]; /* the largest band within the cache, or one row */
  while (low < high) {
    const int64_t middle = low + (high - low + 1) / 2;
    if (lay_out(*chain, middle, plan) <= static_cast<double>(lissom::cache_floats(kBandShare))) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  plan->bands = ceil_div(s.out[0], low);
  const int64_t share = threads / std::gcd(threads, s.batch); /* bands that the images need for all threads to have as many */
  if (share > 1 && s.batch < kManyImages * threads) {
    const int64_t filled = std::min(s.out[0], std::max<int64_t>(1, s.out[0] * s.out[1] / kLeastOutputs));
    plan->bands = std::max(plan->bands, std::min(ceil_div(plan->bands, share) * share, filled));
  }
  lay_out(*chain, ceil_div(s.out[0], plan->bands), plan);
  plan->bands = ceil_div(s.out[0], plan->band);
  const int64_t in_channels = chain->expand == nullptr ? 0 : chain->expand->depth;
  const int64_t sums = chain->project == nullptr ? 0 : s.out_channels;
  for (const int64_t channels : {in_channels, plan->group, s.in_channels, s.out_channels}) {
    for (const int64_t pitch : {plan->panel_pitch, plan->fresh_pitch, plan->rows_pitch, plan->kept_pitch, plan->sums_pitch}) {
      if (pitch > 0 && channels >= kLargest / pitch) return -1;
    }
  }
  plan->fresh_start = in_channels * plan->panel_pitch + kSlack;
  plan->rows_start = plan->fresh_start + s.in_channels * plan->fresh_pitch;
  plan->kept_start = plan->rows_start + plan->group * plan->rows_pitch + kSlack;
  plan->sums_start = plan->kept_start + s.in_channels * plan->kept_pitch;
  plan->scratch = plan->sums_start + sums * plan->sums_pitch + kSlack;
  plan->tasks = s.batch * plan->bands;
  const int64_t taps = s.kernel[0] * s.kernel[1];
  plan->offsets = in_channels + (chain->spatial == nullptr ? taps : chain->spatial->depth) + sums;
  return 0;
}

LISSOM_EXPORT void lissom_f32_sparse_chain_offsets(const lissom_chain_plan* plan, const lissom_f32_chain* chain,
                                                   int32_t* offset) {
  const lissom_conv2d& s = plan->shape;
  const int64_t in_channels = chain->expand == nullptr ? 0 : chain->expand->depth;
  for (int64_t c = 0; c < in_channels; ++c) *offset++ = static_cast<int32_t>(c * plan->panel_pitch);
  const int64_t channels = chain->spatial == nullptr ? 1 : s.in_channels;
  for (int64_t c = 0; c < channels; ++c) {
    for (int64_t kh = 0; kh < s.kernel[0]; ++kh) {
      const int64_t row = kh * s.dilation[0];
      const int64_t start = c * plan->rows_pitch + row % plan->split * plan->split_pitch + row / plan->split * plan->row;
      for (int64_t kw = 0; kw < s.kernel[1]; ++kw) {
        const int64_t column = kw * s.dilation[1];
        *offset++ = static_cast<int32_t>(start + column % s.stride[1] * plan->phase_pitch + column / s.stride[1]);
      }
    }
  }
  const int64_t sums = chain->project == nullptr ? 0 : s.out_channels;
  for (int64_t c = 0; c < sums; ++c) *offset++ = static_cast<int32_t>(c * plan->sums_pitch);
}
