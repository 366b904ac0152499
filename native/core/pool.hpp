// A persistent pool of threads that run one function together, with barriers inside.
//
// The caller is thread 0. Workers sleep between steps; at barriers inside a step they spin for a bounded time and then
// sleep, so that a server on the same cores keeps its share.
#pragma once
#include <atomic>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace befit {

class ThreadPool {
 public:
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const { return threads_; }
  // Runs f(thread) on every thread and returns when all are done. Not reentrant; f must not throw.
  void run(const std::function<void(int)>& f);
  // Called by all threads inside run().
  void barrier();

 private:
  void work(int thread);

  int threads_;
  std::vector<std::thread> workers_;
  std::mutex mutex_;
  std::condition_variable wake_;
  const std::function<void(int)>* job_ = nullptr;
  std::atomic<uint64_t> epoch_{0};
  bool stop_ = false;
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<int> phase_{0};  // int: what the futex behind wait() takes
};

}  // namespace befit
