#include "../../../runtime/kernels/sparse_product/sparse_product.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "variants.h"
#include "weights.h"

namespace {

using Product = Variant<lissom_f32_sparse_product_fn>;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kTiny = std::numeric_limits<float>::denorm_min();
constexpr float kUntouched = 77.0f;
constexpr int64_t kBlocks[] = {1, 2, 4, 8, 16};

/* Sizes around the edges of every variant's tiles. */
std::vector<int64_t> sizes() {
  std::vector<int64_t> all;
  for (int64_t n = 1; n <= 17; ++n) all.push_back(n);
  all.insert(all.end(), {19, 20, 21, 23, 24, 25, 47, 48, 49, 95, 96, 97, 111, 112, 113, 200});
  return all;
}

/* How one product is called. */
struct Call {
  int64_t n;
  lissom_epilogue epilogue{LISSOM_NONE, 0, 0};
  int64_t gap = 0;          /* elements between rows of y */
  bool front = false;       /* arrays begin at a guard page */
  bool over_itself = false; /* y holds the residual */
};

/* y[rows, n]. x[depth, n]; residual[rows, n] or empty. Rows of the panel lie in a random order, filled up with NaN. */
std::vector<float> run(const Product& variant, const Weight& weight, const std::vector<float>& x,
                       const std::vector<float>& residual, const Call& call, Random& random) {
  const lissom_f32_sparse& w = weight.sparse;
  const int64_t n = call.n, ldy = n + call.gap;
  const int64_t pitch = (n + LISSOM_PANEL_MULTIPLE - 1) / LISSOM_PANEL_MULTIPLE * LISSOM_PANEL_MULTIPLE;
  std::vector<float> filled(static_cast<std::size_t>(w.depth * pitch), kNan);
  std::vector<int32_t> offsets;
  for (const int64_t place : random.permutation(w.depth)) {
    std::copy_n(x.begin() + static_cast<int64_t>(offsets.size()) * n, n, filled.begin() + place * pitch);
    offsets.push_back(static_cast<int32_t>(place * pitch));
  }
  const auto spread = [&](const std::vector<float>& rows) {
    std::vector<float> apart(static_cast<std::size_t>((w.rows - 1) * ldy + n), kUntouched);
    for (int64_t r = 0; !rows.empty() && r < w.rows; ++r) std::copy_n(rows.begin() + r * n, n, apart.begin() + r * ldy);
    return apart;
  };
  const Guarded<float> panel(filled, call.front);
  const Guarded<int32_t> offset(offsets, call.front);
  const Guarded<float> added(spread(residual), call.front);
  const Guarded<float> y((w.rows - 1) * ldy + n, kUntouched, call.front);
  if (call.over_itself) std::copy(added.begin(), added.end(), y.begin());
  const float* source = residual.empty() ? nullptr : call.over_itself ? y.begin() : added.begin();
  variant.kernel(&w, 0, w.rows / w.block, offset.begin(), panel.begin(), n, source, y.begin(), ldy, &call.epilogue);
  std::vector<float> gathered;
  for (int64_t r = 0; r < w.rows; ++r) {
    gathered.insert(gathered.end(), y.begin() + r * ldy, y.begin() + r * ldy + n);
    for (int64_t j = n; r + 1 < w.rows && j < ldy; ++j) {
      if (y[r * ldy + j] != kUntouched) fail(variant.name + ": " + show("n", n) + "wrote between the rows of y");
    }
  }
  return gathered;
}

int64_t test_sizes(const Product& variant) {
  int64_t cases = 0;
  for (const int64_t block : kBlocks) {
    for (const int64_t n : sizes()) {
      Random random(static_cast<uint32_t>(n * 100 + block));
      const bool front = (n + block) % 2 != 0;
      const Weight weight(random_lists(random, 3, 21, block, 40, true), front);
      const std::vector<float> x = random.numbers(21 * n, true), residual = random.numbers(3 * block * n, true);
      const auto describe = [&] { return variant.name + ": " + show("block", block) + show("n", n); };
      Reference expected = multiply(weight, x.data(), n, 1, n);
      const auto count = static_cast<int64_t>(expected.sum.size());
      Call call{n, {LISSOM_NONE, 0, 0}, n % 3, front};
      require_equal(run(variant, weight, x, {}, call, random).data(), expected.sum.data(), count, describe);
      call.epilogue.activation = LISSOM_RELU;
      for (std::size_t i = 0; i < residual.size(); ++i) {
        expected.sum[i] = std::max(expected.sum[i] + static_cast<double>(residual[i]), 0.0);
      }
      for (const bool over_itself : {false, true}) {
        call.over_itself = over_itself;
        require_equal(run(variant, weight, x, residual, call, random).data(), expected.sum.data(), count,
                      [&] { return describe() + "residual, " + show("in place", over_itself); });
      }
      cases += 3;
    }
  }
  return cases;
}

int64_t test_activations(const Product& variant) {
  int64_t cases = 0;
  for (const int64_t block : kBlocks) {
    for (const lissom_epilogue& epilogue : epilogues()) {
      for (const int64_t n : {5, 50}) {
        Random random(static_cast<uint32_t>(n + epilogue.activation));
        const Weight weight(random_lists(random, 3, 40, block, 60, false));
        const std::vector<float> x = random.numbers(40 * n, false);
        const std::vector<float> y = run(variant, weight, x, {}, Call{n, epilogue}, random);
        require_near(y.data(), multiply(weight, x.data(), n, 1, n), epilogue, 41,
                     [&] { return variant.name + ": " + show("block", block) + show("n", n); });
        ++cases;
      }
    }
  }
  return cases;
}

int64_t test_single_terms(const Product& variant) {
  const Weight weight(Lists{1, 1, 1, {0, 1}, {0}, {1.0f}, {0.0f}, {1.0f}});
  const std::vector<float> x = arguments();
  Random random(6);
  for (const lissom_epilogue& epilogue : epilogues()) {
    const Call call{static_cast<int64_t>(x.size()), epilogue};
    require_activated(run(variant, weight, x, {}, call, random).data(), epilogue, variant.name + ": ");
  }
  return static_cast<int64_t>(epilogues().size());
}

/* One stored weight of 1 in row 0, none in row 1, no bias: row 0 is the activated input, row 1 the activated 0. */
int64_t test_special_numbers(const Product& variant) {
  const Weight weight(Lists{2, 2, 1, {0, 1, 1}, {1}, {1.0f}, {0.0f, 0.0f}, {0, 1, 0, 0}});
  Random random(2);
  int64_t cases = 0;
  for (const lissom_epilogue& epilogue : epilogues()) {
    for (const int64_t n : {3, 40}) {
      std::vector<float> x(static_cast<std::size_t>(2 * n), kNan); /* nothing may come from column 0 */
      const std::vector<float> y = run(variant, weight, x, {}, Call{n, epilogue}, random);
      const bool to_zero = epilogue.activation == LISSOM_THRESHOLDED_RELU || epilogue.activation == LISSOM_SHRINK;
      for (int64_t j = 0; j < 2 * n; ++j) {
        const float v = y[static_cast<std::size_t>(j)];
        if (j < n && !to_zero ? !std::isnan(v) : v != 0.0f) {
          fail(variant.name + ": " + show("activation", epilogue.activation) + show("n", n) + "element " +
               std::to_string(j) + ": expected " + (to_zero || j >= n ? "0" : "NaN") + ", but got " +
               std::to_string(v));
        }
      }
      ++cases;
    }
  }
  for (const int64_t n : {3, 40}) {
    const std::vector<float> x(static_cast<std::size_t>(2 * n), kTiny);
    const float y = run(variant, weight, x, {}, Call{n}, random).front();
    if (!(y == kTiny)) fail(variant.name + ": expected the least denormal, but got " + std::to_string(y));
    ++cases;
  }
  return cases;
}

/* Bit for bit, whatever part of the rows and of the outputs is asked for. */
int64_t test_cuts(const Product& variant) {
  int64_t cases = 0;
  constexpr int64_t n = 130, step = 37, depth = 40;
  const lissom_epilogue silu{LISSOM_SILU, 0, 0};
  for (const int64_t block : kBlocks) {
    Random random(static_cast<uint32_t>(block));
    const Weight weight(random_lists(random, 5, depth, block, 60, false));
    const lissom_f32_sparse& w = weight.sparse;
    const std::vector<float> x = random.numbers(depth * n, false);
    const std::vector<float> whole = run(variant, weight, x, {}, Call{n, silu}, random);
    for (int64_t first = 0; first < n; first += step, ++cases) {
      const int64_t count = std::min(step, n - first);
      std::vector<float> part;
      for (int64_t k = 0; k < depth; ++k) {
        part.insert(part.end(), x.begin() + k * n + first, x.begin() + k * n + first + count);
      }
      const std::vector<float> y = run(variant, weight, part, {}, Call{count, silu}, random);
      for (int64_t r = 0; r < w.rows; ++r) {
        if (std::memcmp(&y[static_cast<std::size_t>(r * count)], &whole[static_cast<std::size_t>(r * n + first)],
                        static_cast<std::size_t>(count) * sizeof(float)) != 0) {
          fail(variant.name + ": " + show("block", block) + show("row", r) + "a sum depends on how n is cut");
        }
      }
    }
  }
  return cases;
}

int64_t test_rows(const Product& variant) {
  int64_t cases = 0;
  constexpr int64_t n = 16, depth = 9;
  const lissom_epilogue none{LISSOM_NONE, 0, 0};
  std::vector<int32_t> offsets;
  for (int32_t k = 0; k < depth; ++k) offsets.push_back(k * static_cast<int32_t>(n));
  for (const int64_t block : kBlocks) {
    Random random(static_cast<uint32_t>(block));
    const Weight weight(random_lists(random, 6, depth, block, 50, true));
    const std::vector<float> x = random.numbers(depth * n, true);
    const Guarded<float> panel(x), y(weight.sparse.rows * n, kUntouched);
    const Guarded<int32_t> offset(offsets);
    std::vector<double> expected = multiply(weight, x.data(), n, 1, n).sum;
    std::fill(expected.begin(), expected.begin() + 2 * block * n, kUntouched);
    std::fill(expected.end() - block * n, expected.end(), kUntouched);
    variant.kernel(&weight.sparse, 2, 5, offset.begin(), panel.begin(), n, nullptr, y.begin(), n, &none);
    require_equal(y.begin(), expected.data(), weight.sparse.rows * n,
                  [&] { return variant.name + ": block rows 2 to 5 of 6, " + show("block", block); });
    ++cases;
  }
  return cases;
}

int64_t test(const Product& variant) {
  return test_sizes(variant) + test_activations(variant) + test_single_terms(variant) + test_special_numbers(variant) +
         test_cuts(variant) + test_rows(variant);
}

}  // namespace

void test_product() {
  each_variant(lissom_f32_sparse_product_variants, lissom_f32_sparse_product, "f32_sparse_product", test);
}
