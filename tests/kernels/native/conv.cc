#include <cstring>
#include <limits>

#include "../../../runtime/kernels/sparse_conv/sparse_conv.h"
#include "weights.h"

namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr int64_t kScratches = 2; /* as if of two threads */

/* A convolution and its data. Channels and block rows are of one group. */
struct Conv {
  lissom_conv2d shape;
  int64_t channels, block_rows, block, density;

  int64_t outputs() const { return shape.out[0] * shape.out[1]; }
  int64_t pixels() const { return shape.in[0] * shape.in[1]; }

  std::string describe() const {
    const lissom_conv2d& s = shape;
    std::string text = "sparse_conv: " + show("batch", s.batch) + show("groups", s.groups) +
                       show("channels", channels) + show("block rows", block_rows) + show("block", block) +
                       show("density", density);
    for (const int axis : {0, 1}) {
      text += show("in", s.in[axis]) + show("out", s.out[axis]) + show("kernel", s.kernel[axis]) +
              show("stride", s.stride[axis]) + show("dilation", s.dilation[axis]) + show("pad", s.pad[axis]);
    }
    return text;
  }
};

/* Fills in the size of the output, given the pads at the bottom and the right. Returns whether there is an output. */
bool complete(Conv& conv, const int64_t (&end_pads)[2]) {
  lissom_conv2d& s = conv.shape;
  s.in_channels = s.groups * conv.channels;
  s.out_channels = s.groups * conv.block_rows * conv.block;
  bool any = true;
  for (const int axis : {0, 1}) {
    const int64_t room = s.in[axis] + s.pad[axis] + end_pads[axis] - (s.kernel[axis] - 1) * s.dilation[axis] - 1;
    s.out[axis] = room < 0 ? 0 : room / s.stride[axis] + 1;
    any = any && s.out[axis] > 0;
  }
  return any;
}

Conv random_conv(Random& random) {
  for (;;) {
    Conv conv{};
    conv.channels = random.between(1, 6);
    conv.block_rows = random.between(1, 3);
    conv.block = random.one_of<int64_t>({1, 2, 4, 8, 16});
    conv.density = random.one_of<int64_t>({0, 10, 50, 100});
    conv.shape.batch = random.between(1, 2);
    conv.shape.groups = random.between(1, 3);
    int64_t end_pads[2];
    for (const int axis : {0, 1}) {
      conv.shape.in[axis] = random.between(0, 20);
      conv.shape.kernel[axis] = random.between(1, 5);
      conv.shape.stride[axis] = random.between(1, 3);
      conv.shape.dilation[axis] = random.between(1, 3);
      conv.shape.pad[axis] = random.between(0, 4);
      end_pads[axis] = random.between(0, 4);
    }
    if (complete(conv, end_pads)) return conv;
  }
}

/* Enough channels and outputs for several panels and several tasks to each. */
Conv large_conv(int64_t kernel, int64_t stride, int64_t dilation) {
  Conv conv{};
  conv.channels = 40;
  conv.block_rows = 8;
  conv.block = 4;
  conv.density = 50;
  conv.shape.batch = conv.shape.groups = 1;
  const int64_t pad = (kernel - 1) * dilation / 2, end_pads[2] = {pad, pad};
  for (const int axis : {0, 1}) {
    conv.shape.in[axis] = 41 + 2 * axis;
    conv.shape.kernel[axis] = kernel;
    conv.shape.stride[axis] = stride;
    conv.shape.dilation[axis] = dilation;
    conv.shape.pad[axis] = pad;
  }
  complete(conv, end_pads);
  return conv;
}

/* y[batch, out_channels, height, width] by the definition. */
std::vector<double> convolve(const Conv& conv, const Weight& weight, const std::vector<float>& x) {
  const lissom_conv2d& s = conv.shape;
  std::vector<double> y;
  for (int64_t plane = 0; plane < s.batch * s.out_channels; ++plane) {
    const int64_t o = plane % s.out_channels, group = o / (conv.block_rows * conv.block);
    const float* image = x.data() + (plane / s.out_channels * s.groups + group) * conv.channels * conv.pixels();
    std::vector<double> sums(static_cast<std::size_t>(conv.outputs()), static_cast<double>(weight.bias[o]));
    for (int64_t k = 0; k < weight.sparse.depth; ++k) {
      const double value = static_cast<double>(weight.dense[static_cast<std::size_t>(o * weight.sparse.depth + k)]);
      if (value == 0.0) continue;
      const int64_t kw = k % s.kernel[1], kh = k / s.kernel[1] % s.kernel[0], c = k / s.kernel[1] / s.kernel[0];
      for (int64_t f = 0; f < conv.outputs(); ++f) {
        const int64_t row = f / s.out[1] * s.stride[0] + kh * s.dilation[0] - s.pad[0];
        const int64_t column = f % s.out[1] * s.stride[1] + kw * s.dilation[1] - s.pad[1];
        if (row < 0 || row >= s.in[0] || column < 0 || column >= s.in[1]) continue;
        sums[static_cast<std::size_t>(f)] += value * static_cast<double>(image[(c * s.in[0] + row) * s.in[1] + column]);
      }
    }
    y.insert(y.end(), sums.begin(), sums.end());
  }
  return y;
}

