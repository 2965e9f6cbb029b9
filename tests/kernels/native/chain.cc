#include <algorithm>
#include <cstring>
#include <limits>
#include <memory>

#include "../../../runtime/kernels/sparse_chain/sparse_chain.h"
#include "weights.h"

namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr int64_t kScratches = 2; /* as if of two threads */
constexpr double kExact = 1 << 24; /* below, sums of whole numbers are exact in float32 */

/* A sparse layer: 0 block rows where there is none. */
struct Layer {
  int64_t block_rows, block;

  bool there() const { return block_rows > 0; }
  int64_t channels() const { return block_rows * block; }
};

/* A chain, and the shape of its layer in the middle, which is depthwise where `spatial` is not there. */
struct Chain {
  int64_t channels; /* of x */
  Layer expand, spatial, project;
  int64_t density;
  lissom_conv2d shape;
  int64_t threads; /* that a run is cut for */

  int64_t outputs() const { return shape.out[0] * shape.out[1]; }
  int64_t out_channels() const { return project.there() ? project.channels() : shape.out_channels; }

  std::string describe() const {
    const lissom_conv2d& s = shape;
    std::string text = "sparse_chain: " + show("batch", s.batch) + show("channels", channels) +
                       show("density", density) + show("threads", threads);
    for (const Layer& layer : {expand, spatial, project}) {
      text += show("block rows", layer.block_rows) + show("block", layer.block);
    }
    for (const int axis : {0, 1}) {
      text += show("in", s.in[axis]) + show("out", s.out[axis]) + show("kernel", s.kernel[axis]) +
              show("stride", s.stride[axis]) + show("dilation", s.dilation[axis]) + show("pad", s.pad[axis]);
    }
    return text;
  }
};

/* Fills in what follows, given the pads at the bottom and the right. Returns whether there is an output. */
bool complete(Chain& chain, const int64_t (&end_pads)[2]) {
  lissom_conv2d& s = chain.shape;
  s.in_channels = chain.expand.there() ? chain.expand.channels() : chain.channels;
  s.out_channels = chain.spatial.there() ? chain.spatial.channels() : s.in_channels;
  s.groups = chain.spatial.there() ? 1 : s.in_channels;
  bool any = true;
  for (const int axis : {0, 1}) {
    const int64_t room = s.in[axis] + s.pad[axis] + end_pads[axis] - (s.kernel[axis] - 1) * s.dilation[axis] - 1;
    s.out[axis] = room < 0 ? 0 : room / s.stride[axis] + 1;
    any = any && s.out[axis] > 0;
  }
  return any;
}

Layer random_layer(Random& random, int64_t most) {
  const int64_t block = random.one_of<int64_t>({1, 2, 4, 8, 16});
  return {random.between(1, std::max<int64_t>(1, most / block)), block};
}

/* 0: expand, depthwise, project; 1: expand, depthwise; 2: depthwise, project; 3: expand, sparse, project. */
Chain random_chain(Random& random, bool quick) {
  for (;;) {
    Chain chain{};
    const int64_t kind = random.below(4), largest = quick ? 12 : random.one_of<int64_t>({12, 12, 60});
    chain.channels = random.between(1, 40);
    if (kind != 2) chain.expand = random_layer(random, 40);
    if (kind == 3) chain.spatial = random_layer(random, 16);
    if (kind != 1) chain.project = random_layer(random, 40);
    chain.density = random.one_of<int64_t>({0, 10, 50, 100});
    chain.shape.batch = random.between(1, 3);
    chain.threads = random.one_of<int64_t>({1, 2, 4});
    const int64_t square = random.one_of<int64_t>({1, 3, 3, 5});
    int64_t end_pads[2];
    for (const int axis : {0, 1}) {
      chain.shape.in[axis] = random.between(kind == 2 ? 0 : 1, largest); /* nothing is expanded from no pixel */
      chain.shape.kernel[axis] = random.percent(25) ? random.between(1, 5) : square;
      chain.shape.stride[axis] = random.between(1, 4);
      chain.shape.dilation[axis] = random.one_of<int64_t>({1, 1, 2, 3, 5});
      chain.shape.pad[axis] = random.between(0, 4);
      end_pads[axis] = random.between(0, 4);
    }
    if (complete(chain, end_pads)) return chain;
  }
}

