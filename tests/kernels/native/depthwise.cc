#include "../../../runtime/kernels/depthwise/depthwise.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "../../../runtime/kernels/sparse_product/sparse_product.h"
#include "variants.h"
#include "weights.h"

namespace {

using Depthwise = Variant<lissom_f32_depthwise_fn>;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kTiny = std::numeric_limits<float>::denorm_min();
constexpr float kUntouched = 77.0f;
constexpr lissom_epilogue kNone{LISSOM_NONE, 0, 0};

/* Where the taps of a kernel lie in an image: its rows are cut into `stride` parts, each of the columns that are a
 * stride apart, and rows of outputs are as many rows of the image apart. */
struct Taps {
  int64_t height, width, dilation, stride;

  int64_t part(int64_t n) const { return n + (width - 1) * dilation / stride; }
  int64_t step(int64_t n) const { return stride * stride * part(n); }

  std::vector<int32_t> offsets(int64_t n) const {
    std::vector<int32_t> all;
    for (int64_t kh = 0; kh < height; ++kh) {
      for (int64_t kw = 0; kw < width; ++kw) {
        const int64_t column = kw * dilation, start = kh * dilation * stride * part(n);
        all.push_back(static_cast<int32_t>(start + column % stride * part(n) + column / stride));
      }
    }
    return all;
  }
};

constexpr Taps kTaps[] = {{1, 1, 1, 1}, {3, 3, 1, 1}, {5, 5, 1, 1}, {3, 3, 3, 1},
                          {3, 3, 1, 2}, {5, 5, 2, 3}, {3, 1, 1, 1}};

int64_t rounded(int64_t n) { return (n + LISSOM_PANEL_MULTIPLE - 1) / LISSOM_PANEL_MULTIPLE * LISSOM_PANEL_MULTIPLE; }

/* One channel and its data. */
struct Channel {
  std::vector<float> w;
  std::vector<int32_t> offset;
  float bias;
  int64_t step;
  std::vector<float> x;

  /* Elements that outputs of so many rows depend on, less what is only read. */
  int64_t length(int64_t rows, int64_t n) const {
    return (rows - 1) * step + *std::max_element(offset.begin(), offset.end()) + n;
  }
};

/* Behind what rows and n depend on, x goes on with NaN as far as it has to. */
Channel random_channel(Random& random, const Taps& taps, int64_t step, int64_t rows, int64_t n, bool whole) {
  Channel channel{{}, taps.offsets(n), random.number(whole), step, {}};
  channel.w = random.numbers(static_cast<int64_t>(channel.offset.size()), whole);
  channel.x = random.numbers(channel.length(rows, n), whole);
  channel.x.insert(channel.x.end(), static_cast<std::size_t>(rounded(n) - n), kNan);
  return channel;
}

Reference sums(const Channel& channel, int64_t rows, int64_t n) {
  Reference reference;
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t j = 0; j < n; ++j) {
      double sum = static_cast<double>(channel.bias), magnitude = std::fabs(sum);
      for (std::size_t t = 0; t < channel.w.size(); ++t) {
        const auto place = static_cast<std::size_t>(r * channel.step + channel.offset[t] + j);
        const double term = static_cast<double>(channel.w[t]) * static_cast<double>(channel.x[place]);
        sum += term;
        magnitude += std::fabs(term);
      }
      reference.sum.push_back(sum);
      reference.magnitude.push_back(magnitude);
    }
  }
  return reference;
}

/* y[rows, n], whose rows are `gap` elements apart. */
std::vector<float> run(const Depthwise& variant, const Channel& channel, int64_t rows, int64_t n,
                       const lissom_epilogue& epilogue, int64_t gap = 0, bool front = false) {
  const int64_t ldy = n + gap;
  const Guarded<float> w(channel.w, front), x(channel.x, front), y((rows - 1) * ldy + n, kUntouched, front);
  const Guarded<int32_t> offset(channel.offset, front);
  variant.kernel(w.begin(), offset.begin(), static_cast<int64_t>(channel.w.size()), channel.bias, x.begin(),
                 channel.step, rows, n, y.begin(), ldy, &epilogue);
  std::vector<float> gathered;
  for (int64_t r = 0; r < rows; ++r) {
    gathered.insert(gathered.end(), y.begin() + r * ldy, y.begin() + r * ldy + n);
    for (int64_t j = n; r + 1 < rows && j < ldy; ++j) {
      if (y[r * ldy + j] != kUntouched) fail(variant.name + ": " + show("n", n) + "wrote between the rows of y");
    }
  }
  return gathered;
}

int64_t test_sizes(const Depthwise& variant, bool quick) {
  std::vector<int64_t> sizes{112, 127, 128, 129, 200};
  for (int64_t n = 1; n <= 70; ++n) sizes.push_back(n);
  int64_t cases = 0;
  for (int64_t rows = 1; rows <= 17; ++rows) {
    for (const int64_t n : sizes) {
      if (quick && (rows + n) % 3 != 0) continue;
      Random random(static_cast<uint32_t>(rows * 1000 + n));
      const Taps& taps = kTaps[random.below(7)];
      /* Rows that overlap, follow each other, or lie apart. */
      const int64_t step = random.one_of<int64_t>({0, 1, n, n + 1, taps.step(n), taps.step(n)});
      const Channel channel = random_channel(random, taps, step, rows, n, true);
      const int64_t gap = random.below(3);
      require_equal(run(variant, channel, rows, n, kNone, gap, random.percent(50)).data(),
                    sums(channel, rows, n).sum.data(), rows * n, [&] {
                      return variant.name + ": " + show("rows", rows) + show("n", n) + show("step", step) +
                             show("gap", gap) + show("kernel", taps.height) + show("by", taps.width);
                    });
      ++cases;
    }
  }
  return cases;
}

