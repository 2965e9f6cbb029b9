#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "../../../runtime/kernels/sparse_vector/sparse_vector.h"
#include "variants.h"
#include "weights.h"

namespace {

using Vector = Variant<lissom_f32_sparse_vector_fn>;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kTiny = std::numeric_limits<float>::denorm_min();
constexpr float kUntouched = 77.0f;
constexpr int64_t kBlocks[] = {1, 2, 4, 8, 16};
constexpr lissom_epilogue kNone{LISSOM_NONE, 0, 0};

/* y[rows]; residual[rows] or empty, which y itself holds if `over_itself`. */
std::vector<float> run(const Vector& variant, const Weight& weight, const std::vector<float>& x,
                       const std::vector<float>& residual, const lissom_epilogue& epilogue, bool front = false,
                       bool over_itself = false) {
  const lissom_f32_sparse& w = weight.sparse;
  const Guarded<float> source(x, front), added(residual, front), y(w.rows, kUntouched, front);
  if (over_itself) std::copy(residual.begin(), residual.end(), y.begin());
  const float* term = residual.empty() ? nullptr : over_itself ? y.begin() : added.begin();
  variant.kernel(&w, 0, w.rows / w.block, source.begin(), term, y.begin(), &epilogue);
  return std::vector<float>(y.begin(), y.end());
}

int64_t test_sizes(const Vector& variant) {
  int64_t cases = 0;
  for (const int64_t block : kBlocks) {
    for (const int64_t block_rows : {1, 2, 3, 5, 16, 17, 33, 300}) {
      Random random(static_cast<uint32_t>(block_rows * 100 + block));
      const bool front = block_rows % 2 == 0;
      const Weight weight(random_lists(random, block_rows, 31, block, 30, true), front);
      const std::vector<float> x = random.numbers(31, true), residual = random.numbers(weight.sparse.rows, true);
      const auto describe = [&] { return variant.name + ": " + show("block", block) + show("block rows", block_rows); };
      std::vector<double> expected = multiply(weight, x.data(), 1, 1, 1).sum;
      const auto count = static_cast<int64_t>(expected.size());
      require_equal(run(variant, weight, x, {}, kNone, front).data(), expected.data(), count, describe);
      for (std::size_t i = 0; i < residual.size(); ++i) {
        expected[i] = std::max(expected[i] + static_cast<double>(residual[i]), 0.0);
      }
      for (const bool over_itself : {false, true}) {
        const lissom_epilogue relu{LISSOM_RELU, 0, 0};
        require_equal(run(variant, weight, x, residual, relu, front, over_itself).data(), expected.data(), count,
                      [&] { return describe() + "residual, " + show("in place", over_itself); });
      }
      cases += 3;
    }
  }
  return cases;
}

int64_t test_activations(const Vector& variant) {
  int64_t cases = 0;
  for (const int64_t block : kBlocks) {
    for (const lissom_epilogue& epilogue : epilogues()) {
      Random random(static_cast<uint32_t>(block + epilogue.activation));
      const Weight weight(random_lists(random, 21, 60, block, 50, false));
      const std::vector<float> x = random.numbers(60, false);
      require_near(run(variant, weight, x, {}, epilogue).data(), multiply(weight, x.data(), 1, 1, 1), epilogue, 61,
                   [&] { return variant.name + ": " + show("block", block); });
      ++cases;
    }
  }
  return cases;
}

/* The weight is the unit matrix. */
int64_t test_single_terms(const Vector& variant) {
  const std::vector<float> x = arguments();
  const auto size = static_cast<int64_t>(x.size());
  Lists unit{size, size, 1, {0}, {}, std::vector<float>(x.size(), 1.0f), std::vector<float>(x.size(), 0.0f), {}};
  for (int32_t r = 0; r < size; ++r) {
    unit.columns.push_back(r);
    unit.row_ptr.push_back(r + 1);
  }
  const Weight weight(unit);
  for (const lissom_epilogue& epilogue : epilogues()) {
    require_activated(run(variant, weight, x, {}, epilogue).data(), epilogue, variant.name + ": ");
  }
  return static_cast<int64_t>(epilogues().size());
}

/* A stored weight of 1 in row 0 passes NaN and denormals on; row 1, without any, gives its bias. */
int64_t test_special_numbers(const Vector& variant) {
  const Weight weight(Lists{2, 2, 1, {0, 1, 1}, {1}, {1.0f}, {0.0f, 3.0f}, {0, 1, 0, 0}});
  const std::vector<float> y = run(variant, weight, {kNan, kNan}, {}, kNone);
  if (!std::isnan(y[0]) || y[1] != 3.0f) {
    fail(variant.name + ": expected NaN, 3, but got " + std::to_string(y[0]) + ", " + std::to_string(y[1]));
  }
  const float tiny = run(variant, weight, {kNan, kTiny}, {}, kNone)[0];
  if (!(tiny == kTiny)) fail(variant.name + ": expected the least denormal, but got " + std::to_string(tiny));
  return 2;
}

/* Bit for bit, and nothing else is written. */
int64_t test_cuts(const Vector& variant) {
  int64_t cases = 0;
  for (const int64_t block : kBlocks) {
    Random random(static_cast<uint32_t>(block));
    const Weight weight(random_lists(random, 9, 50, block, 50, false));
    const std::vector<float> x = random.numbers(50, false);
    std::vector<float> expected = run(variant, weight, x, {}, kNone);
    std::fill(expected.begin(), expected.begin() + 2 * block, kUntouched);
    std::fill(expected.begin() + 5 * block, expected.end(), kUntouched);
    const Guarded<float> source(x), y(9 * block, kUntouched);
    variant.kernel(&weight.sparse, 2, 5, source.begin(), nullptr, y.begin(), &kNone);
    if (std::memcmp(y.begin(), expected.data(), expected.size() * sizeof(float)) != 0) {
      fail(variant.name + ": " + show("block", block) + "a sum depends on which rows are asked for");
    }
    ++cases;
  }
  return cases;
}

int64_t test(const Vector& variant) {
  return test_sizes(variant) + test_activations(variant) + test_single_terms(variant) + test_special_numbers(variant) +
         test_cuts(variant);
}

}  // namespace

void test_vector() {
  each_variant(lissom_f32_sparse_vector_variants, lissom_f32_sparse_vector, "f32_sparse_vector", test);
}