/* Enough channels for several bands to an image. */
Chain large_chain(int64_t kind, int64_t stride) {
  Chain chain{};
  chain.channels = kind == 2 ? 400 : 120;
  if (kind != 2) chain.expand = {48, 4};
  if (kind == 3) chain.spatial = {4, 8};
  if (kind != 1) chain.project = {10, 4};
  chain.density = 10;
  chain.shape.batch = 2;
  chain.threads = 4;
  for (const int axis : {0, 1}) {
    chain.shape.in[axis] = 40 + 3 * axis;
    chain.shape.kernel[axis] = 3;
    chain.shape.stride[axis] = stride;
    chain.shape.dilation[axis] = 1;
    chain.shape.pad[axis] = 1;
  }
  complete(chain, {1, 1});
  return chain;
}

/* The weights of a chain. */
struct Layers {
  std::unique_ptr<Weight> expand, spatial, project;
  std::unique_ptr<Guarded<float>> depthwise, depthwise_bias;
  lissom_f32_chain chain;
};

Layers random_layers(Random& random, const Chain& chain, const lissom_epilogue (&after)[3], bool whole, bool front) {
  Layers layers{};
  const auto weight = [&](const Layer& layer, int64_t depth) {
    if (!layer.there()) return std::unique_ptr<Weight>();
    return std::make_unique<Weight>(random_lists(random, layer.block_rows, depth, layer.block, chain.density, whole),
                                    front);
  };
  const auto pointer = [](const std::unique_ptr<Weight>& held) { return held ? &held->sparse : nullptr; };
  const int64_t taps = chain.shape.kernel[0] * chain.shape.kernel[1];
  layers.expand = weight(chain.expand, chain.channels);
  layers.spatial = weight(chain.spatial, chain.shape.in_channels * taps);
  layers.project = weight(chain.project, chain.shape.out_channels);
  layers.chain = {pointer(layers.expand),           pointer(layers.spatial), nullptr, nullptr, pointer(layers.project),
                  {after[0], after[1], after[2]}};
  if (!chain.spatial.there()) {
    const int64_t channels = chain.shape.in_channels;
    layers.depthwise = std::make_unique<Guarded<float>>(random.numbers(channels * taps, whole), front);
    layers.depthwise_bias = std::make_unique<Guarded<float>>(random.numbers(channels, whole), front);
    layers.chain.depthwise = layers.depthwise->begin();
    layers.chain.depthwise_bias = layers.depthwise_bias->begin();
  }
  return layers;
}

/* The layer in the middle, of one image x[in_channels, in[0], in[1]], without its activation. */
std::vector<double> convolve(const Chain& chain, const Layers& layers, const std::vector<double>& x) {
  const lissom_conv2d& s = chain.shape;
  const int64_t taps = s.kernel[0] * s.kernel[1], outputs = chain.outputs();
  std::vector<double> y;
  for (int64_t o = 0; o < s.out_channels; ++o) {
    const bool is_depthwise = !layers.spatial;
    const float bias = is_depthwise ? (*layers.depthwise_bias)[o] : layers.spatial->bias[o];
    std::vector<double> sums(static_cast<std::size_t>(outputs), static_cast<double>(bias));
    for (int64_t k = 0; k < (is_depthwise ? taps : s.in_channels * taps); ++k) {
      const int64_t channel = is_depthwise ? o : k / taps, tap = k % taps;
      const float value = is_depthwise ? (*layers.depthwise)[o * taps + tap]
                                       : layers.spatial->dense[static_cast<std::size_t>(o * s.in_channels * taps + k)];
      if (value == 0.0f) continue;
      for (int64_t f = 0; f < outputs; ++f) {
        const int64_t row = f / s.out[1] * s.stride[0] + tap / s.kernel[1] * s.dilation[0] - s.pad[0];
        const int64_t column = f % s.out[1] * s.stride[1] + tap % s.kernel[1] * s.dilation[1] - s.pad[1];
        if (row < 0 || row >= s.in[0] || column < 0 || column >= s.in[1]) continue;
        const auto place = static_cast<std::size_t>((channel * s.in[0] + row) * s.in[1] + column);
        sums[static_cast<std::size_t>(f)] += static_cast<double>(value) * x[place];
      }
    }
    y.insert(y.end(), sums.begin(), sums.end());
  }
  return y;
}

