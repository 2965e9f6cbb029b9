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

enum class Kind { conv, gemm, chain, mask };

/* What a layer is to its operator: the whole of it, or a link of a chain. All but `depthwise` are sparse. */
enum class Role { whole, expand, depthwise, spatial, project };

/* The input that every operator begins with; those of its stages follow. */
constexpr size_t kX = 0;

/* The inputs of a WinnerMask besides x. */
enum MaskInput : size_t { kRate = 1, kStride = 2 };

/* The inputs of a sparse stage, counted from its first. A depthwise one has the weight, and then the bias. */
enum SparseInput : size_t { kShape, kRowPtr, kColumns, kValues };

/* One layer of an operator. Inputs are told by index; 0, which is x, stands for none. */
struct Stage {
  Role role;
  int32_t activation; /* lissom_activation */
  size_t first;       /* input of the stage */
  size_t bias;
  size_t residual;
  size_t min; /* of a clip; max follows */
};

struct Formal {
  std::string name; /* as in the contract */
  int type;         /* OrtElementType */
};

struct Signature {
  Kind kind;
  int32_t columns;     /* lissom_columns */
  int32_t orientation; /* lissom_orientation */
  std::string name;
  std::vector<Formal> inputs;
  std::vector<Stage> stages; /* at least one, in the order in which they run; none of a mask */

  const Stage& last() const { return stages.back(); } /* which alone may have a residual */
};

/* "expand", "depthwise", ... */
const char* name_of(Role role);

/* Every operator, in the order of the contract. */
const std::vector<Signature>& signatures();

}  // namespace lissom

/* The names of all operators; `count` is set to how many. */
LISSOM_EXPORT const char* const* lissom_operator_names(int64_t* count);

#endif
