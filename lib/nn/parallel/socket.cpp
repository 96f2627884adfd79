#include "nn/parallel/socket.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <thread>
#include <utility>

#include "tensor/error.h"

namespace rw::net {
namespace {

/// False at the deadline.
bool wait_for(int fd, short events, Deadline deadline) {
  for (;;) {
    pollfd p{fd, events, 0};
    const int n = ::poll(&p, 1, milliseconds_until(deadline));
    if (n > 0) return true;
    if (n == 0) return false;
    check(errno == EINTR, "parallel", "poll: ", std::strerror(errno));
  }
}

sockaddr_in endpoint(Address address, int port) {
  sockaddr_in to{};
  to.sin_family = AF_INET;
  to.sin_addr.s_addr = address;
  to.sin_port = htons(static_cast<uint16_t>(port));
  return to;
}

Socket new_socket() {
  Socket s(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  check(s.open(), "parallel", "socket: ", std::strerror(errno));
  return s;
}

void no_delay(const Socket& s) {  // small messages must not wait for more of them
  const int on = 1;
  ::setsockopt(s.fd(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

/// Begins to connect and waits for the outcome; false: nobody listens there, or nothing answers.
bool connect_within(const Socket& s, const sockaddr_in& to, Deadline deadline) {
  if (::connect(s.fd(), reinterpret_cast<const sockaddr*>(&to), sizeof to) == 0) return true;
  if (errno != EINPROGRESS && errno != EINTR) return false;
  int error = 0;
  socklen_t size = sizeof error;
  return wait_for(s.fd(), POLLOUT, deadline) && ::getsockopt(s.fd(), SOL_SOCKET, SO_ERROR, &error, &size) == 0 &&
         error == 0;
}

}  // namespace

int milliseconds_until(Deadline deadline) {
  const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now()).count();
  return static_cast<int>(std::clamp<int64_t>(left, 0, 3600'000));
}

Socket& Socket::operator=(Socket&& other) noexcept {
  std::swap(fd_, other.fd_);
  return *this;
}

void Socket::close() {
  if (fd_ >= 0) ::close(fd_);
  fd_ = -1;
}

void Socket::send_all(const void* bytes, int64_t size, Deadline deadline) const {
  const char* at = static_cast<const char*>(bytes);
  while (size > 0) {
    check(wait_for(fd_, POLLOUT, deadline), "parallel", "nobody takes what is sent");
    const ssize_t n = ::send(fd_, at, static_cast<size_t>(size), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) continue;
    check(n > 0, "parallel", "the connection was closed");
    at += n, size -= n;
  }
}

void Socket::receive_all(void* bytes, int64_t size, Deadline deadline) const {
  char* at = static_cast<char*>(bytes);
  while (size > 0) {
    check(wait_for(fd_, POLLIN, deadline), "parallel", "no answer");
    const ssize_t n = ::recv(fd_, at, static_cast<size_t>(size), MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) continue;
    check(n > 0, "parallel", "the connection was closed");
    at += n, size -= n;
  }
}

std::string to_text(Address address) {
  char text[INET_ADDRSTRLEN] = "?";
  const in_addr a{address};
  ::inet_ntop(AF_INET, &a, text, sizeof text);
  return text;
}

bool is_loopback(Address address) { return (ntohl(address) >> 24) == 127; }
bool names_loopback(const std::string& host) {
  in_addr address{};
  return host == "localhost" || (::inet_pton(AF_INET, host.c_str(), &address) == 1 && is_loopback(address.s_addr));
}

Address resolve(const std::string& host) {
  addrinfo hints{}, *found = nullptr;
  hints.ai_family = AF_INET;
  hints.ai_socktype = SOCK_STREAM;
  const int status = ::getaddrinfo(host.c_str(), nullptr, &hints, &found);
  check(status == 0 && found != nullptr, "parallel", "the host of rank 0, '", host, "': ", ::gai_strerror(status));
  const Address address = reinterpret_cast<const sockaddr_in*>(found->ai_addr)->sin_addr.s_addr;
  ::freeaddrinfo(found);
  return address;
}

Address peer_of(const Socket& socket) {
  sockaddr_in from{};
  socklen_t size = sizeof from;
  check(::getpeername(socket.fd(), reinterpret_cast<sockaddr*>(&from), &size) == 0, "parallel",
        "getpeername: ", std::strerror(errno));
  return from.sin_addr.s_addr;
}

Address own_of(const Socket& socket) {
  sockaddr_in own{};
  socklen_t size = sizeof own;
  check(::getsockname(socket.fd(), reinterpret_cast<sockaddr*>(&own), &size) == 0, "parallel",
        "getsockname: ", std::strerror(errno));
  return own.sin_addr.s_addr;
}

Listener listen_on(Address address, int port) {
  Listener l{new_socket(), port};
  const int on = 1;
  ::setsockopt(l.socket.fd(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  sockaddr_in at = endpoint(address, port);
  const auto bound = [&] { return ::bind(l.socket.fd(), reinterpret_cast<const sockaddr*>(&at), sizeof at) == 0; };
  bool ready = bound();
  if (!ready && errno == EADDRNOTAVAIL) {
    at = endpoint(htonl(INADDR_ANY), port);
    ready = bound();
  }
  check(ready && ::listen(l.socket.fd(), SOMAXCONN) == 0, "parallel", "cannot listen on port ", port, ": ",
        std::strerror(errno), "; another run of this host may use it (MASTER_PORT or ROPEWALK_PORT names one)");
  socklen_t size = sizeof at;
  ::getsockname(l.socket.fd(), reinterpret_cast<sockaddr*>(&at), &size);
  l.port = ntohs(at.sin_port);
  return l;
}

Socket accept_now(const Listener& listener) {
  for (;;) {
    Socket s(::accept4(listener.socket.fd(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (s.open()) no_delay(s);
    if (s.open() || (errno != EINTR && errno != ECONNABORTED)) return s;
  }
}

Socket connect_to(Address address, int port, Deadline deadline) {
  const sockaddr_in to = endpoint(address, port);
  while (Clock::now() < deadline) {
    Socket s = new_socket();
    if (connect_within(s, to, std::min(deadline, in_seconds(10)))) {
      no_delay(s);
      return s;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
  return {};
}

}  // namespace rw::net
