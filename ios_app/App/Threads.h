#include <stdbool.h>
#include <stdint.h>

/// Gives ExecuTorch's pool a number of threads; false where it cannot have it. No inference may be running.
#ifdef __cplusplus
extern "C"
#endif
bool setExecuTorchThreads(uint32_t threads);
