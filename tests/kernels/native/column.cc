#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "../../../runtime/kernels/sparse_column/sparse_column.h"
#include "variants.h"
#include "weights.h"

namespace {

using Column = Variant<lissom_f32_sparse_column_fn>;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr lissom_epilogue kNone{LISSOM_NONE, 0, 0};

std::vector<float> with_zeros(Random& random, int64_t n, bool is_whole) {
  std::vector<float> drawn = random.numbers(n, is_whole);
  for (float& v : drawn) {
    if (random.percent(70)) v = random.percent(50) ? 0.0f : -0.0f;
  }
  return drawn;
}

/* y[rows], part after part; residual[rows] or empty, which y itself holds if `over_itself`. */
std::vector<float> run(const Column& variant, const Weight& weight, int64_t parts, const std::vector<float>& x,
                       const std::vector<float>& residual, const lissom_epilogue& epilogue, bool front = false,
                       bool over_itself = false) {
  const lissom_f32_sparse& w = weight.sparse;
  const int64_t all = w.rows / w.block, blocks = w.row_ptr[all];
  const Guarded<int32_t> column_ptr(parts * (w.depth + 1), -1, front), block_rows(blocks, -1, front);
  const Guarded<float> values(blocks * w.block, kNan, front);
  lissom_f32_sparse_columns(&w, parts, column_ptr.begin(), block_rows.begin(), values.begin());
  const Guarded<float> source(x, front), added(residual, front), y(w.rows, kNan, front);
  if (over_itself) std::copy(residual.begin(), residual.end(), y.begin());
  const Guarded<int32_t> index(w.depth + 1, -1);
  const int64_t count = lissom_f32_nonzero(source.begin(), w.depth, w.depth, index.begin());
  const std::vector<int32_t> kept(index.begin(), index.begin() + count);
  const Guarded<int32_t> places(kept, front);
  for (int64_t part = 0; part < parts; ++part) {
    const int64_t first = all * part / parts, last = all * (part + 1) / parts, place = first * w.block;
    const Guarded<float> sums((last - first) * w.block, kNan, front);
    const int64_t begin = w.row_ptr[first];
    const lissom_f32_columns mine{(last - first) * w.block, w.block, column_ptr.begin() + part * (w.depth + 1),
                                  block_rows.begin() + begin, values.begin() + begin * w.block};
    const float* term = residual.empty() ? nullptr : (over_itself ? y.begin() : added.begin()) + place;
    variant.kernel(&mine, source.begin(), places.begin(), count, w.bias + place, term, sums.begin(),
                   y.begin() + place, &epilogue);
  }
  return std::vector<float>(y.begin(), y.end());
}

int64_t test_sizes(const Column& variant) {
  int64_t cases = 0;
  for (const int64_t block : {1, 2, 4, 8, 16}) {
    for (const int64_t block_rows : {1, 2, 3, 5, 16, 17, 33}) {
      for (const int64_t parts : {int64_t{1}, std::min<int64_t>(block_rows, 3)}) {
        Random random(static_cast<uint32_t>(block_rows * 100 + block));
        const bool front = block_rows % 2 == 0;
        const Weight weight(random_lists(random, block_rows, 31, block, 30, true), front);
        const std::vector<float> x = with_zeros(random, 31, true), residual = random.numbers(weight.sparse.rows, true);
        const auto describe = [&] {
          return variant.name + ": " + show("block", block) + show("block rows", block_rows) + show("parts", parts);
        };
        std::vector<double> expected = multiply(weight, x.data(), 1, 1, 1).sum;
        const auto count = static_cast<int64_t>(expected.size());
        require_equal(run(variant, weight, parts, x, {}, kNone, front).data(), expected.data(), count, describe);
        for (std::size_t i = 0; i < residual.size(); ++i) {
          expected[i] = std::max(expected[i] + static_cast<double>(residual[i]), 0.0);
        }
        for (const bool over_itself : {false, true}) {
          const lissom_epilogue relu{LISSOM_RELU, 0, 0};
          require_equal(run(variant, weight, parts, x, residual, relu, front, over_itself).data(), expected.data(),
                        count, [&] { return describe() + "residual, " + show("in place", over_itself); });
        }
        cases += 3;
      }
    }
  }
  return cases;
}

/* Within rounding for every activation, and bit for bit however the rows are cut. */
int64_t test_activations_and_parts(const Column& variant) {
  int64_t cases = 0;
  for (const int64_t block : {1, 2, 4, 8, 16}) {
    for (const lissom_epilogue& epilogue : epilogues()) {
      Random random(static_cast<uint32_t>(block + epilogue.activation));
      const Weight weight(random_lists(random, 21, 60, block, 50, false));
      const std::vector<float> x = with_zeros(random, 60, false);
      const std::vector<float> whole = run(variant, weight, 1, x, {}, epilogue);
      const auto describe = [&] { return variant.name + ": " + show("block", block); };
      require_near(whole.data(), multiply(weight, x.data(), 1, 1, 1), epilogue, 61, describe);
      const std::vector<float> cut = run(variant, weight, 5, x, {}, epilogue);
      if (std::memcmp(whole.data(), cut.data(), whole.size() * sizeof(float)) != 0) {
        fail(describe() + "a sum depends on the parts");
      }
      cases += 2;
    }
  }
  return cases;
}

/* A NaN is no zero; where x is zero no weight is read. */
int64_t test_special_numbers(const Column& variant) {
  const Weight weight(Lists{2, 3, 1, {0, 2, 3}, {0, 1, 2}, {kNan, 2.0f, 1.0f}, {0.5f, 3.0f}, {kNan, 2, 0, 0, 0, 1}});
  const std::vector<float> y = run(variant, weight, 1, {0.0f, 4.0f, kNan}, {}, kNone);
  if (y[0] != 8.5f || !std::isnan(y[1])) {
    fail(variant.name + ": expected 8.5, NaN, but got " + std::to_string(y[0]) + ", " + std::to_string(y[1]));
  }
  const std::vector<float> bias = run(variant, weight, 2, {0.0f, -0.0f, 0.0f}, {}, kNone);
  if (bias[0] != 0.5f || bias[1] != 3.0f) fail(variant.name + ": expected the bias where all of x is zero");
  return 2;
}

int64_t test(const Column& variant) {
  return test_sizes(variant) + test_activations_and_parts(variant) + test_special_numbers(variant);
}

int64_t test_nonzero() {
  int64_t cases = 0;
  for (int64_t n = 0; n < 70; ++n) {
    Random random(static_cast<uint32_t>(n));
    std::vector<float> x = with_zeros(random, n, false);
    if (n > 2) x[1] = kNan;
    std::vector<int32_t> expected;
    for (int32_t k = 0; k < n; ++k) {
      if (x[static_cast<std::size_t>(k)] != 0) expected.push_back(k);
    }
    const auto count = static_cast<int64_t>(expected.size());
    const Guarded<float> source(x);
    for (const int64_t most : {count, n, count - 1}) {
      if (most < 0) continue;
      const Guarded<int32_t> index(most + 1, -1);
      const int64_t found = lissom_f32_nonzero(source.begin(), n, most, index.begin());
      if (found != count || (count <= most && !std::equal(expected.begin(), expected.end(), index.begin()))) {
        fail("f32_nonzero: " + show("n", n) + show("most", most) + "expected " + std::to_string(count) +
             " places, but got " + std::to_string(found) + ", or others");
      }
      ++cases;
    }
  }
  return cases;
}

}  // namespace

void test_column() {
  each_variant(lissom_f32_sparse_column_variants, lissom_f32_sparse_column, "f32_sparse_column", test);
  report("f32_nonzero", test_nonzero());
}
