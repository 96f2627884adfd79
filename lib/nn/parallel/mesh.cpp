#include "nn/parallel/mesh.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>

#include "tensor/hash.h"

namespace rw {
namespace {

using net::Clock;

constexpr char kMagic[8] = {'r', 'o', 'p', 'e', 'm', 's', 'h', '1'};
constexpr double kHelloSeconds = 5;  // for a connection to say who it is

struct Hello {  // what a rank says first on any connection
  char magic[8];
  int32_t rank, size;
  uint64_t host;
  int32_t port, reserved;
};
struct Entry {  // of the table that rank 0 sends to all
  uint64_t host;
  uint32_t address;  // 0: that of rank 0
  int32_t port;
};

enum Kind : uint8_t { kAlive = 1, kBye = 2, kLost = 3 };
struct Message {  // on the watch sockets
  uint8_t kind, why;
  uint16_t reserved;
  int32_t rank;
};
static_assert(sizeof(Message) == 8 && sizeof(Hello) == 32 && sizeof(Entry) == 16);

/// Equal for processes of one host, and different otherwise.
uint64_t this_host() {
  char name[256] = {};
  ::gethostname(name, sizeof name - 1);
  std::string text = name, boot;
  std::ifstream("/proc/sys/kernel/random/boot_id") >> boot;
  text += boot;
  return fnv1a<char>(text);
}

Hello hello_of(const World& w, uint64_t host, int port) {
  Hello h{{}, w.rank, w.size, host, port, 0};
  std::memcpy(h.magic, kMagic, sizeof kMagic);
  return h;
}

/// False if the connection is not one of ours.
bool read_hello(const net::Socket& socket, Hello& hello, net::Deadline deadline) {
  try {
    socket.receive_all(&hello, sizeof hello, std::min(deadline, net::in_seconds(kHelloSeconds)));
  } catch (const Error&) {
    return false;
  }
  return std::memcmp(hello.magic, kMagic, sizeof kMagic) == 0;
}

}  // namespace

// --- how the ranks find each other ----------------------------------------------------------------------------------

Mesh::Mesh(World world, MeshOptions options) : world_(std::move(world)), options_(options) {
  check(world_.size > 1 && world_.rank >= 0 && world_.rank < world_.size, "parallel", "rank ", world_.rank, " of ",
        world_.size, " needs no connections");
  peers_.resize(static_cast<size_t>(world_.size));
  meet(net::in_seconds(options_.connect_seconds));
  place_on_hosts();
  int ends[2];
  check(::pipe2(ends, O_CLOEXEC) == 0, "parallel", "pipe: ", std::strerror(errno));
  wake_read_ = net::Socket(ends[0]);
  wake_write_ = net::Socket(ends[1]);
  for (Peer& p : peers_) p.heard = Clock::now();
  watcher_ = std::thread([this] { watch(); });
}

void Mesh::meet(net::Deadline deadline) {
  const net::Address master = net::resolve(world_.master);
  const net::Listener data = net::listen_on(0, net::is_localhost(master));
  if (world_.rank == 0) {
    meet_as_root(data, deadline);
  } else {
    meet_root(data, deadline);
  }
  for (Peer& p : peers_) {
    if (p.address == 0) p.address = master;
  }
  connect_data(data, deadline);
}

void Mesh::meet_as_root(const net::Listener& data, net::Deadline deadline) {
  const net::Listener listener = net::listen_on(world_.port, net::is_localhost(net::resolve(world_.master)));
  peers_[0].host = this_host();
  peers_[0].port = data.port;
  for (int missing = world_.size - 1; missing > 0;) {
    net::Socket socket = net::accept_from(listener, deadline);
    if (!socket.open()) {
      std::string names;
      for (int r = 1; r < world_.size; ++r) {
        if (!peers_[static_cast<size_t>(r)].watch.open()) names += cat(names.empty() ? "" : ", ", r);
      }
      fail("parallel", "rank ", names, " of ", world_.size, " did not come to ", world_.master, ":", world_.port,
           " in ", options_.connect_seconds, " s; the ranks were told by ", world_.starter);
    }
    Hello hello;
    if (!read_hello(socket, hello, deadline)) continue;  // a stranger
    check(hello.size == world_.size && hello.rank > 0 && hello.rank < world_.size, "parallel", "somebody came as rank ",
          hello.rank, " of ", hello.size, ", but this run has ", world_.size,
          " ranks; two runs on one port? (MASTER_PORT names another)");
    Peer& p = peers_[static_cast<size_t>(hello.rank)];
    check(!p.watch.open(), "parallel", "two processes came as rank ", hello.rank, " of ", hello.size,
          "; two runs on one port? (MASTER_PORT names another)");
    const net::Address from = net::peer_of(socket);
    p.address = net::is_loopback(from) ? 0 : from;  // of this host: others reach it where they reach rank 0
    p.host = hello.host;
    p.port = hello.port;
    p.watch = std::move(socket);
    --missing;
  }
  std::vector<Entry> table;
  for (const Peer& p : peers_) table.push_back({p.host, p.address, p.port});
  for (Peer& p : peers_) {
    if (p.watch.open()) p.watch.send_all(table.data(), static_cast<int64_t>(table.size() * sizeof(Entry)), deadline);
  }
}

void Mesh::meet_root(const net::Listener& data, net::Deadline deadline) {
  net::Socket socket = net::connect_to(net::resolve(world_.master), world_.port, deadline);
  check(socket.open(), "parallel", "rank 0 did not listen at ", world_.master, ":", world_.port, " in ",
        options_.connect_seconds, " s; the ranks were told by ", world_.starter);
  const Hello hello = hello_of(world_, this_host(), data.port);
  std::vector<Entry> table(peers_.size());
  try {
    socket.send_all(&hello, sizeof hello, deadline);
    socket.receive_all(table.data(), static_cast<int64_t>(table.size() * sizeof(Entry)), deadline);
  } catch (const Error& e) {
    fail("parallel", "rank 0 at ", world_.master, ":", world_.port, " did not go on: ", e.what(),
         "; its own message says why");
  }
  for (size_t r = 0; r < table.size(); ++r) {
    peers_[r].host = table[r].host;
    peers_[r].address = table[r].address;
    peers_[r].port = table[r].port;
  }
  peers_[0].watch = std::move(socket);
}

void Mesh::connect_data(const net::Listener& data, net::Deadline deadline) {
  const Hello hello = hello_of(world_, 0, 0);
  for (int r = 0; r < world_.rank; ++r) {
    Peer& p = peers_[static_cast<size_t>(r)];
    p.data = net::connect_to(p.address, p.port, deadline);
    check(p.data.open(), "parallel", "cannot reach rank ", r, " at ", net::to_text(p.address), ":", p.port);
    p.data.send_all(&hello, sizeof hello, deadline);
  }
  for (int missing = world_.size - 1 - world_.rank; missing > 0;) {
    net::Socket socket = net::accept_from(data, deadline);
    check(socket.open(), "parallel", missing, " of ", world_.size, " ranks did not reach rank ", world_.rank,
          " at port ", data.port);
    Hello other;
    if (!read_hello(socket, other, deadline)) continue;
    check(other.size == world_.size && other.rank > world_.rank && other.rank < world_.size &&
              !peers_[static_cast<size_t>(other.rank)].data.open(),
          "parallel", "somebody came to rank ", world_.rank, " as rank ", other.rank, " of ", other.size);
    peers_[static_cast<size_t>(other.rank)].data = std::move(socket);
    --missing;
  }
}

void Mesh::place_on_hosts() {
  const uint64_t own = peers_[static_cast<size_t>(world_.rank)].host;
  int lower = 0, all = 0;
  for (int r = 0; r < world_.size; ++r) {
    const bool same = peers_[static_cast<size_t>(r)].host == own;
    all += same;
    lower += same && r < world_.rank;
  }
  if (world_.local_rank < 0) world_.local_rank = lower;
  if (world_.local_size < 0) world_.local_size = std::max(all, world_.local_rank + 1);
}

// --- data -----------------------------------------------------------------------------------------------------------

void Mesh::transfer(const std::vector<Send>& sends, const std::vector<Receive>& receives) {
  struct Job {
    int peer;
    bool sending;
    char* at;
    int64_t left;
  };
  std::vector<Job> jobs;
  for (const Send& s : sends) {  // never written to
    if (s.size > 0) jobs.push_back({s.peer, true, static_cast<char*>(const_cast<void*>(s.bytes)), s.size});
  }
  for (const Receive& r : receives) {
    if (r.size > 0) jobs.push_back({r.peer, false, static_cast<char*>(r.bytes), r.size});
  }
  std::vector<pollfd> waiting;
  while (!jobs.empty()) {
    bool moved = false;
    for (Job& job : jobs) {
      const int fd = peers_[static_cast<size_t>(job.peer)].data.fd();
      const size_t size = static_cast<size_t>(std::min<int64_t>(job.left, 1 << 22));
      const ssize_t n =
          job.sending ? ::send(fd, job.at, size, MSG_NOSIGNAL | MSG_DONTWAIT) : ::recv(fd, job.at, size, MSG_DONTWAIT);
      if (n > 0) {
        job.at += n, job.left -= n;
        moved = true;
      } else if (n == 0 || (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR)) {
        broken(job.peer);
      }
    }
    std::erase_if(jobs, [](const Job& job) { return job.left == 0; });
    if (moved || jobs.empty()) continue;
    check_alive();
    waiting.clear();
    for (const Job& job : jobs) {
      waiting.push_back(
          {peers_[static_cast<size_t>(job.peer)].data.fd(), static_cast<short>(job.sending ? POLLOUT : POLLIN), 0});
    }
    ::poll(waiting.data(), waiting.size(), 100);
  }
}

void Mesh::broken(int rank) {
  // The watcher hears of it too, and may know better who was first.
  for (int i = 0; i < 200 && !is_lost_; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(10));
  if (!is_lost_) lose(rank, Why::closed);
  check_alive();
  throw RankLost(cat("rank ", rank, " of ", world_.size, " is gone"));
}

// --- who is alive ---------------------------------------------------------------------------------------------------

std::string Mesh::lost() const {
  const std::lock_guard lock(mutex_);
  return lost_;
}

void Mesh::check_alive() const {
  if (is_lost_) throw RankLost(lost());
}

void Mesh::on_lost(std::function<void(const std::string&)> f) {
  {
    const std::lock_guard lock(mutex_);
    if (lost_.empty()) return listeners_.push_back(std::move(f));
  }
  f(lost());
}

void Mesh::say(int rank, uint8_t kind, int about, uint8_t why) {
  const Peer& p = peers_[static_cast<size_t>(rank)];
  if (!p.watch.open()) return;
  const Message m{kind, why, 0, about};
  const std::lock_guard lock(mutex_);
  // Eight bytes always fit unless the other end has not read for minutes; then it is lost anyway.
  static_cast<void>(::send(p.watch.fd(), &m, sizeof m, MSG_NOSIGNAL | MSG_DONTWAIT));
}

void Mesh::lose(int rank, Why why) {
  if (is_lost_) return;
  for (int r = 0; r < world_.size; ++r) {  // only rank 0 knows all of them
    if (r != rank) say(r, kLost, rank, static_cast<uint8_t>(why));
  }
  const Peer& p = peers_[static_cast<size_t>(rank)];
  const std::string where = cat(" (", net::to_text(p.address), ":", p.port, ")");
  std::string text = cat("rank ", rank, " of ", world_.size);
  switch (why) {
    case Why::closed:
      text += " is gone" + where;
      break;
    case Why::silent:
      text += cat(" has been silent for ", options_.silence_seconds, " s", where);
      break;
    case Why::failed:
      text += " ended with an error" + where;
      break;
  }
  std::vector<std::function<void(const std::string&)>> listeners;
  {
    const std::lock_guard lock(mutex_);
    if (!lost_.empty()) return;
    lost_ = text;
    listeners.swap(listeners_);
  }
  is_lost_ = true;
  for (const auto& f : listeners) f(text);
}

/// Reads what a rank has said; false when its socket is at its end.
bool Mesh::hear(int rank) {
  Peer& p = peers_[static_cast<size_t>(rank)];
  char bytes[512];
  const ssize_t n = ::recv(p.watch.fd(), bytes, sizeof bytes, MSG_DONTWAIT);
  if (n < 0) return errno == EAGAIN || errno == EINTR;
  if (n == 0) return false;
  p.heard = Clock::now();
  p.partial.append(bytes, static_cast<size_t>(n));
  while (p.partial.size() >= sizeof(Message)) {
    Message m;
    std::memcpy(&m, p.partial.data(), sizeof m);
    p.partial.erase(0, sizeof m);
    if (m.kind == kBye) p.said_bye = true;
    if (m.kind == kLost && m.rank >= 0 && m.rank < world_.size && m.rank != world_.rank && m.why >= 1 && m.why <= 3)
      lose(m.rank, static_cast<Why>(m.why));
  }
  return true;
}

void Mesh::watch() {
  const auto beat = std::chrono::duration<double>(std::min(1.0, options_.silence_seconds / 4));
  auto next_beat = Clock::now();
  while (!stop_ && !is_lost_) {
    std::vector<pollfd> fds = {{wake_read_.fd(), POLLIN, 0}};
    std::vector<int> ranks = {-1};
    for (int r = 0; r < world_.size; ++r) {
      const Peer& p = peers_[static_cast<size_t>(r)];
      if (!p.watch.open() || p.said_bye) continue;
      fds.push_back({p.watch.fd(), POLLIN, 0});
      ranks.push_back(r);
    }
    ::poll(fds.data(), fds.size(), static_cast<int>(std::chrono::duration<double, std::milli>(beat).count()));
    for (size_t i = 1; i < fds.size() && !stop_ && !is_lost_; ++i) {
      Peer& p = peers_[static_cast<size_t>(ranks[i])];
      if (fds[i].revents != 0) {
        if (!hear(ranks[i]) && !p.said_bye) lose(ranks[i], Why::closed);
      } else if (std::chrono::duration<double>(Clock::now() - p.heard).count() > options_.silence_seconds) {
        lose(ranks[i], Why::silent);
      }
    }
    if (Clock::now() < next_beat) continue;
    next_beat = Clock::now() + std::chrono::duration_cast<Clock::duration>(beat);
    for (const int r : ranks) {
      if (r >= 0) say(r, kAlive, world_.rank, 0);
    }
  }
}

void Mesh::close() {
  check_alive();
  std::vector<char> signs(peers_.size());
  const char own = 1;
  std::vector<Send> sends;
  std::vector<Receive> receives;
  for (int r = 0; r < world_.size; ++r) {
    if (r == world_.rank) continue;
    sends.push_back({r, &own, 1});
    receives.push_back({r, &signs[static_cast<size_t>(r)], 1});
  }
  transfer(sends, receives);
  for (int r = 0; r < world_.size; ++r) say(r, kBye, world_.rank, 0);
  stop_ = true;
}

Mesh::~Mesh() {
  if (!stop_ && !is_lost_) {
    for (int r = 0; r < world_.size; ++r) say(r, kLost, world_.rank, static_cast<uint8_t>(Why::failed));
  }
  stop_ = true;
  static_cast<void>(!::write(wake_write_.fd(), "x", 1));
  watcher_.join();
}

}  // namespace rw
