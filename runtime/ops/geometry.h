/* The attributes of a convolution, and the shapes of its runs. */
#ifndef LISSOM_OPS_GEOMETRY_H_
#define LISSOM_OPS_GEOMETRY_H_

#include <cstdint>

#include "../kernels/sparse_conv/sparse_conv.h"
#include "info.h"
#include "tensor.h"

namespace lissom {

class Geometry {
 public:
  /* Reads strides, dilations, pads and group. Throws an Error for one that is missing or out of range. */
  explicit Geometry(const Info& info);

  /* What the node says: groups, stride, dilation and the first pads. Channels and kernel are the weight's, and its
   * owner's to set. */
  lissom_conv2d layer = {};

  /* The layer with the shapes of a run. Throws an Error unless x is [batch, channels, height, width] and the kernel has
   * a place in it and its padding; there may be nothing but padding. */
  lissom_conv2d fit(const Shape& x, int64_t channels) const;

 private:
  int64_t pad_end_[2]; /* at the bottom and the right */
};

/* [batch, out_channels, out_height, out_width] */
Shape output_of(const lissom_conv2d& geometry, int64_t out_channels);

}  // namespace lissom

#endif
