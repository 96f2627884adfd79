// What the tests of data parallelism share: several ranks in one process, each a thread.
#pragma once
#include <exception>
#include <functional>
#include <thread>
#include <vector>

#include "nn/parallel/communicator.h"
#include "support.h"

namespace test {

inline int free_port() { return rw::net::listen_on(rw::net::resolve("127.0.0.1"), 0).port; }

inline rw::World world(int rank, int size, int port) {
  rw::World w;
  w.rank = rank, w.size = size, w.port = port;
  return w;
}

/// Runs f(comm) as every rank of `size`, closes, and rethrows what the lowest rank that failed threw.
inline void run_ranks(int size, const std::function<void(rw::Communicator&)>& f, rw::MeshOptions options = {}) {
  const int port = free_port();
  std::vector<std::exception_ptr> errors(static_cast<size_t>(size));
  std::vector<std::thread> threads;
  for (int r = 0; r < size; ++r) {
    threads.emplace_back([&, r] {
      try {
        rw::Communicator comm(world(r, size, port), options);
        f(comm);
        comm.close();
      } catch (...) {
        errors[static_cast<size_t>(r)] = std::current_exception();
      }
    });
  }
  for (std::thread& t : threads) t.join();
  for (const std::exception_ptr& e : errors) {
    if (e) std::rethrow_exception(e);
  }
}

}  // namespace test
