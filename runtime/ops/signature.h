/* The names of all operators, as lissom_runtime/contract.py makes them, and what a name says about the inputs. */
#ifndef LISSOM_OPS_SIGNATURE_H_
#define LISSOM_OPS_SIGNATURE_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "../kernels/abi.h"

namespace lissom {

constexpr const char* kDomain = "ai.lissom";
constexpr int kVersion = 1; /* of the domain */

enum class Kind { conv, gemm };

/* Inputs that every operator has, by index. */
enum Input : size_t { kX, kShape, kRowPtr, kColumns, kValues, kBias, kFixedInputs };

struct Signature {
  Kind kind;
  int32_t columns;     /* lissom_columns */
  int32_t orientation; /* lissom_orientation */
  bool residual;
  int32_t activation; /* lissom_activation */
  std::string name;

  static constexpr size_t residual_index = kFixedInputs; /* if there is one */
  bool limited() const;                                  /* has the inputs min and max */
  bool has_alpha() const;
  size_t min_index() const { return kFixedInputs + (residual ? 1 : 0); } /* max follows */
  size_t input_count() const { return min_index() + (limited() ? 2 : 0); }
  int input_type(size_t index) const; /* OrtElementType */
};

/* Every operator, in the order of the contract. */
const std::vector<Signature>& signatures();

}  // namespace lissom

/* The names of all operators; `count` is set to how many. */
LISSOM_EXPORT const char* const* lissom_operator_names(int64_t* count);

#endif
