#include "../../../runtime/kernels/threshold/threshold.h"

#include <cmath>
#include <limits>

#include "guarded.h"
#include "variants.h"

namespace {

int64_t test(const Variant<lissom_f32_threshold_fn>& variant) {
  Random random(1);
  int64_t cases = 0;
  for (int64_t n = 0; n < 70; ++n, ++cases) {
    std::vector<float> x = random.numbers(n, true);
    if (n > 2) x[1] = std::numeric_limits<float>::quiet_NaN(), x[2] = -std::numeric_limits<float>::infinity();
    std::vector<double> expected;
    for (const float v : x) expected.push_back(std::fabs(v) > 2.0f ? static_cast<double>(v) : 0.0);
    const Guarded<float> source(x, n % 2 != 0), y(n, 7.0f, n % 2 != 0);
    variant.kernel(n, source.begin(), y.begin(), 2.0f);
    require_equal(y.begin(), expected.data(), n, [&] { return variant.name + ": " + show("n", n); });
  }
  return cases;
}

}  // namespace

void test_threshold() { each_variant(lissom_f32_threshold_variants, lissom_f32_threshold, "f32_threshold", test); }