/* w x + bias for x[depth, n]. */
std::vector<double> multiply(const Weight& weight, const std::vector<double>& x, int64_t n) {
  const lissom_f32_sparse& w = weight.sparse;
  std::vector<double> y;
  for (int64_t r = 0; r < w.rows; ++r) {
    std::vector<double> sums(static_cast<std::size_t>(n), static_cast<double>(w.bias[r]));
    for (int64_t k = 0; k < w.depth; ++k) {
      const double value = static_cast<double>(weight.dense[static_cast<std::size_t>(r * w.depth + k)]);
      if (value == 0.0) continue;
      for (int64_t j = 0; j < n; ++j) sums[static_cast<std::size_t>(j)] += value * x[static_cast<std::size_t>(k * n + j)];
    }
    y.insert(y.end(), sums.begin(), sums.end());
  }
  return y;
}

/* y[batch, out_channels, height, width], layer after layer. */
std::vector<double> expected_of(const Chain& chain, const Layers& layers, const std::vector<float>& x,
                                const std::vector<float>& residual) {
  const int64_t image = chain.channels * chain.shape.in[0] * chain.shape.in[1];
  const auto finish = [](std::vector<double>& v, const lissom_epilogue& after) {
    for (double& element : v) {
      if (!(element < kExact && element > -kExact)) fail("sparse_chain: a sum of the reference is too large");
      element = activate(after, element);
    }
  };
  std::vector<double> all;
  for (int64_t b = 0; b < chain.shape.batch; ++b) {
    std::vector<double> y(x.begin() + b * image, x.begin() + (b + 1) * image);
    if (layers.expand) {
      y = multiply(*layers.expand, y, chain.shape.in[0] * chain.shape.in[1]);
      finish(y, layers.chain.after[0]);
    }
    y = convolve(chain, layers, y);
    finish(y, layers.chain.after[1]);
    if (layers.project) {
      y = multiply(*layers.project, y, chain.outputs());
      for (std::size_t i = 0; i < y.size() && !residual.empty(); ++i) {
        y[i] += static_cast<double>(residual[all.size() + i]);
      }
      finish(y, layers.chain.after[2]);
    }
    all.insert(all.end(), y.begin(), y.end());
  }
  return all;
}

lissom_chain_plan plan_of(const Chain& chain, const Layers& layers) {
  lissom_chain_plan plan{};
  if (lissom_f32_sparse_chain_plan(&chain.shape, &layers.chain, chain.threads, &plan) != 0) fail(chain.describe() + "was refused");
  return plan;
}

