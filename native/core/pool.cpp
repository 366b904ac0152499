#include "core/pool.hpp"

#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>
#endif

namespace befit {
namespace {

// Longer than the others usually need to arrive. A thread that is not here by then has lost its core to another process:
// sleeping lets it have ours.
constexpr int kSpins = 1000;
// Awake for the next step, which a busy engine starts within microseconds.
constexpr int kIdleSpins = 1000;

void relax() {
#if defined(__x86_64__) || defined(__i386__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace

ThreadPool::ThreadPool(int threads) : threads_(threads < 1 ? 1 : threads) {
  for (int t = 1; t < threads_; t++) workers_.emplace_back([this, t] { work(t); });
}

ThreadPool::~ThreadPool() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
    epoch_.fetch_add(1, std::memory_order_release);
  }
  wake_.notify_all();
  for (std::thread& t : workers_) t.join();
}

void ThreadPool::run(const std::function<void(int)>& f) {
  if (threads_ == 1) return f(0);
  {
    std::lock_guard lock(mutex_);
    job_ = &f;
    epoch_.fetch_add(1, std::memory_order_release);
  }
  wake_.notify_all();
  f(0);
  barrier();  // nobody is inside f any more
}

void ThreadPool::work(int thread) {
  for (uint64_t seen = 0;;) {
    for (int i = 0; i < kIdleSpins && epoch_.load(std::memory_order_acquire) == seen; i++) relax();
    if (epoch_.load(std::memory_order_acquire) == seen) {
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [&] { return epoch_.load(std::memory_order_acquire) != seen; });
    }
    if (stop_) return;
    seen++;
    (*job_)(thread);
    barrier();
  }
}

void ThreadPool::barrier() {
  if (threads_ == 1) return;
  const int phase = phase_.load(std::memory_order_acquire);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) == threads_ - 1) {
    arrived_.store(0, std::memory_order_relaxed);
    // notify_all makes a system call only when it sees somebody sleep. So that it cannot look before the store is seen, and miss
    // one who falls asleep over the old value and is never woken, the store is in the single order of all such operations.
    phase_.store(phase + 1, std::memory_order_seq_cst);
    phase_.notify_all();
    return;
  }
  for (int i = 0; i < kSpins; i++) {
    if (phase_.load(std::memory_order_acquire) != phase) return;
    relax();
  }
  while (phase_.load(std::memory_order_acquire) == phase) phase_.wait(phase, std::memory_order_acquire);
}

}  // namespace befit
