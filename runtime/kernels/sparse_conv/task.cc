#include <algorithm>

#include "sparse_conv.h"
#include "../sparse_product/sparse_product.h"

namespace {

/* Which columns of outputs the tap kw takes from inside the image, and from where. */
struct Columns {
  int64_t shift; /* the column ow reads the image's column ow * stride + shift */
  int64_t low;   /* first inside */
  int64_t high;  /* first beyond */
};

Columns columns_of(const lissom_conv2d& s, int64_t kw) {
  const int64_t shift = kw * s.dilation[1] - s.pad[1], stride = s.stride[1];
  const int64_t low = shift >= 0 ? 0 : (-shift + stride - 1) / stride;
  const int64_t high = shift >= s.in[1] ? 0 : (s.in[1] - 1 - shift) / stride + 1;
  return {shift, low, std::max(low, high)};
}

/* Every stride-th element. The constant strides are loops that compilers make vectors of. */
void copy_strided(const float* __restrict from, int64_t stride, int64_t count, float* __restrict to) {
  if (stride == 1) {
    std::copy(from, from + count, to);
  } else if (stride == 2) {
    for (int64_t i = 0; i < count; ++i) to[i] = from[2 * i];
  } else {
    for (int64_t i = 0; i < count; ++i) to[i] = from[i * stride];
  }
}

/* The outputs [begin, end), and where in the image of outputs the first one lies. */
struct Stretch {
  int64_t begin;
  int64_t end;
  int64_t row;
  int64_t column;
};

/* The plane [c, phase, kw] for a stretch of outputs, row by row. */
void pack_rows(const lissom_conv2d& s, const float* image, int64_t phase, const Columns& columns,
               const Stretch& outputs, float* to) {
  int64_t begin = outputs.begin, row = outputs.row, column = outputs.column;
  const int64_t end = outputs.end;
  while (begin < end) {
    const int64_t stop = std::min(s.out[1], column + end - begin), count = stop - column;
    const int64_t source = row * s.stride[0] + phase - s.pad[0];
    if (source < 0 || source >= s.in[0]) {
      std::fill(to, to + count, 0.0f);
    } else {
      const int64_t first = std::clamp(columns.low, column, stop), last = std::clamp(columns.high, first, stop);
      std::fill(to, to + (first - column), 0.0f);
      if (first < last) {
        const float* from = image + source * s.in[1] + first * s.stride[1] + columns.shift;
        copy_strided(from, s.stride[1], last - first, to + (first - column));
      }
      std::fill(to + (last - column), to + count, 0.0f);
    }
    to += count;
    begin += count;
    column = 0;
    ++row;
  }
}

/* The same where rows of outputs and of the image are equally long and all strides are 1: the image shifted, less what
 * came over the border from the next row. */
void pack_shifted(const lissom_conv2d& s, const float* image, int64_t kw, int64_t begin, int64_t end, float* to) {
  const int64_t width = s.in[1], pixels = s.in[0] * width;
  const int64_t across = kw * s.dilation[1] - s.pad[1];
  const int64_t shift = across - s.pad[0] * width;
  const int64_t first = std::clamp(-shift, begin, end), last = std::clamp(pixels - shift, first, end);
  std::fill(to, to + (first - begin), 0.0f);
  if (first < last) std::copy(image + first + shift, image + last + shift, to + (first - begin));
  std::fill(to + (last - begin), to + (end - begin), 0.0f);
  const int64_t low = std::clamp<int64_t>(-across, 0, width), high = std::clamp<int64_t>(width - across, low, width);
  if (low == 0 && high == width) return;
  for (int64_t row = begin / width * width; row < end; row += width) {
    for (int64_t f = std::max(row, begin); f < std::min(row + low, end); ++f) to[f - begin] = 0.0f;
    for (int64_t f = std::max(row + high, begin); f < std::min(row + width, end); ++f) to[f - begin] = 0.0f;
  }
}

/* The panel of the outputs [begin, end). */
void pack(const lissom_conv_plan& plan, const float* x, int64_t begin, int64_t end, float* panel) {
  const lissom_conv2d& s = plan.shape;
  const bool shifted = s.stride[0] == 1 && s.stride[1] == 1 && s.out[1] == s.in[1];
  const int64_t row = begin / s.out[1], column = begin % s.out[1], reach = (s.kernel[0] - 1) * s.dilation[0];
  constexpr int64_t kKnown = 16; /* wider kernels divide anew for each plane */
  Columns known[kKnown];
  for (int64_t kw = 0; kw < std::min(kKnown, s.kernel[1]); ++kw) known[kw] = columns_of(s, kw);
  for (int64_t c = 0; c < s.in_channels / s.groups; ++c) {
    const float* image = x + c * s.in[0] * s.in[1];
    for (int64_t phase = 0; phase < plan.phases; ++phase) {
      const int64_t halo = (reach - phase) / s.stride[0] * s.out[1]; /* of the taps that begin at this phase */
      const Stretch outputs{begin, end + halo, row, column};
      for (int64_t kw = 0; kw < s.kernel[1]; ++kw, panel += plan.pitch) {
        if (shifted) {
          pack_shifted(s, image, kw, begin, end + halo, panel);
        } else {
          pack_rows(s, image, phase, kw < kKnown ? known[kw] : columns_of(s, kw), outputs, panel);
        }
      }
    }
  }
}

}  // namespace

LISSOM_EXPORT void lissom_f32_sparse_conv_task(const lissom_conv_plan* plan, const lissom_f32_sparse* w,
                                               const int32_t* offset, const float* x, const float* residual, float* y,
                                               const lissom_epilogue* epilogue, int64_t task, float* scratch,
                                               int64_t* packed) {
  const lissom_conv2d& s = plan->shape;
  const int64_t panel = task / plan->row_parts, part = task % plan->row_parts;
  const int64_t image = panel / plan->panels, group = image % s.groups;
  const int64_t begin = panel % plan->panels * plan->tile;
  const int64_t outputs = s.out[0] * s.out[1], n = std::min(plan->tile, outputs - begin);
  if (*packed != panel) {
    pack(*plan, x + image * (s.in_channels / s.groups) * s.in[0] * s.in[1], begin, begin + n, scratch);
    *packed = panel;
  }
  const int64_t rows = w->rows / w->block / s.groups;
  const int64_t first = group * rows + rows * part / plan->row_parts;
  const int64_t last = group * rows + rows * (part + 1) / plan->row_parts;
  const int64_t start = image / s.groups * s.out_channels * outputs + begin;
  lissom_f32_sparse_product(w, first, last, offset, scratch, n, residual == nullptr ? nullptr : residual + start,
                            y + start, outputs, epilogue);
}
