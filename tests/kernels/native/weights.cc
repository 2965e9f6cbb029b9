#include "weights.h"

#include <algorithm>
#include <cmath>
#include <limits>

Lists random_lists(Random& random, int64_t block_rows, int64_t depth, int64_t block, int64_t density, bool whole) {
  Lists lists{block_rows, depth, block, {0}, {}, {}, random.numbers(block_rows * block, whole), {}};
  lists.dense.resize(static_cast<std::size_t>(block_rows * block * depth));
  for (int64_t r = 0; r < block_rows; ++r) {
    for (int64_t k = 0; k < depth; ++k) {
      if (!random.percent(density)) continue;
      lists.columns.push_back(static_cast<int32_t>(k));
      for (int64_t m = 0; m < block; ++m) {
        lists.values.push_back(random.number(whole));
        lists.dense[static_cast<std::size_t>((r * block + m) * depth + k)] = lists.values.back();
      }
    }
    lists.row_ptr.push_back(static_cast<int32_t>(lists.columns.size()));
  }
  return lists;
}

Weight::Weight(const Lists& lists, bool front)
    : dense(lists.dense),
      row_ptr(lists.row_ptr, front),
      columns(lists.columns, front),
      values(lists.values, front),
      bias(lists.bias, front),
      sparse{lists.block_rows * lists.block, lists.depth,    lists.block, row_ptr.begin(),
             columns.begin(),                values.begin(), bias.begin()} {}

Reference multiply(const Weight& weight, const float* x, int64_t stride, int64_t step, int64_t n) {
  const lissom_f32_sparse& w = weight.sparse;
  Reference reference;
  for (int64_t r = 0; r < w.rows; ++r) {
    const double bias = static_cast<double>(w.bias[r]);
    std::vector<double> sum(static_cast<std::size_t>(n), bias), magnitude(sum.size(), std::fabs(bias));
    for (int64_t k = 0; k < w.depth; ++k) {
      const double value = static_cast<double>(weight.dense[static_cast<std::size_t>(r * w.depth + k)]);
      if (value == 0.0) continue;
      for (int64_t j = 0; j < n; ++j) {
        const double term = value * static_cast<double>(x[k * stride + j * step]);
        sum[static_cast<std::size_t>(j)] += term;
        magnitude[static_cast<std::size_t>(j)] += std::fabs(term);
      }
    }
    reference.sum.insert(reference.sum.end(), sum.begin(), sum.end());
    reference.magnitude.insert(reference.magnitude.end(), magnitude.begin(), magnitude.end());
  }
  return reference;
}

double activate(const lissom_epilogue& epilogue, double v) {
  const double a = static_cast<double>(epilogue.a), b = static_cast<double>(epilogue.b);
  switch (epilogue.activation) {
    case LISSOM_RELU:
      return std::max(v, 0.0);
    case LISSOM_CLIP:
      return std::min(std::max(v, a), b);
    case LISSOM_LEAKY_RELU:
      return v < 0 ? a * v : v;
    case LISSOM_HARD_SWISH:
      return v * std::min(std::max(v / 6 + 0.5, 0.0), 1.0);
    case LISSOM_SILU:
      return v / (1 + std::exp(-v));
    case LISSOM_THRESHOLDED_RELU:
      return v > a ? v : 0.0;
    case LISSOM_SHRINK:
      return std::fabs(v) > a ? v : 0.0;
    default:
      return v;
  }
}

std::vector<lissom_epilogue> epilogues() {
  return {{LISSOM_NONE, 0, 0},
          {LISSOM_RELU, 0, 0},
          {LISSOM_CLIP, -1.5f, 2.5f},
          {LISSOM_LEAKY_RELU, 0.25f, 0},
          {LISSOM_HARD_SWISH, 0, 0},
          {LISSOM_SILU, 0, 0},
          {LISSOM_THRESHOLDED_RELU, 0.25f, 0},
          {LISSOM_SHRINK, 0.25f, 0}};
}

std::vector<float> arguments() {
  std::vector<float> all{0.0f, -0.0f, 0.25f, -0.25f, 1.5f, -1.5f, 2.5f, 3.0f, -3.0f};
  for (int i = 1; i <= 200; ++i) {
    const auto v = static_cast<float>(i);
    all.insert(all.end(), {v * 0.43f, v * -0.43f, v * 0.0151f, v * -0.0151f, std::ldexp(1.0f, -i / 2)});
  }
  return all;
}

void require_activated(const float* actual, const lissom_epilogue& epilogue, const std::string& what) {
  constexpr double kEps = 1.0 / (1 << 23), kTiny = std::numeric_limits<float>::denorm_min();
  const std::vector<float> x = arguments();
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double v = static_cast<double>(x[i]), expected = activate(epilogue, v);
    double bound = 0.0;
    if (epilogue.activation == LISSOM_SILU) bound = 4 * kEps * std::fabs(expected) + kTiny;
    if (epilogue.activation == LISSOM_HARD_SWISH) bound = kEps * (2 * std::fabs(expected) + std::fabs(v)) + kTiny;
    if (!(std::fabs(static_cast<double>(actual[i]) - expected) <= bound)) {
      fail(what + show("activation", epilogue.activation) + "of " + std::to_string(v) + ": expected " +
           std::to_string(expected) + " within " + std::to_string(bound / kEps) + " eps, but got " +
           std::to_string(actual[i]));
    }
  }
}
