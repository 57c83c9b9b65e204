// The blocks of a launch: where they wait for each other, and what becomes of the launch.

#pragma once

#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <string>

namespace cuda_on_host {

// A launch that cannot go on. An empty message: another block says why.
struct Failure {
  std::string message;
};

class Grid {
 public:
  Grid(unsigned blocks, bool cooperative) : blocks_(blocks), cooperative_(cooperative) {}

  bool cooperative() const { return cooperative_; }

  // Of one block, all of whose threads have arrived.
  void wait(const std::string& who) {
    std::unique_lock lock(mutex_);
    who_waits_ = who;
    ++waiting_;
    if (waiting_ == blocks_) {
      waiting_ = 0;
      ++meetings_;
      changed_.notify_all();
      return;
    }
    check_for_missing_blocks();
    const auto meeting = meetings_;
    changed_.wait(lock, [&] { return meetings_ != meeting || failed_; });
    if (meetings_ == meeting) throw Failure{};
  }
  void finish() {
    const std::lock_guard lock(mutex_);
    ++finished_;
    check_for_missing_blocks();
  }
  void fail(const std::string& message) {
    const std::lock_guard lock(mutex_);
    fail_locked(message);
  }
  bool failed() {
    const std::lock_guard lock(mutex_);
    return failed_;
  }
  const std::string& message() const { return message_; }

 private:
  void fail_locked(const std::string& message) {
    failed_ = true;
    if (message_.empty()) message_ = message;
    changed_.notify_all();
  }
  void check_for_missing_blocks() {
    if (waiting_ > 0 && finished_ > 0 && waiting_ + finished_ == blocks_) {
      fail_locked(who_waits_ + ", but " + std::to_string(finished_) + " of " + std::to_string(blocks_) +
                  " blocks have ended without");
    }
  }

  const unsigned blocks_;
  const bool cooperative_;
  std::mutex mutex_;
  std::condition_variable changed_;
  unsigned waiting_ = 0, finished_ = 0;
  std::uint64_t meetings_ = 0;
  std::string who_waits_;
  bool failed_ = false;
  std::string message_;
};

}  // namespace cuda_on_host
