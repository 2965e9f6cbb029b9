/* What a node gives to its kernel: attributes and constant inputs. Whatever is missing or misshapen is an Error. */
#ifndef LISSOM_OPS_INFO_H_
#define LISSOM_OPS_INFO_H_

#include <cstddef>
#include <cstdint>
#include <string>

#include "../kernels/sparse.h"
#include "signature.h"
#include "tensor.h"

namespace lissom {

class Info {
 public:
  Info(const OrtApi* api, const OrtKernelInfo* info, const Signature& signature)
      : api_(api), info_(info), signature_(signature) {}

  const Signature& signature() const { return signature_; }

  /* "name (operator)" of the node, for errors. */
  std::string node() const;

  /* An attribute of `count` integers, each in [least, 2^31). */
  void integers(const char* name, int64_t least, size_t count, int64_t* out) const;

  /* An attribute of one integer in [least, 2^31). */
  int64_t integer(const char* name, int64_t least) const;

  /* A constant input of `rank` axes, of the type that the signature says. Its elements live as long as the session. */
  Tensor constant(size_t index, size_t rank) const;

  /* The activation of a stage with its parameters. */
  lissom_epilogue epilogue(const Stage& stage) const;

 private:
  const OrtApi* api_;
  const OrtKernelInfo* info_;
  const Signature& signature_;
};

}  // namespace lissom

#endif
