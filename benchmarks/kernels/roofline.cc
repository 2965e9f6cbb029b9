// Prints what this processor can do at most, as JSON: fused multiply-adds from registers, and the rate at which a
// scaled copy moves bytes (read plus written) by the size of what it touches.
//
//   roofline [threads]
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <thread>
#include <vector>

#if defined(__AVX512F__)
constexpr int kBytes = 64, kAccumulators = 24;
#elif defined(__AVX__)
constexpr int kBytes = 32, kAccumulators = 12;
#else
constexpr int kBytes = 16, kAccumulators = 24;
#endif
typedef float Vector __attribute__((vector_size(kBytes)));
constexpr int kLanes = kBytes / sizeof(float);

static double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Best time of one call of `work(repeats)` on every thread, per repeat; each measurement lasts at least `least` seconds.
static double best(int threads, const std::function<void(int, int64_t)>& work, double least = 0.03, int rounds = 7) {
  const auto timed = [&](int64_t repeats) {
    std::vector<std::thread> others;
    const double start = now();
    for (int t = 1; t < threads; ++t) others.emplace_back(work, t, repeats);
    work(0, repeats);
    for (std::thread& other : others) other.join();
    return now() - start;
  };
  int64_t repeats = 1;
  while (timed(repeats) < least) repeats *= 2;
  double shortest = 1e30;
  for (int i = 0; i < rounds; ++i) shortest = std::min(shortest, timed(repeats) / repeats);
  return shortest;
}

static volatile float sink;

static void multiply_add(int, int64_t repeats) {
  Vector sum[kAccumulators] = {}, a = {}, b = {};
  for (int i = 0; i < kLanes; ++i) a[i] = 0.5f + sink, b[i] = 0.25f + sink;
  for (int k = 0; k < kAccumulators; ++k) sum[k][0] = k + sink;  // equal sums would be computed once
  for (int64_t i = 0; i < repeats * 1000; ++i) {
#pragma GCC unroll 32
    for (int k = 0; k < kAccumulators; ++k) sum[k] = sum[k] * a + b;
  }
  Vector total = {};
  for (const Vector& part : sum) total += part;
  sink = total[0] > 1e30f ? 1.0f : 0.0f;
}

int main(int argc, char** argv) {
  const int threads = argc > 1 ? std::atoi(argv[1]) : 1;
  const double seconds = best(threads, multiply_add);
  std::printf("{\"threads\": %d, \"peak_gflops\": %.4g, \"bandwidth\": [", threads,
              2.0 * 1000 * kAccumulators * kLanes * threads / seconds / 1e9);
  const int64_t most = int64_t{1} << 28;
  std::vector<Vector*> memory;
  for (int t = 0; t < threads; ++t) {
    memory.push_back(static_cast<Vector*>(std::aligned_alloc(4096, most)));
    for (int64_t i = 0; i < most / kBytes; ++i) memory[t][i] = Vector{};
  }
  for (int64_t size = int64_t{1} << 14; size <= most; size *= 2) {
    const int64_t half = size / threads / 2 / kBytes;
    const double taken = best(threads, [&](int t, int64_t repeats) {
      Vector scale = {};
      for (int i = 0; i < kLanes; ++i) scale[i] = 0.5f;
      Vector* const from = memory[t];
      Vector* const to = memory[t] + half;
      for (int64_t r = 0; r < repeats; ++r) {
        for (int64_t i = 0; i < half; ++i) to[i] = from[i] * scale;
        __asm__ volatile("" ::: "memory");
      }
    });
    std::printf("%s[%lld, %.4g]", size > 1 << 14 ? ", " : "", static_cast<long long>(size),
                2.0 * half * kBytes * threads / taken / 1e9);
  }
  std::printf("]}\n");
  return 0;
}
