/* What the groups of tests share: numbers that are the same everywhere, comparison, and the end at a difference. */
#ifndef LISSOM_TESTS_EXACT_H_
#define LISSOM_TESTS_EXACT_H_

#include <cstdint>
#include <random>
#include <string>
#include <utility>
#include <vector>

/* The groups. `quick` runs fewer of the random cases. */
void test_product();
void test_vector();
void test_conv(bool quick);
void test_gemm(bool quick);
void test_depthwise(bool quick);
void test_chain(bool quick);
void test_packed(bool quick);
void test_mask();
void test_column();

/* Prints what differed, and ends the program. */
[[noreturn]] void fail(const std::string& message);

/* Prints that a group of cases is done. */
void report(const std::string& group, int64_t cases);

/* Parts of a message: "name=value" and a comma. */
std::string show(const char* name, int64_t value);

/* Ends the program where actual[count] is not expected[count]; describe() says which case it is. */
template <class Describe>
void require_equal(const float* actual, const double* expected, int64_t count, Describe describe) {
  for (int64_t i = 0; i < count; ++i) {
    if (!(static_cast<double>(actual[i]) == expected[i])) {
      fail(describe() + " element " + std::to_string(i) + ": expected " + std::to_string(expected[i]) + ", but got " +
           std::to_string(actual[i]));
    }
  }
}

/* Mersenne twister without the distributions of the standard library, which differ between libraries. */
class Random {
 public:
  explicit Random(uint32_t seed) : engine_(seed) {}

  int64_t below(int64_t n) { return static_cast<int64_t>(engine_() % static_cast<uint64_t>(n)); }
  int64_t between(int64_t low, int64_t high) { return low + below(high - low + 1); } /* both included */
  bool percent(int64_t chance) { return below(100) < chance; }
  float whole() { return static_cast<float>(between(-4, 4)); } /* sums of products of such numbers are exact */
  float real() { return static_cast<float>(between(-(1 << 23), 1 << 23)) / static_cast<float>(1 << 22); } /* [-2, 2] */
  float number(bool is_whole) { return is_whole ? whole() : real(); }

  template <class T>
  const T& one_of(const std::vector<T>& choices) {
    return choices[static_cast<std::size_t>(below(static_cast<int64_t>(choices.size())))];
  }

  /* 0, 1, ..., count - 1 in a random order. */
  std::vector<int64_t> permutation(int64_t count) {
    std::vector<int64_t> order(static_cast<std::size_t>(count));
    for (std::size_t i = 0; i < order.size(); ++i) {
      order[i] = static_cast<int64_t>(i);
      std::swap(order[i], order[static_cast<std::size_t>(below(static_cast<int64_t>(i) + 1))]);
    }
    return order;
  }

  std::vector<float> numbers(int64_t count, bool is_whole) {
    std::vector<float> drawn(static_cast<std::size_t>(count));
    for (float& v : drawn) v = number(is_whole);
    return drawn;
  }

 private:
  std::mt19937 engine_;
};

#endif
