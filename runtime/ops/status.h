/* Errors: exceptions within the operators, statuses towards ONNX Runtime. No exception crosses the C interface. */
#ifndef LISSOM_OPS_STATUS_H_
#define LISSOM_OPS_STATUS_H_

#include <exception>
#include <new>
#include <stdexcept>
#include <string>

#include "ort_abi.h"

namespace lissom {

/* A sentence for the user: what was expected, what came. */
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/* Throws what an ONNX Runtime function answered, if it is an error. */
inline void require(const OrtApi* api, OrtStatus* status) {
  if (!status) return;
  std::string message;
  try {
    message = api->GetErrorMessage(status);
  } catch (...) {
    api->ReleaseStatus(status);
    throw;
  }
  api->ReleaseStatus(status);
  throw Error(message);
}

/* Whether an ONNX Runtime function succeeded, where an error is an answer too. */
inline bool succeeded(const OrtApi* api, OrtStatus* status) {
  if (!status) return true;
  api->ReleaseStatus(status);
  return false;
}

/* Runs `body` and turns what it throws into a status. */
template <typename Body>
OrtStatus* guarded(const OrtApi* api, const Body& body) noexcept {
  try {
    body();
    return nullptr;
  } catch (const Error& error) {
    return api->CreateStatus(ORT_INVALID_ARGUMENT, error.what());
  } catch (const std::bad_alloc&) {
    return api->CreateStatus(ORT_FAIL, "expected enough memory for a sparse operator, but got none");
  } catch (const std::exception& error) {
    return api->CreateStatus(ORT_FAIL, error.what());
  } catch (...) {
    return api->CreateStatus(ORT_FAIL, "expected a sparse operator to succeed, but got an unknown error");
  }
}

}  // namespace lissom

#endif
