/* Runs the tasks of one call on ONNX Runtime's threads, each thread with a scratch of its own that lasts. */
#ifndef LISSOM_OPS_TASKS_H_
#define LISSOM_OPS_TASKS_H_

#include <atomic>
#include <cstdint>

#include "../kernels/abi.h"
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

/* Runs the tasks [0, count), each with `floats` of scratch. Throws an Error when the scratch would be out of bounds, or
 * bad_alloc. */
void run_all(const OrtApi* api, OrtKernelContext* context, const Task& task, int64_t count, int64_t floats);

/* The same for a function of (index, scratch, packed), which must not throw. */
template <typename Run>
void run_tasks(const OrtApi* api, OrtKernelContext* context, int64_t count, int64_t floats, const Run& run) {
  struct Known final : Task {
    explicit Known(const Run& run) : call(run) {}
    void run(int64_t index, float* scratch, int64_t* packed) const override { call(index, scratch, packed); }
    const Run& call;
  };
  run_all(api, context, Known(run), count, floats);
}

/* How many threads run the tasks of a session, as far as has been seen, and 64 at most. */
class ThreadCount {
 public:
  /* Counts, the first times that it is asked, those that come within a moment (200 microseconds) for tasks that wait for
   * others. One that is busy elsewhere is not counted; too few cost time and no result. */
  int64_t count(const OrtApi* api, OrtKernelContext* context) const;

 private:
  mutable std::atomic<int> asked_{0};
  mutable std::atomic<int64_t> most_{1};
};

}  // namespace lissom

/* Bytes of the largest scratch that a thread of this process holds or held: panels and offsets. */
LISSOM_EXPORT int64_t lissom_scratch_bytes(void);

#endif
