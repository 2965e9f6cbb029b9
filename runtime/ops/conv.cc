#include <limits>
#include <string>

#include "../kernels/sparse_conv/sparse_conv.h"
#include "kernel.h"
#include "tasks.h"
#include "weight.h"

namespace lissom {
namespace {

class Conv final : public Kernel {
 public:
  Conv(const OrtApi* api, const Info& info)
      : Kernel(api, info.signature()),
        groups_(info.integer("group", 1)),
        weight_(info, 4, groups_),
        epilogue_(info.epilogue()) {
    info.integers("strides", 1, 2, stride_);
    info.integers("dilations", 1, 2, dilation_);
    info.integers("pads", 0, 4, pads_);
  }

  void compute(OrtKernelContext* context) const override {
    const Tensor x = input(context, kX);
    const lissom_conv2d geometry = fit(x.shape);
    Shape shape;
    shape.rank = 4;
    shape.dims[0] = geometry.batch;
    shape.dims[1] = geometry.out_channels;
    shape.dims[2] = geometry.out[0];
    shape.dims[3] = geometry.out[1];
    const lissom_f32_sparse& w = weight_.sparse();
    lissom_conv_plan plan = {};
    const bool empty = shape.count() == 0;
    if (!empty && lissom_f32_sparse_conv_plan(&geometry, &w, &plan) != 0) {
      throw Error("expected a convolution whose sizes fit into 31 bits, but got x " + x.shape.text() + " and y " +
                  shape.text());
    }
    const float* added = residual(context, shape);
    float* y = output(context, shape);
    if (empty) return;
    int32_t* offset = offsets_table(plan.offsets);
    lissom_f32_sparse_conv_offsets(&plan, offset);
    const PlannedTask<lissom_conv_plan> task(lissom_f32_sparse_conv_task, plan, w, epilogue_, offset,
                                            x.as<float>(), added, y);
    run_tasks(api(), context, task, plan.tasks, plan.scratch);
  }

 private:
  /* The geometry of one run. Throws an Error when `x` does not fit the weight. */
  lissom_conv2d fit(const Shape& x) const {
    lissom_conv2d geometry = {};
    geometry.groups = groups_;
    geometry.in_channels = weight_.extent(1) * groups_;
    geometry.out_channels = weight_.extent(0);
    if (x.rank != 4 || x.dims[1] != geometry.in_channels) {
      throw Error("expected x [batch, " + std::to_string(geometry.in_channels) + ", height, width], but got " +
                  x.text());
    }
    geometry.batch = x.dims[0];
    for (size_t axis = 0; axis < 2; ++axis) {
      geometry.in[axis] = x.dims[2 + axis];
      geometry.kernel[axis] = weight_.extent(2 + axis);
      geometry.stride[axis] = stride_[axis];
      geometry.dilation[axis] = dilation_[axis];
      geometry.pad[axis] = pads_[axis];
      const int64_t reach = (geometry.kernel[axis] - 1) * geometry.dilation[axis] + 1;
      if (geometry.in[axis] > std::numeric_limits<int32_t>::max()) {
        throw Error("expected spatial axes below 2^31, but got x " + x.text());
      }
      const int64_t padded = geometry.in[axis] + pads_[axis] + pads_[2 + axis];
      if (geometry.in[axis] < 1 || padded < reach) {
        throw Error("expected at least " + std::to_string(reach) + " padded elements along spatial axis " +
                    std::to_string(axis) + " for the kernel, but got " + std::to_string(padded) + " from x " +
                    x.text());
      }
      geometry.out[axis] = (padded - reach) / geometry.stride[axis] + 1;
    }
    return geometry;
  }

  const int64_t groups_;
  const Weight weight_;
  const lissom_epilogue epilogue_;
  int64_t stride_[2];
  int64_t dilation_[2];
  int64_t pads_[4]; /* top, left, bottom, right */
};

}  // namespace

std::unique_ptr<Kernel> make_conv(const OrtApi* api, const Info& info) { return std::make_unique<Conv>(api, info); }

}  // namespace lissom