int64_t test_activations(const Depthwise& variant) {
  int64_t cases = 0;
  for (const lissom_epilogue& epilogue : epilogues()) {
    for (const Taps& taps : kTaps) {
      for (const int64_t n : {5, 50, 150}) {
        Random random(static_cast<uint32_t>(n + epilogue.activation));
        const Channel channel = random_channel(random, taps, taps.step(n), 11, n, false);
        const auto terms = static_cast<int64_t>(channel.w.size()) + 1;
        require_near(run(variant, channel, 11, n, epilogue, n % 3).data(), sums(channel, 11, n), epilogue, terms,
                     [&] { return variant.name + ": " + show("taps", terms - 1) + show("n", n); });
        ++cases;
      }
    }
  }
  return cases;
}

int64_t test_single_terms(const Depthwise& variant) {
  Channel channel{{1.0f}, {0}, 0.0f, 0, arguments()};
  const auto n = static_cast<int64_t>(channel.x.size());
  channel.x.resize(static_cast<std::size_t>(rounded(n)), kNan);
  for (const lissom_epilogue& epilogue : epilogues()) {
    require_activated(run(variant, channel, 1, n, epilogue).data(), epilogue, variant.name + ": ");
  }
  return static_cast<int64_t>(epilogues().size());
}

/* A NaN reaches the outputs that read it and no others; denormals are kept. */
int64_t test_special_numbers(const Depthwise& variant) {
  constexpr int64_t rows = 9, n = 21;
  int64_t cases = 0;
  for (const Taps& taps : kTaps) {
    Random random(2);
    Channel channel = random_channel(random, taps, taps.step(n), rows, n, false);
    const std::vector<float> clean = run(variant, channel, rows, n, kNone), x = channel.x;
    for (int64_t i = 0; i < 10; ++i, ++cases) {
      const int64_t place = random.below(static_cast<int64_t>(x.size()));
      channel.x = x;
      channel.x[static_cast<std::size_t>(place)] = kNan;
      const std::vector<float> y = run(variant, channel, rows, n, kNone);
      for (int64_t f = 0; f < rows * n; ++f) {
        bool reads = false;
        for (const int64_t start : channel.offset) reads = reads || f / n * channel.step + start + f % n == place;
        const float actual = y[static_cast<std::size_t>(f)], without = clean[static_cast<std::size_t>(f)];
        if (reads ? !std::isnan(actual) : actual != without) {
          fail(variant.name + ": " + show("NaN at", place) + show("element", f) + "expected " +
               (reads ? "NaN" : std::to_string(without)) + ", but got " + std::to_string(actual));
        }
      }
    }
  }
  const Channel tiny{{1.0f}, {0}, 0.0f, 32, std::vector<float>(32 * rows, kTiny)};
  for (const float y : run(variant, tiny, rows, n, kNone)) {
    if (!(y == kTiny)) fail(variant.name + ": expected the least denormal, but got " + std::to_string(y));
  }
  return cases + 1;
}

/* Bit for bit, whatever part of the rows and of the outputs is asked for. */
int64_t test_cuts(const Depthwise& variant) {
  constexpr int64_t rows = 17, n = 150;
  const lissom_epilogue silu{LISSOM_SILU, 0, 0};
  int64_t cases = 0;
  for (const Taps& taps : kTaps) {
    Random random(5);
    const Channel channel = random_channel(random, taps, taps.step(n), rows, n, false);
    const std::vector<float> whole = run(variant, channel, rows, n, silu);
    for (int64_t i = 0; i < 40; ++i, ++cases) {
      const int64_t top = random.below(rows), left = random.below(n);
      const int64_t down = random.between(1, rows - top), across = random.between(1, n - left);
      Channel part = channel;
      const auto first = channel.x.begin() + top * channel.step + left;
      part.x.assign(first, first + channel.length(down, across));
      part.x.insert(part.x.end(), static_cast<std::size_t>(rounded(across) - across), kNan);
      const std::vector<float> y = run(variant, part, down, across, silu, i % 2);
      for (int64_t r = 0; r < down; ++r) {
        if (std::memcmp(&y[static_cast<std::size_t>(r * across)],
                        &whole[static_cast<std::size_t>((top + r) * n + left)],
                        static_cast<std::size_t>(across) * sizeof(float)) != 0) {
          fail(variant.name + ": " + show("row", top + r) + show("from", left) + show("rows", down) +
               show("n", across) + "a sum depends on how the work is cut");
        }
      }
    }
  }
  return cases;
}

}  // namespace

void test_depthwise(bool quick) {
  each_variant(lissom_f32_depthwise_variants, lissom_f32_depthwise, "f32_depthwise", [&](const Depthwise& variant) {
    return test_sizes(variant, quick) + test_activations(variant) + test_single_terms(variant) +
           test_special_numbers(variant) + test_cuts(variant);
  });
}
