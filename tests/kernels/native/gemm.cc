#include <limits>

#include "../../../runtime/kernels/sparse_gemm/sparse_gemm.h"
#include "weights.h"

namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr int64_t kScratches = 2; /* as if of two threads */

/* y[m, rows] of x[m, depth]: tasks in a random order, each on a scratch drawn at random. */
std::vector<float> run(int64_t m, const Weight& weight, const std::vector<float>& x, const std::vector<float>& residual,
                       const lissom_epilogue& epilogue, bool front, Random& random) {
  lissom_gemm_plan plan{};
  if (lissom_f32_sparse_gemm_plan(m, &weight.sparse, &plan) != 0) fail("sparse_gemm: " + show("m", m) + "was refused");
  const Guarded<int32_t> offset(plan.offsets, -1, front);
  lissom_f32_sparse_gemm_offsets(&plan, offset.begin());
  const Guarded<float> source(x, front), added(residual, front), y(m * weight.sparse.rows, kNan, front);
  const Guarded<float> scratches[kScratches]{{plan.scratch, kNan, front}, {plan.scratch, kNan, front}};
  int64_t packed[kScratches] = {-1, -1};
  for (const int64_t task : random.permutation(plan.tasks)) {
    const int64_t thread = random.below(kScratches);
    lissom_f32_sparse_gemm_task(&plan, &weight.sparse, offset.begin(), source.begin(),
                                residual.empty() ? nullptr : added.begin(), y.begin(), &epilogue, task,
                                scratches[thread].begin(), &packed[thread]);
  }
  return std::vector<float>(y.begin(), y.end());
}

void test_exact(int64_t m, int64_t block_rows, int64_t depth, int64_t block, Random& random) {
  const bool front = random.percent(50);
  const Weight weight(random_lists(random, block_rows, depth, block, 40, true), front);
  const int64_t rows = weight.sparse.rows;
  const std::vector<float> x = random.numbers(m * depth, true), residual = random.numbers(m * rows, true);
  const std::vector<double> sums = multiply(weight, x.data(), 1, depth, m).sum; /* [rows, m] */
  const lissom_epilogue none{LISSOM_NONE, 0, 0}, relu{LISSOM_RELU, 0, 0};
  std::vector<double> expected(sums.size()), activated(sums.size());
  for (std::size_t i = 0; i < sums.size(); ++i) {
    const std::size_t row = i % static_cast<std::size_t>(rows), j = i / static_cast<std::size_t>(rows);
    expected[i] = sums[row * static_cast<std::size_t>(m) + j];
    activated[i] = activate(relu, expected[i] + static_cast<double>(residual[i]));
  }
  const auto describe = [&] {
    return "sparse_gemm: " + show("m", m) + show("rows", rows) + show("depth", depth) + show("block", block);
  };
  require_equal(run(m, weight, x, {}, none, front, random).data(), expected.data(), m * rows, describe);
  require_equal(run(m, weight, x, residual, relu, front, random).data(), activated.data(), m * rows,
                [&] { return describe() + "residual, relu, "; });
}

}  // namespace

void test_gemm(bool quick) {
  Random random(4);
  int64_t cases = 0;
  for (int64_t m = 1; m <= 70; ++m) {
    for (const int64_t block : {1, 2, 4, 8, 16}) {
      if (quick && (m + block) % 3 != 0) continue;
      test_exact(m, 70 / block + 1, random.between(1, 40), block, random);
      cases += 2;
    }
  }
  for (const int64_t m : {1, 3, 40, 101}) { /* several panels, the last of 101 shorter, and several tasks to each */
    test_exact(m, 50, 2000, 4, random);
    cases += 2;
  }
  report("sparse_gemm", cases);
}
