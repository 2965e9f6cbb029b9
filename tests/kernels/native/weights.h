/* Sparse weights as the kernels take them (runtime/kernels/sparse.h), and what they must compute. */
#ifndef LISSOM_TESTS_WEIGHTS_H_
#define LISSOM_TESTS_WEIGHTS_H_

#include <cstdint>
#include <vector>

#include "../../../runtime/kernels/sparse.h"
#include "exact.h"
#include "guarded.h"

/* A weight, listed block row after block row. */
struct Lists {
  int64_t block_rows, depth, block;
  std::vector<int32_t> row_ptr, columns;
  std::vector<float> values, bias, dense; /* dense[rows, depth] */
};

/* Stores `density` percent of the blocks, each with random values. */
Lists random_lists(Random& random, int64_t block_rows, int64_t depth, int64_t block, int64_t density, bool whole);

/* A weight in guarded arrays that may only be read. */
struct Weight {
  explicit Weight(const Lists& lists, bool front = false);

  std::vector<float> dense; /* [rows, depth] */
  Guarded<int32_t> row_ptr, columns;
  Guarded<float> values, bias;
  lissom_f32_sparse sparse;
};

struct Reference {
  std::vector<double> sum;       /* [rows, n] */
  std::vector<double> magnitude; /* of the terms of each sum */
};

/* bias + W x, where column k of the weight meets x[k * stride + j * step] for output j of n. */
Reference multiply(const Weight& weight, const float* x, int64_t stride, int64_t step, int64_t n);

/* By the definition of each activation, in double precision. */
double activate(const lissom_epilogue& epilogue, double v);

/* The epilogue of each activation, with parameters. */
std::vector<lissom_epilogue> epilogues();

/* Arguments that tell activations apart: thresholds, zeros of both signs, and numbers from tiny to large. */
std::vector<float> arguments();

/* Ends the program where actual[i] is not the activated arguments()[i], to a few units in the last place. */
void require_activated(const float* actual, const lissom_epilogue& epilogue, const std::string& what);

/* Ends the program where actual[count] is further from the activated sums than the rounding of sums of that many terms
 * allows; elements whose sum is as near to a threshold may be on either side of it. */
template <class Describe>
void require_near(const float* actual, const Reference& reference, const lissom_epilogue& epilogue, int64_t terms,
                  Describe describe) {
  constexpr double kEps = 1.0 / (1 << 23);
  const bool jumps = epilogue.activation == LISSOM_THRESHOLDED_RELU || epilogue.activation == LISSOM_SHRINK;
  for (std::size_t i = 0; i < reference.sum.size(); ++i) {
    const double sum = reference.sum[i], expected = activate(epilogue, sum);
    const double size = expected < 0 ? -expected : expected;
    /* No activation is steeper than 3/2, and its own operations are a few. */
    const double bound = kEps * (1.5 * static_cast<double>(terms) * reference.magnitude[i] + 4 * size);
    const double above = (sum < 0 ? -sum : sum) - static_cast<double>(epilogue.a);
    if (jumps && -bound <= above && above <= bound) continue;
    const double difference = static_cast<double>(actual[i]) - expected;
    if (!(-bound <= difference && difference <= bound)) {
      fail(describe() + show("activation", epilogue.activation) + " element " + std::to_string(i) + ": expected " +
           std::to_string(expected) + " within " + std::to_string(bound / kEps) + " eps, but got " +
           std::to_string(actual[i]));
    }
  }
}

#endif
