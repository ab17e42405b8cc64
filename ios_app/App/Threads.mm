#include "Threads.h"

// ExecuTorch's frameworks have no header of the pool. This declares what is called of
// `executorch/extension/threadpool/threadpool.h` (1.4.1), so that it links to the same names.
namespace executorch::extension::threadpool {
class ThreadPool final {
 public:
  bool _unsafe_reset_threadpool(uint32_t num_threads);
};

ThreadPool* get_threadpool();
}  // namespace executorch::extension::threadpool

bool setExecuTorchThreads(uint32_t threads) {
  auto* pool = executorch::extension::threadpool::get_threadpool();
  return pool != nullptr && pool->_unsafe_reset_threadpool(threads);
}