/* Runs the tasks in ascending or a random order, each on a scratch drawn at random. */
std::vector<float> run(const Chain& chain, const Layers& layers, const std::vector<float>& x,
                       const std::vector<float>& residual, bool ascending, bool front, Random& random) {
  const lissom_chain_plan plan = plan_of(chain, layers);
  const Guarded<int32_t> offset(plan.offsets, -1, front);
  lissom_f32_sparse_chain_offsets(&plan, &layers.chain, offset.begin());
  const Guarded<float> source(x, front), added(residual, front);
  const Guarded<float> y(chain.shape.batch * chain.out_channels() * chain.outputs(), kNan, front);
  const Guarded<float> scratches[kScratches]{{plan.scratch, kNan, front}, {plan.scratch, kNan, front}};
  int64_t packed[kScratches] = {-1, -1};
  std::vector<int64_t> order = random.permutation(plan.tasks);
  if (ascending) std::sort(order.begin(), order.end());
  for (const int64_t task : order) {
    const int64_t thread = random.below(kScratches);
    lissom_f32_sparse_chain_task(&plan, &layers.chain, offset.begin(), source.begin(),
                                 residual.empty() ? nullptr : added.begin(), y.begin(), task,
                                 scratches[thread].begin(), &packed[thread]);
    if (packed[thread] != task) fail(chain.describe() + "a task does not say that the scratch holds its rows");
  }
  return std::vector<float>(y.begin(), y.end());
}

std::vector<float> random_image(Random& random, const Chain& chain, bool whole) {
  return random.numbers(chain.shape.batch * chain.channels * chain.shape.in[0] * chain.shape.in[1], whole);
}

void test_exact(const Chain& chain, Random& random) {
  const bool front = random.percent(50), ascending = random.percent(50);
  const std::vector<lissom_epilogue> last{{LISSOM_NONE, 0, 0}, {LISSOM_CLIP, -6, 6}, {LISSOM_RELU, 0, 0}};
  const lissom_epilogue after[3] = {random.one_of(last), {LISSOM_CLIP, -5, 7}, random.one_of(last)};
  const Layers layers = random_layers(random, chain, after, true, front);
  const std::vector<float> x = random_image(random, chain, true);
  std::vector<float> residual;
  if (chain.project.there() && random.percent(50)) {
    residual = random.numbers(chain.shape.batch * chain.out_channels() * chain.outputs(), true);
  }
  const std::vector<double> expected = expected_of(chain, layers, x, residual);
  require_equal(run(chain, layers, x, residual, ascending, front, random).data(), expected.data(),
                static_cast<int64_t>(expected.size()), [&] {
                  return chain.describe() + show("residual", !residual.empty()) + show("ascending", ascending) +
                         show("first", after[0].activation) + show("last", after[2].activation);
                });
}

/* Random floats give the same bits in every order of the tasks, and in several bands. */
void test_order(const Chain& chain, Random& random) {
  const lissom_epilogue after[3] = {{LISSOM_SILU, 0, 0}, {LISSOM_HARD_SWISH, 0, 0}, {LISSOM_CLIP, -3, 9}};
  const Layers layers = random_layers(random, chain, after, false, false);
  const std::vector<float> x = random_image(random, chain, false);
  const int64_t bands = plan_of(chain, layers).bands;
  if (bands < 2) fail(chain.describe() + "expected several bands, but got " + std::to_string(bands));
  const std::vector<float> first = run(chain, layers, x, {}, true, false, random);
  for (const bool ascending : {true, false, false}) {
    const std::vector<float> again = run(chain, layers, x, {}, ascending, true, random);
    if (std::memcmp(first.data(), again.data(), first.size() * sizeof(float)) != 0) {
      fail(chain.describe() + "expected equal bits in every order of the tasks");
    }
  }
}

}  // namespace

void test_chain(bool quick) {
  Random random(7);
  const int64_t cases = quick ? 80 : 400;
  for (int64_t i = 0; i < cases; ++i) test_exact(random_chain(random, quick), random);
  int64_t large = 0;
  for (const int64_t kind : {0, 1, 2, 3}) {
    for (const int64_t stride : {1, 2}) {
      if (quick && stride != 1 + kind % 2) continue;
      test_exact(large_chain(kind, stride), random);
      test_order(large_chain(kind, stride), random);
      large += 2;
    }
  }
  report("sparse_chain", cases + large);
}
