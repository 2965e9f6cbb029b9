#include "tasks.h"

#include <atomic>
#include <chrono>
#include <cstring>
#include <new>
#include <string>
#include <thread>

#include "status.h"

namespace lissom {
namespace {

constexpr int64_t kMostBytes = int64_t{1} << 30; /* of one buffer */
constexpr std::align_val_t kAlignment{64};

std::atomic<int64_t> largest{0};
std::atomic<uint64_t> calls{0};

/* Memory that grows and never shrinks. */
class Buffer {
 public:
  Buffer() = default;
  ~Buffer() { ::operator delete(data_, kAlignment); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  int64_t bytes() const { return bytes_; }
  void* data() const { return data_; }

  /* Whether there are `bytes` now; if not, what was there is gone. */
  bool grow(int64_t bytes) {
    if (bytes <= bytes_) return true;
    ::operator delete(data_, kAlignment);
    data_ = ::operator new(static_cast<size_t>(bytes), kAlignment, std::nothrow);
    bytes_ = data_ ? bytes : 0;
    /* What lies behind rows is multiplied and thrown away: denormal numbers there would take a hundred times as long. */
    if (data_) std::memset(data_, 0, static_cast<size_t>(bytes));
    return data_ != nullptr;
  }

 private:
  void* data_ = nullptr;
  int64_t bytes_ = 0;
};

struct ThreadState {
  Buffer scratch;
  Buffer offsets;
  uint64_t call = 0;   /* whose panel the scratch holds */
  int64_t packed = -1; /* which panel; meaningful within that call only */

  void report() const {
    const int64_t bytes = scratch.bytes() + offsets.bytes();
    int64_t before = largest.load(std::memory_order_relaxed);
    while (before < bytes && !largest.compare_exchange_weak(before, bytes, std::memory_order_relaxed)) {
    }
  }
};

thread_local ThreadState state;

int64_t bounded_bytes(int64_t elements) {
  if (elements < 0 || elements > kMostBytes / 4) {
    throw Error("expected at most " + std::to_string(kMostBytes) + " bytes of scratch, but got a layer that needs " +
                std::to_string(elements) + " times 4");
  }
  return elements * 4;
}

struct Call {
  const Task& task;
  int64_t bytes;
  uint64_t id;
  std::atomic<bool> out_of_memory{false};
};

void run_one(void* user, size_t index) noexcept {
  Call& call = *static_cast<Call*>(user);
  ThreadState& mine = state;
  if (mine.scratch.bytes() < call.bytes) {
    mine.call = 0;
    if (!mine.scratch.grow(call.bytes)) {
      call.out_of_memory.store(true, std::memory_order_relaxed);
      return;
    }
    mine.report();
  }
  if (mine.call != call.id) {
    mine.call = call.id;
    mine.packed = -1;
  }
  call.task.run(static_cast<int64_t>(index), static_cast<float*>(mine.scratch.data()), &mine.packed);
}

using Clock = std::chrono::steady_clock;

constexpr std::chrono::microseconds kMoment{200};
constexpr size_t kMostThreads = 64;
constexpr int kRolls = 4; /* users of one session may come at the same time at first, and share its threads */

/* A roll-call. */
struct Roll {
  uint64_t id;
  Clock::time_point end;
  std::atomic<int64_t> present{0};
};

void answer(void* user, size_t) noexcept {
  thread_local uint64_t answered = 0;
  Roll& roll = *static_cast<Roll*>(user);
  if (answered == roll.id) return;
  answered = roll.id;
  roll.present.fetch_add(1, std::memory_order_relaxed);
  while (Clock::now() < roll.end) std::this_thread::yield();
}

}  // namespace

int32_t* offsets_table(int64_t count) {
  if (!state.offsets.grow(bounded_bytes(count))) throw std::bad_alloc();
  state.report();
  return static_cast<int32_t*>(state.offsets.data());
}

void run_all(const OrtApi* api, OrtKernelContext* context, const Task& task, int64_t count, int64_t floats) {
  Call call{task, bounded_bytes(floats), ++calls};
  if (count == 1) {
    run_one(&call, 0);
  } else {
    require(api, api->KernelContext_ParallelFor(context, run_one, static_cast<size_t>(count), 0, &call));
  }
  if (call.out_of_memory.load(std::memory_order_relaxed)) throw std::bad_alloc();
}

int64_t ThreadCount::count(const OrtApi* api, OrtKernelContext* context) const {
  int64_t most = most_.load(std::memory_order_relaxed);
  if (asked_.load(std::memory_order_relaxed) < kRolls) {
    asked_.fetch_add(1, std::memory_order_relaxed);
    Roll roll{++calls, Clock::now() + kMoment};
    require(api, api->KernelContext_ParallelFor(context, answer, kMostThreads, 0, &roll));
    const int64_t found = roll.present.load(std::memory_order_relaxed);
    while (most < found && !most_.compare_exchange_weak(most, found, std::memory_order_relaxed)) {
    }
  }
  return most_.load(std::memory_order_relaxed);
}

}  // namespace lissom

LISSOM_EXPORT int64_t lissom_scratch_bytes(void) { return lissom::largest.load(std::memory_order_relaxed); }
