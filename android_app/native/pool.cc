// The thread pool that XNNPACK calls. ExecuTorch's wheel leaves it to PyTorch's library, hundreds of megabytes that a
// phone needs for nothing else, so here is one of our own with the same interface (torch's header `pthreadpool.h`).
// With one thread it is a plain loop on the caller, as PyTorch's is; with more, each thread has an equal part of the
// tiles and helps the others when its own are done.

#include <cpuinfo.h>
#include <pthreadpool.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <memory>
#include <mutex>
#include <thread>
#include <tuple>
#include <vector>

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace {

constexpr int kSpins = 20000;  // looks at the next job before a thread sleeps: some tens of microseconds

void relax() {
#if defined(__x86_64__)
  _mm_pause();
#else
  asm volatile("yield");
#endif
}

// Numbers too small for full precision count as zero while a job runs, where XNNPACK asks for that.
class Denormals {
 public:
  explicit Denormals(uint32_t flags) : off_((flags & PTHREADPOOL_FLAG_DISABLE_DENORMALS) != 0), before_(get()) {
    if (off_) set(before_ | kFlush);
  }
  ~Denormals() {
    if (off_) set(before_);
  }
  Denormals(const Denormals&) = delete;
  Denormals& operator=(const Denormals&) = delete;

 private:
#if defined(__x86_64__)
  static constexpr uint64_t kFlush = 0x8040;
  static uint64_t get() { return _mm_getcsr(); }
  static void set(uint64_t value) { _mm_setcsr(static_cast<unsigned>(value)); }
#else
  static constexpr uint64_t kFlush = (1 << 24) | (1 << 19);
  static uint64_t get() {
    uint64_t value;
    asm volatile("mrs %0, fpcr" : "=r"(value));
    return value;
  }
  static void set(uint64_t value) { asm volatile("msr fpcr, %0" ::"r"(value)); }
#endif
  bool off_;
  uint64_t before_;
};

// Something that does the tiles from `begin` to `end` as thread number `thread`.
struct Job {
  void (*work)(const void* what, size_t thread, size_t begin, size_t end);
  const void* what;
  uint32_t flags;
};

// One thread's tiles: its owner takes the first, the others the last.
struct alignas(64) Part {
  std::atomic<size_t> left{0};
  size_t first = 0;
  std::atomic<size_t> end{0};

  bool take() {
    size_t count = left.load(std::memory_order_relaxed);
    while (count > 0) {
      if (left.compare_exchange_weak(count, count - 1, std::memory_order_relaxed)) return true;
    }
    return false;
  }
};

}  // namespace

struct pthreadpool {
 public:
  explicit pthreadpool(size_t threads) : parts_(threads) {
    for (size_t i = 1; i < threads; ++i) workers_.emplace_back([this, i] { serve(i); });
  }

  ~pthreadpool() {
    stop_ = true;
    announce();
    for (auto& worker : workers_) worker.join();
  }

  size_t threads() const { return parts_.size(); }

  void run(const Job& job, size_t tiles) {
    const std::lock_guard<std::mutex> lock(one_job_at_a_time_);
    job_ = job;
    const size_t count = threads();
    for (size_t i = 0; i < count; ++i) {
      const size_t begin = tiles * i / count;
      const size_t end = tiles * (i + 1) / count;
      parts_[i].first = begin;
      parts_[i].end.store(end, std::memory_order_relaxed);
      parts_[i].left.store(end - begin, std::memory_order_relaxed);
    }
    busy_.store(count - 1, std::memory_order_relaxed);
    announce();
    work(0);
    for (int spin = 0; busy_.load(std::memory_order_acquire) > 0; ++spin) {
      if (spin < kSpins) {
        relax();
      } else if (const size_t busy = busy_.load(std::memory_order_acquire); busy > 0) {
        busy_.wait(busy);
      }
    }
  }

 private:
  void announce() {
    generation_.fetch_add(1, std::memory_order_release);
    generation_.notify_all();
  }

