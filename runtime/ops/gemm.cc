#include <memory>
#include <mutex>
#include <string>

#include "../kernels/sizes.h"
#include "../kernels/sparse_gemm/sparse_gemm.h"
#include "columns.h"
#include "kernel.h"
#include "tasks.h"
#include "weight.h"

namespace lissom {
namespace {

/* The zeros of a vector are passed over where at most this many percent of it are not zero; with more of them the
 * columns, which lie apart, cost as much as all rows. */
int64_t most_percent(const lissom_f32_sparse& w) { return w.block == 1 ? 20 : 30; }

class Gemm final : public Kernel {
 public:
  Gemm(const OrtApi* api, const Info& info)
      : Kernel(api, info.signature()),
        weight_(info, info.signature().last(), 2, 1),
        epilogue_(info.epilogue(info.signature().last())) {}

  void compute(OrtKernelContext* context) const override {
    const lissom_f32_sparse& w = weight_.sparse();
    const Tensor x = input(context, kX);
    if (x.shape.rank < 2 || x.shape.dims[x.shape.rank - 1] != w.depth) {
      throw Error("expected x of at least two axes, the last of " + std::to_string(w.depth) + ", but got " +
                  x.shape.text());
    }
    Shape shape = x.shape;
    shape.dims[shape.rank - 1] = w.rows;
    const int64_t count = shape.count();
    lissom_gemm_plan plan = {};
    if (count != 0 && lissom_f32_sparse_gemm_plan(count / w.rows, &w, &plan) != 0) {
      throw Error("expected a product whose sizes fit into 31 bits, but got x " + x.shape.text() + " and y " +
                  shape.text());
    }
    const float* added = residual(context, shape);
    float* y = output(context, shape);
    if (count == 0) return;
    if (plan.tile == 0) {
      run_vectors(context, plan, x.as<float>(), added, y);
      return;
    }
    int32_t* offset = offsets_table(plan.offsets);
    lissom_f32_sparse_gemm_offsets(&plan, offset);
    run_tasks(api(), context, plan.tasks, plan.scratch, [&](int64_t task, float* scratch, int64_t* packed) {
      lissom_f32_sparse_gemm_task(&plan, &w, offset, x.as<float>(), added, y, &epilogue_, task, scratch, packed);
    });
  }

 private:
  /* A few rows of x, each multiplied as it lies or, where most of it is zero, by the columns of the rest. Which one
   * depends on the row alone, and so does the result. */
  void run_vectors(OrtKernelContext* context, const lissom_gemm_plan& plan, const float* x, const float* added,
                   float* y) const {
    const lissom_f32_sparse& w = weight_.sparse();
    const int64_t most = w.depth * most_percent(w) / 100;
    int32_t* const index = offsets_table(plan.m * (most + 1));
    int64_t nonzero[LISSOM_VECTORS];
    bool skips = false;
    for (int64_t row = 0; row < plan.m; ++row) {
      nonzero[row] = lissom_f32_nonzero(x + row * w.depth, w.depth, most, index + row * (most + 1));
      skips = skips || nonzero[row] <= most;
    }
    const Columns* const columns = skips ? &columns_in(plan.row_parts) : nullptr;
    const int64_t sums = skips ? ceil_div(w.rows / w.block, plan.row_parts) * w.block : 0;
    run_tasks(api(), context, plan.tasks, sums, [&](int64_t task, float* scratch, int64_t* packed) {
      const int64_t row = task / plan.row_parts, part = task % plan.row_parts;
      if (nonzero[row] > most) {
        lissom_f32_sparse_gemm_task(&plan, &w, nullptr, x, added, y, &epilogue_, task, scratch, packed);
        return;
      }
      const lissom_f32_columns mine = columns->part(part);
      const int64_t first = columns->first(part), place = row * w.rows + first;
      lissom_f32_sparse_column(&mine, x + row * w.depth, index + row * (most + 1), nonzero[row], w.bias + first,
                               added ? added + place : nullptr, scratch, y + place, &epilogue_);
    });
  }

  /* The weight by columns, which is made when the first row of x asks for it. All plans of a few rows have the same
   * parts. */
  const Columns& columns_in(int64_t parts) const {
    std::call_once(once_, [&] { columns_ = std::make_unique<Columns>(weight_.sparse(), parts); });
    return *columns_;
  }

  const Weight weight_;
  const lissom_epilogue epilogue_;
  mutable std::once_flag once_;
  mutable std::unique_ptr<Columns> columns_;
};

}  // namespace

std::unique_ptr<Kernel> make_gemm(const OrtApi* api, const Info& info) { return std::make_unique<Gemm>(api, info); }

}  // namespace lissom