/* Runs the tasks in a random order, each on a scratch drawn at random. */
std::vector<float> run(const Conv& conv, const Weight& weight, const std::vector<float>& x,
                       const std::vector<float>& residual, const lissom_epilogue& epilogue, bool front,
                       Random& random) {
  lissom_conv_plan plan{};
  if (lissom_f32_sparse_conv_plan(&conv.shape, &weight.sparse, &plan) != 0) fail(conv.describe() + "was refused");
  const Guarded<int32_t> offset(plan.offsets, -1);
  lissom_f32_sparse_conv_offsets(&plan, offset.begin());
  const Guarded<float> source(x, front), added(residual, front);
  const Guarded<float> y(conv.shape.batch * conv.shape.out_channels * conv.outputs(), kNan, front);
  const Guarded<float> scratches[kScratches]{{plan.scratch, kNan, front}, {plan.scratch, kNan, front}};
  int64_t packed[kScratches] = {-1, -1};
  for (const int64_t task : random.permutation(plan.tasks)) {
    const int64_t thread = random.below(kScratches);
    lissom_f32_sparse_conv_task(&plan, &weight.sparse, offset.begin(), source.begin(),
                                residual.empty() ? nullptr : added.begin(), y.begin(), &epilogue, task,
                                scratches[thread].begin(), &packed[thread]);
  }
  return std::vector<float>(y.begin(), y.end());
}

void test_exact(const Conv& conv, Random& random) {
  const lissom_conv2d& s = conv.shape;
  const bool front = random.percent(50);
  const int64_t depth = conv.channels * s.kernel[0] * s.kernel[1];
  const Weight weight(random_lists(random, s.groups * conv.block_rows, depth, conv.block, conv.density, true), front);
  const std::vector<float> x = random.numbers(s.batch * s.in_channels * conv.pixels(), true);
  std::vector<double> expected = convolve(conv, weight, x);
  const auto count = static_cast<int64_t>(expected.size());
  std::vector<float> residual;
  lissom_epilogue epilogue{LISSOM_NONE, 0, 0};
  if (random.percent(50)) {
    residual = random.numbers(count, true);
    epilogue = {LISSOM_CLIP, 0, 6};
    for (std::size_t i = 0; i < residual.size(); ++i) {
      expected[i] = activate(epilogue, expected[i] + static_cast<double>(residual[i]));
    }
  }
  require_equal(run(conv, weight, x, residual, epilogue, front, random).data(), expected.data(), count,
                [&] { return conv.describe() + (residual.empty() ? "" : "residual, clip, "); });
}

/* Random floats give the same bits in every order of the tasks. */
void test_order(const Conv& conv, Random& random) {
  const lissom_conv2d& s = conv.shape;
  const int64_t depth = conv.channels * s.kernel[0] * s.kernel[1];
  const Weight weight(random_lists(random, s.groups * conv.block_rows, depth, conv.block, conv.density, false));
  const std::vector<float> x = random.numbers(s.batch * s.in_channels * conv.pixels(), false);
  const lissom_epilogue silu{LISSOM_SILU, 0, 0};
  const std::vector<float> first = run(conv, weight, x, {}, silu, false, random);
  const std::vector<float> second = run(conv, weight, x, {}, silu, false, random);
  if (std::memcmp(first.data(), second.data(), first.size() * sizeof(float)) != 0) {
    fail(conv.describe() + "expected equal bits in every order of the tasks");
  }
}

}  // namespace

void test_conv(bool quick) {
  Random random(3);
  const int64_t cases = quick ? 150 : 600;
  for (int64_t i = 0; i < cases; ++i) test_exact(random_conv(random), random);
  const std::vector<Conv> large{large_conv(1, 1, 1), large_conv(3, 1, 1), large_conv(3, 2, 1), large_conv(3, 1, 2),
                                large_conv(5, 3, 1)};
  for (const Conv& conv : large) {
    test_exact(conv, random);
    test_order(conv, random);
  }
  report("sparse_conv", cases + 2 * static_cast<int64_t>(large.size()));
}
