/* Runs the tasks of one call on ONNX Runtime's threads, each thread with a scratch of its own that lasts. */
#ifndef LISSOM_OPS_TASKS_H_
#define LISSOM_OPS_TASKS_H_

#include <cstdint>

#include "../kernels/abi.h"
#include "../kernels/sparse.h"
#include "ort_abi.h"

namespace lissom {

/* The offsets table of this thread's call, with room for `count`; its contents are unspecified. A call shares it with
 * its tasks: the thread that calls waits for them. Throws an Error when `count` is out of bounds, or bad_alloc. */
int32_t* offsets_table(int64_t count);

/* What a kernel runs; `packed` as in sparse_conv.h. */
class Task {
 public:
  virtual void run(int64_t index, float* scratch, int64_t* packed) const = 0;

 protected:
  ~Task() = default;
};

/* The tasks of a plan: those of a convolution and of a product take the same arguments. */
template <typename Plan>
class PlannedTask final : public Task {
 public:
  using Run = void (*)(const Plan*, const lissom_f32_sparse*, const int32_t*, const float*, const float*, float*,
                       const lissom_epilogue*, int64_t, float*, int64_t*);

  PlannedTask(Run run, const Plan& plan, const lissom_f32_sparse& w, const lissom_epilogue& epilogue,
              const int32_t* offset, const float* x, const float* residual, float* y)
      : run_(run), plan_(plan), w_(w), epilogue_(epilogue), offset_(offset), x_(x), residual_(residual), y_(y) {}

  void run(int64_t index, float* scratch, int64_t* packed) const override {
    run_(&plan_, &w_, offset_, x_, residual_, y_, &epilogue_, index, scratch, packed);
  }

 private:
  const Run run_;
  const Plan& plan_;
  const lissom_f32_sparse& w_;
  const lissom_epilogue& epilogue_;
  const int32_t* offset_;
  const float* x_;
  const float* residual_;
  float* y_;
};

/* Runs the tasks [0, count), each with `floats` of scratch. Throws an Error when the scratch would be out of bounds, or
 * bad_alloc. */
void run_tasks(const OrtApi* api, OrtKernelContext* context, const Task& task, int64_t count, int64_t floats);

}  // namespace lissom

/* Bytes of the largest scratch that a thread of this process holds or held: panels and offsets. */
LISSOM_EXPORT int64_t lissom_scratch_bytes(void);

#endif
