#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>

#include "../../../runtime/kernels/winner_mask/winner_mask.h"
#include "guarded.h"
#include "variants.h"

namespace {

using Mask = Variant<lissom_f32_winner_mask_fn>;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

/* Numbers of both signs with ties, and among them what has no usual order. */
std::vector<float> numbers(Random& random, int64_t n, bool is_whole) {
  std::vector<float> drawn = random.numbers(n, is_whole);
  const std::vector<float> special = {kNan, kInfinity, -kInfinity, 0.0f, -0.0f, std::numeric_limits<float>::denorm_min()};
  for (float& v : drawn) {
    if (random.percent(10)) v = random.one_of(special);
  }
  return drawn;
}

float magnitude(float v) { return std::isnan(v) ? kInfinity : std::fabs(v); }

/* Bit for bit. */
void require_masked(const std::vector<float>& x, float theta, const float* y, const std::string& which) {
  for (std::size_t j = 0; j < x.size(); ++j) {
    const float expected = magnitude(x[j]) < theta ? 0.0f : x[j];
    if (std::memcmp(&expected, &y[j], sizeof expected) != 0) {
      fail(which + show("n", static_cast<int64_t>(x.size())) + "element " + std::to_string(j) + ": expected " +
           std::to_string(expected) + ", but got " + std::to_string(y[j]));
    }
  }
}

int64_t test_variant(const Mask& variant) {
  int64_t cases = 0;
  for (int64_t n = 0; n < 70; ++n) {
    for (const float theta : {0.0f, 1.0f, 2.0f, kInfinity}) {
      Random random(static_cast<uint32_t>(n));
      const std::vector<float> x = numbers(random, n, n % 2 == 0);
      const bool front = n % 3 == 0;
      const Guarded<float> source(x, front), y(n, 77.0f, front), over(n, 0.0f, front);
      variant.kernel(source.begin(), n, theta, y.begin());
      require_masked(x, theta, y.begin(), variant.name + ": ");
      std::copy(x.begin(), x.end(), over.begin());
      variant.kernel(over.begin(), n, theta, over.begin());
      require_masked(x, theta, over.begin(), variant.name + " in place: ");
      cases += 2;
    }
  }
  return cases;
}

int64_t test_threshold() {
  int64_t cases = 0;
  for (const int64_t n : {1, 2, 3, 10, 31, 200}) {
    for (const int64_t stride : {int64_t{1}, int64_t{3}, int64_t{10}, int64_t{1} << 31}) {
      Random random(static_cast<uint32_t>(n));
      const std::vector<float> x = numbers(random, n, n % 2 == 0);
      std::vector<float> sorted;
      for (int64_t j = 0; j < n; j += stride) sorted.push_back(magnitude(x[static_cast<std::size_t>(j)]));
      std::sort(sorted.begin(), sorted.end(), std::greater<float>());
      const auto sampled = static_cast<int64_t>(sorted.size());
      const Guarded<float> source(x);
      const Guarded<int32_t> scratch(sampled, 0);
      for (int64_t winners = 1; winners <= sampled; ++winners, ++cases) {
        const float theta = lissom_f32_winner_threshold(source.begin(), n, stride, winners, scratch.begin());
        const float expected = sorted[static_cast<std::size_t>(winners - 1)];
        if (!(theta == expected)) {
          fail("f32_winner_threshold: " + show("n", n) + show("stride", stride) + show("winners", winners) +
               "expected " + std::to_string(expected) + ", but got " + std::to_string(theta));
        }
      }
    }
  }
  return cases;
}

}  // namespace

void test_mask() {
  each_variant(lissom_f32_winner_mask_variants, lissom_f32_winner_mask, "f32_winner_mask", test_variant);
  report("f32_winner_threshold", test_threshold());
}
