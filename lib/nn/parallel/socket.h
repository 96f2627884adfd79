// TCP over IPv4 as the mesh needs it: handles, deadlines, nothing else. Internal to nn/parallel.
#pragma once
#include <chrono>
#include <cstdint>
#include <string>

namespace rw::net {

using Clock = std::chrono::steady_clock;
using Deadline = Clock::time_point;
inline Deadline in_seconds(double s) {
  return Clock::now() + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(s));
}

/// Owns a file descriptor. Thread safety: one thread reads and one writes, at most.
class Socket {
 public:
  Socket() = default;
  explicit Socket(int fd) : fd_(fd) {}
  Socket(Socket&& other) noexcept : fd_(other.fd_) { other.fd_ = -1; }
  Socket& operator=(Socket&& other) noexcept;
  ~Socket() { close(); }

  int fd() const { return fd_; }
  bool open() const { return fd_ >= 0; }
  void close();

  /// All of it or an error. Errors: the deadline, the other end closed.
  void send_all(const void* bytes, int64_t size, Deadline deadline) const;
  void receive_all(void* bytes, int64_t size, Deadline deadline) const;

 private:
  int fd_ = -1;
};

/// An IPv4 address, in network byte order; 0: none.
using Address = uint32_t;
std::string to_text(Address address);
bool is_loopback(Address address);  // 127.x.x.x
/// "localhost" or a loopback address in digits: the run stays on this host, and nobody else may connect. A host's own
/// name may be a loopback address on that host, and still a real one elsewhere.
bool names_loopback(const std::string& host);
/// Errors: the name has no IPv4 address.
Address resolve(const std::string& host);
/// Of the other end.
Address peer_of(const Socket& socket);
/// Of this end.
Address own_of(const Socket& socket);
/// For poll(): at least 0.
int milliseconds_until(Deadline deadline);

struct Listener {
  Socket socket;
  int port = 0;
};
/// Listens at one address of this host, or at all of them: 0, or an address that is not this host's own (one that a
/// router translates). Port 0: any free one. Errors: the port is taken.
Listener listen_on(Address address, int port);
/// A connection that waits to be accepted; a closed Socket, and errno, if there is none.
Socket accept_now(const Listener& listener);
/// Tries again until somebody listens there. A closed Socket at the deadline.
Socket connect_to(Address address, int port, Deadline deadline);

}  // namespace rw::net
