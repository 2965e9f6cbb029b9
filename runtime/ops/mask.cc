#include <algorithm>
#include <cmath>
#include <string>

#include "../kernels/sizes.h"
#include "../kernels/winner_mask/winner_mask.h"
#include "kernel.h"
#include "tasks.h"

namespace lissom {
namespace {

/* Elements below which a task is not worth its start. */
constexpr int64_t kLeastElements = 32 * 1024;

class Mask final : public Kernel {
 public:
  Mask(const OrtApi* api, const Info& info)
      : Kernel(api, info.signature()), rate_(rate_of(info)), stride_(stride_of(info)) {}

  void compute(OrtKernelContext* context) const override {
    const Tensor x = input(context, kX);
    if (x.shape.rank < 2) {
      throw Error("expected x of at least two axes, the first of them the batch, but got " + x.shape.text());
    }
    const int64_t count = x.shape.count();
    float* y = output(context, x.shape);
    if (count != 0) run(context, x.as<float>(), x.shape.dims[0], count / x.shape.dims[0], y);
  }

 private:
  static double rate_of(const Info& info) {
    const double rate = *info.constant(kRate, 0).as<double>();
    if (!(rate > 0 && rate <= 1)) {
      throw Error("expected a winner rate above 0 and up to 1, but got " + std::to_string(rate));
    }
    return rate;
  }

  static int64_t stride_of(const Info& info) {
    const Tensor tensor = info.constant(kStride, 1);
    if (tensor.shape.count() != 1) throw Error("expected one stride, but got shape " + tensor.shape.text());
    const int64_t stride = *tensor.as<int64_t>();
    if (stride < 1 || stride >= lissom::kLargest) {
      throw Error("expected a stride from 1 to 2^31 - 1, but got " + std::to_string(stride));
    }
    return stride;
  }

  /* A task has whole samples where there are enough of them. Else all thresholds are found before the samples are cut
   * into parts, because y may be x. */
  void run(OrtKernelContext* context, const float* x, int64_t samples, int64_t n, float* y) const {
    const int64_t sampled = ceil_div(n, stride_);
    const auto share = static_cast<int64_t>(std::nearbyint(rate_ * static_cast<double>(sampled)));
    const int64_t winners = std::max<int64_t>(1, share);
    const auto threshold = [=](int64_t sample, float* scratch) {
      return lissom_f32_winner_threshold(x + sample * n, n, stride_, winners, reinterpret_cast<int32_t*>(scratch));
    };
    const int64_t tasks = std::clamp<int64_t>(samples * n / kLeastElements, 1, kTasks);
    if (samples >= tasks) {
      run_tasks(api(), context, tasks, sampled, [&](int64_t task, float* scratch, int64_t*) {
        for (int64_t i = samples * task / tasks; i < samples * (task + 1) / tasks; ++i) {
          lissom_f32_winner_mask(x + i * n, n, threshold(i, scratch), y + i * n);
        }
      });
      return;
    }
    float theta[kTasks];
    run_tasks(api(), context, samples, sampled,
              [&](int64_t sample, float* scratch, int64_t*) { theta[sample] = threshold(sample, scratch); });
    const int64_t parts = ceil_div(tasks, samples);
    run_tasks(api(), context, samples * parts, 0, [&](int64_t task, float*, int64_t*) {
      const int64_t sample = task / parts, part = task % parts;
      const int64_t first = sample * n + n * part / parts, last = sample * n + n * (part + 1) / parts;
      lissom_f32_winner_mask(x + first, last - first, theta[sample], y + first);
    });
  }

  const double rate_;
  const int64_t stride_;
};

}  // namespace

std::unique_ptr<Kernel> make_mask(const OrtApi* api, const Info& info) { return std::make_unique<Mask>(api, info); }

}  // namespace lissom
