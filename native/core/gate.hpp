// Holds threads back until something that is prepared beside them is ready.
#pragma once
#include <atomic>

namespace befit {

class Gate {
 public:
  void open() {
    open_.store(true, std::memory_order_seq_cst);  // before notify_all looks for sleepers: see ThreadPool::barrier
    open_.notify_all();
  }
  void wait() const { open_.wait(false, std::memory_order_acquire); }

 private:
  std::atomic<bool> open_{false};
};

}  // namespace befit
