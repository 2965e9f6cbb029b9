// Runs all tasks of a sparse operator on one thread, as the operator's adapter does, so that a benchmark calls once.
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#include "sparse_conv/sparse_conv.h"
#include "sparse_gemm/sparse_gemm.h"

namespace {

struct Free {
  void operator()(void* p) const { std::free(p); }
};

template <typename Plan>
using Task = void (*)(const Plan*, const lissom_f32_sparse*, const int32_t*, const float*, const float*, float*,
                      const lissom_epilogue*, int64_t, float*, int64_t*);

struct Run {
  virtual ~Run() = default;
  virtual void operator()(const float* x, const float* residual, float* y) = 0;
};

template <typename Plan>
struct Tasks final : Run {
  Plan plan;
  lissom_f32_sparse w;
  lissom_epilogue epilogue;
  Task<Plan> task;
  std::vector<int32_t> offset;
  std::unique_ptr<float, Free> scratch;

  Tasks(const Plan& p, const lissom_f32_sparse& weight, const lissom_epilogue& e, void* offsets, void* t)
      : plan(p), w(weight), epilogue(e), task(reinterpret_cast<Task<Plan>>(t)), offset(plan.offsets) {
    const std::size_t bytes = (static_cast<std::size_t>(plan.scratch) * sizeof(float) + 127) / 64 * 64;
    scratch.reset(static_cast<float*>(std::aligned_alloc(64, bytes)));
    std::memset(scratch.get(), 0, bytes);
    reinterpret_cast<void (*)(const Plan*, int32_t*)>(offsets)(&plan, offset.data());
  }

  void operator()(const float* x, const float* residual, float* y) override {
    int64_t packed = -1;
    for (int64_t i = 0; i < plan.tasks; ++i) {
      task(&plan, &w, offset.data(), x, residual, y, &epilogue, i, scratch.get(), &packed);
    }
  }
};

}  // namespace

// functions: plan, offsets, task of sparse_conv.h. Null when the plan is refused.
LISSOM_EXPORT Run* bench_conv_new(void* const* functions, const lissom_conv2d* shape, const lissom_f32_sparse* w,
                                  const lissom_epilogue* epilogue) {
  using Planner = int32_t (*)(const lissom_conv2d*, const lissom_f32_sparse*, lissom_conv_plan*);
  lissom_conv_plan plan;
  if (reinterpret_cast<Planner>(functions[0])(shape, w, &plan)) return nullptr;
  return new Tasks<lissom_conv_plan>(plan, *w, *epilogue, functions[1], functions[2]);
}

// functions: plan, offsets, task of sparse_gemm.h. Null when the plan is refused.
LISSOM_EXPORT Run* bench_gemm_new(void* const* functions, int64_t m, const lissom_f32_sparse* w,
                                  const lissom_epilogue* epilogue) {
  using Planner = int32_t (*)(int64_t, const lissom_f32_sparse*, lissom_gemm_plan*);
  lissom_gemm_plan plan;
  if (reinterpret_cast<Planner>(functions[0])(m, w, &plan)) return nullptr;
  return new Tasks<lissom_gemm_plan>(plan, *w, *epilogue, functions[1], functions[2]);
}

// Runs one after the other, all on the same arrays.
LISSOM_EXPORT void bench_run(Run* const* runs, int64_t count, const float* x, const float* residual, float* y) {
  for (int64_t i = 0; i < count; ++i) (*runs[i])(x, residual, y);
}

LISSOM_EXPORT void bench_delete(Run* run) { delete run; }
