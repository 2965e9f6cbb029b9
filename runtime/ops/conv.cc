#include <string>

#include "../kernels/sparse_conv/sparse_conv.h"
#include "geometry.h"
#include "kernel.h"
#include "tasks.h"
#include "weight.h"

namespace lissom {
namespace {

class Conv final : public Kernel {
 public:
  Conv(const OrtApi* api, const Info& info)
      : Kernel(api, info.signature()),
        geometry_(info),
        weight_(info, info.signature().last(), 4, geometry_.layer.groups),
        epilogue_(info.epilogue(info.signature().last())) {
    lissom_conv2d& layer = geometry_.layer;
    layer.in_channels = weight_.extent(1) * layer.groups;
    layer.out_channels = weight_.extent(0);
    for (size_t axis = 0; axis < 2; ++axis) layer.kernel[axis] = weight_.extent(2 + axis);
  }

  void compute(OrtKernelContext* context) const override {
    const Tensor x = input(context, kX);
    const lissom_conv2d geometry = geometry_.fit(x.shape, geometry_.layer.in_channels);
    const Shape shape = output_of(geometry, geometry.out_channels);
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
    run_tasks(api(), context, plan.tasks, plan.scratch, [&](int64_t task, float* scratch, int64_t* packed) {
      lissom_f32_sparse_conv_task(&plan, &w, offset, x.as<float>(), added, y, &epilogue_, task, scratch, packed);
    });
  }

 private:
  Geometry geometry_;
  const Weight weight_;
  const lissom_epilogue epilogue_;
};

}  // namespace

std::unique_ptr<Kernel> make_conv(const OrtApi* api, const Info& info) { return std::make_unique<Conv>(api, info); }

}  // namespace lissom
