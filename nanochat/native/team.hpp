// Threads that share the work of one model after another.

#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <mutex>
#include <thread>

namespace {

constexpr int UNITS_PER_THREAD = 3;  // into which work is divided, so that none waits long for the last

// Threads that share out the units of one job after another. Nobody waits for a thread to arrive, only for units that
// a thread has begun, so that on a busy machine the running threads do the work of those that are not.
class Team {
 public:
  const int threads;
  std::mutex busy;  // one model computes at a time

  explicit Team(int threads) : threads(threads) {
    for (int i = 1; i < threads; i++) std::thread([this] { help(); }).detach();
  }

  // Call job(begin, end) for ranges that make up all items, and return when all calls have returned.
  template <class Job>
  void run_ranges(uint64_t items, const Job& job) {
    const uint64_t units = std::min<uint64_t>(items, threads * UNITS_PER_THREAD);
    share(units, [&](uint64_t unit) { job(unit * items / units, (unit + 1) * items / units); });
  }

  // The same with job(item) for every item.
  template <class Job>
  void run(uint64_t items, const Job& job) {
    run_ranges(items, [&](uint64_t begin, uint64_t end) {
      for (uint64_t item = begin; item < end; item++) job(item);
    });
  }

  // Call range(unit) for every unit, of which there are fewer than 4096, and return when all calls have returned.
  template <class Range>
  void share(uint64_t units, const Range& range) {
    const uint64_t number = next_number();
    Slot& slot = slots[number % 2];
    slot.call = [](const void* job, uint64_t unit) { (*static_cast<const Range*>(job))(unit); };
    slot.job = &range;
    slot.ended.store(0, std::memory_order_relaxed);
    ticket.store(number << 2 * FIELD | units << FIELD, std::memory_order_release);
    ticket.notify_all();
    work();
    while (slot.ended.load(std::memory_order_acquire) < units) relax();
  }

  // Wake threads that sleep: the next job is about to come. An empty job does.
  void wake() {
    ticket.store(next_number() << 2 * FIELD, std::memory_order_release);
    ticket.notify_all();
  }

 private:
  // A ticket is (number of the job: 40 bits, its units: 12, the next unit: 12); taking a unit adds one.
  static constexpr int FIELD = 12;
  static constexpr uint64_t MASK = (1 << FIELD) - 1;
  static constexpr int SPINS = 2000;  // some forty microseconds; more would take the cores from others

  struct Slot {
    void (*call)(const void* job, uint64_t unit);
    const void* job;
    alignas(64) std::atomic<uint64_t> ended;
  };

  uint64_t next_number() const { return (ticket.load(std::memory_order_relaxed) >> 2 * FIELD) + 1; }

  // Do units of the present job until all have been taken.
  void work() {
    while (true) {
      uint64_t taken = ticket.load(std::memory_order_relaxed);
      if ((taken & MASK) >= (taken >> FIELD & MASK)) return;
      taken = ticket.fetch_add(1, std::memory_order_acq_rel);
      const uint64_t unit = taken & MASK;
      if (unit >= (taken >> FIELD & MASK)) return;
      Slot& slot = slots[(taken >> 2 * FIELD) % 2];  // kept until this unit has ended
      slot.call(slot.job, unit);
      slot.ended.fetch_add(1, std::memory_order_release);
    }
  }

  void help() {
    while (true) {
      work();
      const uint64_t seen = ticket.load(std::memory_order_relaxed);
      int spins = SPINS;
      while (spins && ticket.load(std::memory_order_relaxed) >> 2 * FIELD == seen >> 2 * FIELD) relax(), spins--;
      if (!spins) ticket.wait(seen);
    }
  }

  static void relax() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
  }

  alignas(64) std::atomic<uint64_t> ticket{0};
  alignas(64) Slot slots[2];
};

// The calling thread by itself, as a team.
struct Alone {
  static constexpr int threads = 1;

  template <class Job>
  void run_ranges(uint64_t items, const Job& job) const {
    job(0, items);
  }

  template <class Job>
  void run(uint64_t items, const Job& job) const {
    for (uint64_t item = 0; item < items; item++) job(item);
  }
};

}  // namespace
