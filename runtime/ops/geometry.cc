#include "geometry.h"

#include <limits>
#include <string>

#include "status.h"

namespace lissom {

Geometry::Geometry(const Info& info) {
  layer.groups = info.integer("group", 1);
  info.integers("strides", 1, 2, layer.stride);
  info.integers("dilations", 1, 2, layer.dilation);
  int64_t pads[4]; /* top, left, bottom, right */
  info.integers("pads", 0, 4, pads);
  for (size_t axis = 0; axis < 2; ++axis) {
    layer.pad[axis] = pads[axis];
    pad_end_[axis] = pads[2 + axis];
  }
}

lissom_conv2d Geometry::fit(const Shape& x, int64_t channels) const {
  lissom_conv2d result = layer;
  if (x.rank != 4 || x.dims[1] != channels) {
    throw Error("expected x [batch, " + std::to_string(channels) + ", height, width], but got " + x.text());
  }
  result.batch = x.dims[0];
  for (size_t axis = 0; axis < 2; ++axis) {
    result.in[axis] = x.dims[2 + axis];
    const int64_t reach = (layer.kernel[axis] - 1) * layer.dilation[axis] + 1;
    if (result.in[axis] > std::numeric_limits<int32_t>::max()) {
      throw Error("expected spatial axes below 2^31, but got x " + x.text());
    }
    const int64_t padded = result.in[axis] + layer.pad[axis] + pad_end_[axis];
    if (padded < reach) {
      throw Error("expected at least " + std::to_string(reach) + " padded elements along spatial axis " +
                  std::to_string(axis) + " for the kernel, but got " + std::to_string(padded) + " from x " + x.text());
    }
    result.out[axis] = (padded - reach) / layer.stride[axis] + 1;
  }
  return result;
}

Shape output_of(const lissom_conv2d& geometry, int64_t out_channels) {
  Shape shape;
  shape.rank = 4;
  shape.dims[0] = geometry.batch;
  shape.dims[1] = out_channels;
  shape.dims[2] = geometry.out[0];
  shape.dims[3] = geometry.out[1];
  return shape;
}

}  // namespace lissom