  void serve(size_t thread) {
    uint32_t seen = 0;
    while (true) {
      for (int spin = 0; generation_.load(std::memory_order_acquire) == seen; ++spin) {
        if (spin < kSpins) {
          relax();
        } else {
          generation_.wait(seen, std::memory_order_acquire);
        }
      }
      ++seen;  // a new job comes only when all have done the last
      if (stop_) return;
      work(thread);
      if (busy_.fetch_sub(1, std::memory_order_acq_rel) == 1) busy_.notify_one();
    }
  }

  void work(size_t thread) {
    const Denormals denormals(job_.flags);
    Part& own = parts_[thread];
    for (size_t tile = own.first; own.take(); ++tile) job_.work(job_.what, thread, tile, tile + 1);
    for (size_t i = 1; i < threads(); ++i) {
      Part& other = parts_[(thread + i) % threads()];
      while (other.take()) {
        const size_t tile = other.end.fetch_sub(1, std::memory_order_relaxed) - 1;
        job_.work(job_.what, thread, tile, tile + 1);
      }
    }
  }

  std::vector<Part> parts_;
  std::vector<std::thread> workers_;
  std::mutex one_job_at_a_time_;
  Job job_{};
  std::atomic<uint32_t> generation_{0};
  std::atomic<size_t> busy_{0};
  std::atomic<bool> stop_{false};
};

namespace {

// A grid of N dimensions, the last K of them in tiles. A task gets the place of a tile, and the tile's K sizes.
template <size_t N, size_t K>
struct Grid {
  std::array<size_t, N> range;
  std::array<size_t, K> tile;

  size_t step(size_t d) const { return d < N - K ? 1 : tile[d - (N - K)]; }
  size_t steps(size_t d) const { return (range[d] + step(d) - 1) / step(d); }
  size_t tiles() const {
    size_t count = 1;
    for (size_t d = 0; d < N; ++d) count *= steps(d);
    return count;
  }
};

template <size_t N, size_t K, class Call>
void walk(const Grid<N, K>& grid, size_t begin, size_t end, const Call& call) {
  std::array<size_t, N> place;
  size_t rest = begin;
  for (size_t d = N; d-- > 0;) {
    place[d] = rest % grid.steps(d) * grid.step(d);
    rest /= grid.steps(d);
  }
  for (size_t i = begin; i < end; ++i) {
    std::array<size_t, K> sizes;
    for (size_t k = 0; k < K; ++k) {
      const size_t d = N - K + k;
      sizes[k] = std::min(grid.tile[k], grid.range[d] - place[d]);
    }
    call(place, sizes);
    for (size_t d = N; d-- > 0;) {
      place[d] += grid.step(d);
      if (place[d] < grid.range[d]) break;
      place[d] = 0;
    }
  }
}

// Do a grid, with `call(thread, place, sizes)` for each tile; a dynamic task takes tiles of any size.
template <size_t N, size_t K, class Call>
void parallelize(pthreadpool_t pool, Grid<N, K> grid, bool dynamic, uint32_t flags, const Call& call) {
  for (const size_t range : grid.range) {
    if (range == 0) return;
  }
  const bool alone = pool == nullptr || pool->threads() <= 1 || grid.tiles() <= 1;
  if (alone) {
    if (dynamic) {
      for (size_t k = 0; k < K; ++k) grid.tile[k] = grid.range[N - K + k];
    }
    const Denormals denormals(flags);
    walk(grid, 0, grid.tiles(), [&](const auto& place, const auto& sizes) { call(size_t{0}, place, sizes); });
    return;
  }
  const auto context = std::tie(grid, call);
  using Context = decltype(context);
  const auto work = [](const void* what, size_t thread, size_t begin, size_t end) {
    const auto& [grid, call] = *static_cast<const std::remove_reference_t<Context>*>(what);
    walk(grid, begin, end, [&](const auto& place, const auto& sizes) { call(thread, place, sizes); });
  };
  pool->run({work, &context, flags}, grid.tiles());
}

// Which kernel of several suits the core that the caller runs on; all threads of a job use the same.
uint32_t kind_here([[maybe_unused]] uint32_t otherwise, [[maybe_unused]] uint32_t most) {
#if defined(__aarch64__)
  const uint32_t kind = cpuinfo_get_current_uarch_index_with_default(otherwise);
  if (kind <= most) return kind;
#endif
  return otherwise;
}

template <class... Values>
auto words(const Values&... values) {
  return std::tuple_cat(values...);
}

}  // namespace

