#include <optional>
#include <string>

#include "../kernels/sparse_chain/sparse_chain.h"
#include "geometry.h"
#include "kernel.h"
#include "tasks.h"
#include "weight.h"

namespace lissom {
namespace {

/* Where a stage stands in `lissom_f32_chain::after`. */
size_t place_of(Role role) { return role == Role::expand ? 0 : role == Role::project ? 2 : 1; }

class Chain final : public Kernel {
 public:
  Chain(const OrtApi* api, const Info& info) : Kernel(api, info.signature()), geometry_(info) {
    for (const Stage& stage : info.signature().stages) {
      try {
        add(info, stage);
      } catch (const Error& error) {
        throw Error(std::string(name_of(stage.role)) + ": " + error.what());
      }
    }
  }

  void compute(OrtKernelContext* context) const override {
    const Tensor x = input(context, kX);
    const lissom_conv2d middle = geometry_.fit(x.shape, in_channels_);
    if (chain_.expand != nullptr && middle.in[0] * middle.in[1] == 0) {
      throw Error("expected at least 1 element along each spatial axis for the kernel of expand, but got x " +
                  x.shape.text());
    }
    const Shape shape = output_of(middle, out_channels_);
    lissom_chain_plan plan = {};
    const bool empty = shape.count() == 0;
    if (!empty && lissom_f32_sparse_chain_plan(&middle, &chain_, threads_.count(api(), context), &plan) != 0) {
      throw Error("expected a chain whose sizes fit into 31 bits, but got x " + x.shape.text() + " and y " +
                  shape.text());
    }
    const float* added = residual(context, shape);
    float* y = output(context, shape);
    if (empty) return;
    int32_t* offset = offsets_table(plan.offsets);
    lissom_f32_sparse_chain_offsets(&plan, &chain_, offset);
    run_tasks(api(), context, plan.tasks, plan.scratch, [&](int64_t task, float* scratch, int64_t* packed) {
      lissom_f32_sparse_chain_task(&plan, &chain_, offset, x.as<float>(), added, y, task, scratch, packed);
    });
  }

 private:
  /* Reads a stage, which follows those that were added. Throws an Error that says what is wrong. */
  void add(const Info& info, const Stage& stage) {
    const int64_t before = out_channels_;
    const int64_t read = stage.role == Role::depthwise ? add_depthwise(info, stage) : add_sparse(info, stage);
    if (before == 0) {
      in_channels_ = read;
    } else if (read != before) {
      throw Error("expected a weight for the " + std::to_string(before) +
                  " channels that the layer before gives, but got one for " + std::to_string(read));
    }
    chain_.after[place_of(stage.role)] = info.epilogue(stage);
  }

  /* Both set the output channels and tell how many channels the stage reads. */
  int64_t add_depthwise(const Info& info, const Stage& stage) {
    const Tensor weight = info.constant(stage.first, 4), bias = info.constant(stage.bias, 1);
    const int64_t channels = weight.shape.dims[0];
    if (weight.shape.dims[1] != 1 || weight.shape.count() == 0) {
      throw Error("expected a weight [channels, 1, height, width] of at least one channel and tap, but got " +
                  weight.shape.text());
    }
    if (geometry_.layer.groups != channels) {
      throw Error("expected as many groups as the weight has channels, " + std::to_string(channels) + ", but got " +
                  std::to_string(geometry_.layer.groups));
    }
    if (bias.shape.dims[0] != channels) {
      throw Error("expected " + std::to_string(channels) + " elements of the bias, one a channel, but got " +
                  std::to_string(bias.shape.dims[0]));
    }
    chain_.depthwise = weight.as<float>();
    chain_.depthwise_bias = bias.as<float>();
    set_middle(channels, channels, weight.shape.dims + 2);
    return channels;
  }

  int64_t add_sparse(const Info& info, const Stage& stage) {
    const Weight& weight = weights_[place_of(stage.role)].emplace(info, stage, 4, 1);
    const int64_t channels = weight.extent(1), kernel[] = {weight.extent(2), weight.extent(3)};
    out_channels_ = weight.extent(0);
    if (stage.role == Role::spatial) {
      const int64_t groups = geometry_.layer.groups;
      if (groups != 1) throw Error("expected 1 group, but got " + std::to_string(groups));
      chain_.spatial = &weight.sparse();
      set_middle(channels, out_channels_, kernel);
      return channels;
    }
    if (kernel[0] != 1 || kernel[1] != 1) {
      throw Error("expected a kernel of 1 x 1, but got " + std::to_string(kernel[0]) + " x " +
                  std::to_string(kernel[1]));
    }
    (stage.role == Role::expand ? chain_.expand : chain_.project) = &weight.sparse();
    return channels;
  }

  void set_middle(int64_t in_channels, int64_t out_channels, const int64_t* kernel) {
    lissom_conv2d& layer = geometry_.layer;
    layer.in_channels = in_channels;
    layer.out_channels = out_channels_ = out_channels;
    for (size_t axis = 0; axis < 2; ++axis) layer.kernel[axis] = kernel[axis];
  }

  Geometry geometry_;                /* of the layer in the middle */
  std::optional<Weight> weights_[3]; /* by place */
  lissom_f32_chain chain_ = {};
  ThreadCount threads_;
  int64_t in_channels_ = 0;  /* of x */
  int64_t out_channels_ = 0; /* of the last stage that was added */
};

}  // namespace

std::unique_ptr<Kernel> make_chain(const OrtApi* api, const Info& info) { return std::make_unique<Chain>(api, info); }

}  // namespace lissom
