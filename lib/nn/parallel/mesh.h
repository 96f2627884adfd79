// The ranks' connections: one TCP socket between every two of them for data, and one from each to rank 0 on which a
// thread watches that the others are alive.
//
// A rank is let in if it knows the run's secret (handshake.h). Strangers are heard beside the ranks and delay nobody.
//
// Why a mesh and not a ring: every rank sends its part directly to each other rank. The traffic is the same, with one
// hop instead of size - 1, and the receiver can add in the order of ranks.
#pragma once
#include <atomic>
#include <cstdint>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "nn/parallel/socket.h"
#include "nn/parallel/world.h"
#include "tensor/error.h"

namespace rw {

/// Another rank ended, failed or fell silent: this run cannot go on. The message is whole, without an "[op]" in front.
class RankLost : public Error {
 public:
  using Error::Error;
};

struct MeshOptions {
  double connect_seconds = 300;  // for all ranks to appear
  double silence_seconds = 20;   // after which a rank that sends no sign of life is lost
};

/// Thread safety: one thread makes calls; lost() and check_alive() may be asked from any.
class Mesh {
 public:
  /// Waits for all ranks. Rank 0 listens at the address that world.master names. The others listen at the address from
  /// which they reach it. If the name of rank 0's host means a loopback address to itself, it listens at all addresses.
  /// Errors: some did not appear in time (named, with who was refused), this rank was refused.
  explicit Mesh(World world, MeshOptions options = {});
  /// Without close(), the others are told that this rank failed.
  ~Mesh();
  Mesh(const Mesh&) = delete;
  Mesh& operator=(const Mesh&) = delete;

  /// With local_rank and local_size filled in.
  const World& world() const { return world_; }

  struct Send {
    int peer;
    const void* bytes;
    int64_t size;
  };
  struct Receive {
    int peer;
    void* bytes;
    int64_t size;
  };
  /// Does all of it, in whatever order the peers are ready; at most one of each kind for a peer. Errors: RankLost.
  void transfer(const std::vector<Send>& sends, const std::vector<Receive>& receives);

  /// Why the run cannot go on; "" while it can.
  std::string lost() const;
  /// Errors: RankLost.
  void check_alive() const;
  /// Calls f once, on the watching thread, when a rank is lost (at once if one already is).
  void on_lost(std::function<void(const std::string& why)> f);
  /// The end of a run that succeeded. Every rank must come here. Errors: RankLost.
  void close();

 private:
  struct Peer {
    net::Address address = 0;
    int port = 0;
    uint64_t host = 0;
    net::Socket data, watch;  // watch: on rank 0 to every other, elsewhere to rank 0 only
    bool said_bye = false;
    net::Clock::time_point heard;
    std::string partial;  // bytes of a message that is not whole yet
  };
  enum class Why : uint8_t { closed = 1, silent = 2, failed = 3 };
  void meet(net::Deadline deadline);
  void meet_as_root(net::Address at, const net::Listener& data, net::Deadline deadline);
  net::Listener meet_root(net::Address master, net::Deadline deadline);
  void connect_data(const net::Listener& data, net::Deadline deadline);
  void place_on_hosts();
  void watch();
  bool hear(int rank);
  void say(int rank, uint8_t kind, int about, uint8_t why);
  void lose(int rank, Why why);
  [[noreturn]] void broken(int rank);

  World world_;
  MeshOptions options_;
  std::vector<Peer> peers_;  // by rank
  std::thread watcher_;
  std::atomic<bool> stop_{false}, is_lost_{false};
  net::Socket wake_read_, wake_write_;  // a pipe that ends the watcher's wait
  mutable std::mutex mutex_;            // guards the two below, and sends on watch sockets
  std::string lost_;
  std::vector<std::function<void(const std::string&)>> listeners_;
};

}  // namespace rw
