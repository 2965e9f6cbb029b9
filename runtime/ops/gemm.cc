#include <string>

#include "../kernels/sparse_gemm/sparse_gemm.h"
#include "kernel.h"
#include "tasks.h"
#include "weight.h"

namespace lissom {
namespace {

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
    int32_t* offset = offsets_table(plan.offsets);
    lissom_f32_sparse_gemm_offsets(&plan, offset);
    run_tasks(api(), context, plan.tasks, plan.scratch, [&](int64_t task, float* scratch, int64_t* packed) {
      lissom_f32_sparse_gemm_task(&plan, &w, offset, x.as<float>(), added, y, &epilogue_, task, scratch, packed);
    });
  }

 private:
  const Weight weight_;
  const lissom_epilogue epilogue_;
};

}  // namespace

std::unique_ptr<Kernel> make_gemm(const OrtApi* api, const Info& info) { return std::make_unique<Gemm>(api, info); }

}  // namespace lissom