extern "C" {

pthreadpool_t pthreadpool_create(size_t threads) {
  if (threads == 0) threads = std::max(1u, std::thread::hardware_concurrency());
  return new pthreadpool(threads);
}

// Threads that someone else lends are not used: nothing in the wheel lends any.
pthreadpool_t pthreadpool_create_v2(pthreadpool_executor*, void*, size_t threads) { return pthreadpool_create(threads); }
bool pthreadpool_update_executor(pthreadpool_t, pthreadpool_executor*, void*) { return false; }
void pthreadpool_release_executor_threads(pthreadpool_t) {}

size_t pthreadpool_get_threads_count(pthreadpool_t pool) { return pool == nullptr ? 1 : pool->threads(); }
void pthreadpool_destroy(pthreadpool_t pool) { delete pool; }

#define RANGES_1 size_t r0
#define RANGES_2 RANGES_1, size_t r1
#define RANGES_3 RANGES_2, size_t r2
#define RANGES_4 RANGES_3, size_t r3
#define RANGES_5 RANGES_4, size_t r4
#define RANGES_6 RANGES_5, size_t r5
#define SIZES_1 {r0}
#define SIZES_2 {r0, r1}
#define SIZES_3 {r0, r1, r2}
#define SIZES_4 {r0, r1, r2, r3}
#define SIZES_5 {r0, r1, r2, r3, r4}
#define SIZES_6 {r0, r1, r2, r3, r4, r5}
#define TILES_0
#define TILES_1 , size_t t0
#define TILES_2 , size_t t0, size_t t1
#define STEPS_0 {}
#define STEPS_1 {t0}
#define STEPS_2 {t0, t1}

#define NO_KINDS
#define KINDS uint32_t otherwise, uint32_t most,
#define NO_KIND
#define THIS_KIND const uint32_t kind = kind_here(otherwise, most);

#define DEFINE(NAME, TASK, N, K, DYNAMIC, KINDS, KIND, FIRST)                                                    \
  void pthreadpool_parallelize_##NAME(pthreadpool_t pool, pthreadpool_task_##TASK##_t task, void* context, KINDS \
                                      RANGES_##N TILES_##K, uint32_t flags) {                                    \
    KIND const Grid<N, K> grid{SIZES_##N, STEPS_##K};                                                            \
    parallelize(pool, grid, DYNAMIC, flags, [=]([[maybe_unused]] size_t thread, auto place, auto sizes) {        \
      std::apply(task, words(FIRST, place, sizes));                                                              \
    });                                                                                                          \
  }

#define TASK(NAME, N, K) DEFINE(NAME, NAME, N, K, false, NO_KINDS, NO_KIND, std::tuple(context))
#define THREAD(NAME, TYPE, N, K) DEFINE(NAME, TYPE, N, K, false, NO_KINDS, NO_KIND, std::tuple(context, thread))
#define KIND(NAME, TYPE, N, K) DEFINE(NAME, TYPE, N, K, false, KINDS, THIS_KIND, std::tuple(context, kind))
#define KIND_THREAD(NAME, TYPE, N, K) DEFINE(NAME, TYPE, N, K, false, KINDS, THIS_KIND, std::tuple(context, kind, thread))
#define DYNAMIC(NAME, N, K) DEFINE(NAME, NAME, N, K, true, NO_KINDS, NO_KIND, std::tuple(context))
#define DYNAMIC_THREAD(NAME, TYPE, N, K) \
  DEFINE(NAME, TYPE, N, K, true, NO_KINDS, NO_KIND, std::tuple(context, static_cast<uint32_t>(thread)))
#define DYNAMIC_KIND(NAME, TYPE, N, K) DEFINE(NAME, TYPE, N, K, true, KINDS, THIS_KIND, std::tuple(context, kind))
#define DYNAMIC_KIND_THREAD(NAME, TYPE, N, K) \
  DEFINE(NAME, TYPE, N, K, true, KINDS, THIS_KIND, std::tuple(context, kind, thread))

TASK(1d, 1, 0)
TASK(1d_tile_1d, 1, 1)
TASK(2d, 2, 0)
TASK(2d_tile_1d, 2, 1)
TASK(2d_tile_2d, 2, 2)
TASK(3d, 3, 0)
TASK(3d_tile_1d, 3, 1)
TASK(3d_tile_2d, 3, 2)
TASK(4d, 4, 0)
TASK(4d_tile_1d, 4, 1)
TASK(4d_tile_2d, 4, 2)
TASK(5d, 5, 0)
TASK(5d_tile_1d, 5, 1)
TASK(5d_tile_2d, 5, 2)
TASK(6d, 6, 0)
TASK(6d_tile_1d, 6, 1)
TASK(6d_tile_2d, 6, 2)

THREAD(1d_with_thread, 1d_with_thread, 1, 0)
THREAD(2d_with_thread, 2d_with_thread, 2, 0)
THREAD(3d_tile_1d_with_thread, 3d_tile_1d_with_thread, 3, 1)

KIND(1d_with_uarch, 1d_with_id, 1, 0)
KIND(2d_tile_1d_with_uarch, 2d_tile_1d_with_id, 2, 1)
KIND(2d_tile_2d_with_uarch, 2d_tile_2d_with_id, 2, 2)
KIND(3d_tile_1d_with_uarch, 3d_tile_1d_with_id, 3, 1)
KIND(3d_tile_2d_with_uarch, 3d_tile_2d_with_id, 3, 2)
KIND(4d_tile_2d_with_uarch, 4d_tile_2d_with_id, 4, 2)
KIND_THREAD(2d_tile_1d_with_uarch_with_thread, 2d_tile_1d_with_id_with_thread, 2, 1)
KIND_THREAD(3d_tile_1d_with_uarch_with_thread, 3d_tile_1d_with_id_with_thread, 3, 1)

DYNAMIC(1d_tile_1d_dynamic, 1, 1)
DYNAMIC(2d_tile_1d_dynamic, 2, 1)
DYNAMIC(2d_tile_2d_dynamic, 2, 2)
DYNAMIC(3d_tile_1d_dynamic, 3, 1)
DYNAMIC(3d_tile_2d_dynamic, 3, 2)
DYNAMIC(4d_tile_2d_dynamic, 4, 2)
DYNAMIC_THREAD(1d_tile_1d_dynamic_with_thread, 1d_tile_1d_dynamic_with_id, 1, 1)
DYNAMIC_THREAD(2d_tile_1d_dynamic_with_thread, 2d_tile_1d_dynamic_with_id, 2, 1)
DYNAMIC_THREAD(2d_tile_2d_dynamic_with_thread, 2d_tile_2d_dynamic_with_id, 2, 2)
DYNAMIC_THREAD(3d_tile_1d_dynamic_with_thread, 3d_tile_1d_dynamic_with_id, 3, 1)
DYNAMIC_THREAD(3d_tile_2d_dynamic_with_thread, 3d_tile_2d_dynamic_with_id, 3, 2)
DYNAMIC_KIND(2d_tile_2d_dynamic_with_uarch, 2d_tile_2d_dynamic_with_id, 2, 2)
DYNAMIC_KIND(3d_tile_2d_dynamic_with_uarch, 3d_tile_2d_dynamic_with_id, 3, 2)
DYNAMIC_KIND(4d_tile_2d_dynamic_with_uarch, 4d_tile_2d_dynamic_with_id, 4, 2)
DYNAMIC_KIND_THREAD(1d_tile_1d_dynamic_with_uarch_with_thread, 1d_tile_1d_dynamic_with_id_with_thread, 1, 1)
DYNAMIC_KIND_THREAD(2d_tile_1d_dynamic_with_uarch_with_thread, 2d_tile_1d_dynamic_with_id_with_thread, 2, 1)
DYNAMIC_KIND_THREAD(3d_tile_1d_dynamic_with_uarch_with_thread, 3d_tile_1d_dynamic_with_id_with_thread, 3, 1)

}  // extern "C"
