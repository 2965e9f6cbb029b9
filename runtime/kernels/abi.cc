#include "abi.h"

LISSOM_EXPORT int32_t lissom_abi_version(void) { return LISSOM_ABI_VERSION; }
