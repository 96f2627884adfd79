#include "nn/parallel/mesh.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>

#include "nn/parallel/handshake.h"
#include "tensor/hash.h"

namespace rw {
namespace {

using net::Clock;

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
static_assert(sizeof(Message) == 8 && sizeof(Entry) == 16);

/// Equal for processes of one host, and different otherwise.
uint64_t this_host() {
  char name[256] = {};
  ::gethostname(name, sizeof name - 1);
  std::string text = name, boot;
  std::ifstream("/proc/sys/kernel/random/boot_id") >> boot;
  text += boot;
  return fnv1a<char>(text);
}

/// "" or what to add to a message about ranks that did not come.
std::string refusals_of(const net::Door& door) {
  const std::string text = door.refused();
  return text.empty() ? "" : "; refused: " + text;
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
  // A host's own name that means a loopback address to itself says nothing of where others reach it.
  const bool everywhere = net::is_loopback(master) && !net::names_loopback(world_.master);
  const net::Address at = everywhere ? 0 : master;
  net::Listener data;
  if (world_.rank == 0) {
    data = net::listen_on(at, 0);
    meet_as_root(at, data, deadline);
  } else {
    data = meet_root(master, deadline);
  }
  for (Peer& p : peers_) {
    if (p.address == 0) p.address = master;
  }
  connect_data(data, deadline);
}

void Mesh::meet_as_root(net::Address at, const net::Listener& data, net::Deadline deadline) {
  const net::Listener listener = net::listen_on(at, world_.port);
  peers_[0].host = this_host();
  peers_[0].port = data.port;
  net::Door door(listener, world_.secret, [this](const net::Hello& h) {
    if (h.size != world_.size) return net::Verdict::wrong_size;
    if (h.to != 0 || h.rank <= 0 || h.rank >= h.size || h.purpose != static_cast<int32_t>(net::Purpose::watch))
      return net::Verdict::not_expected;
    return peers_[static_cast<size_t>(h.rank)].watch.open() ? net::Verdict::rank_taken : net::Verdict::welcome;
  });
  for (int missing = world_.size - 1; missing > 0; --missing) {
    net::Door::Guest guest = door.next(deadline);
    if (!guest.socket.open()) {
      std::string names;
      for (int r = 1; r < world_.size; ++r) {
        if (!peers_[static_cast<size_t>(r)].watch.open()) names += cat(names.empty() ? "" : ", ", r);
      }
      fail("parallel", "rank ", names, " of ", world_.size, " did not come to ", world_.master, ":", world_.port,
           " in ", options_.connect_seconds, " s; the ranks were told by ", world_.starter, refusals_of(door));
    }
    Peer& p = peers_[static_cast<size_t>(guest.hello.rank)];
    const net::Address from = net::peer_of(guest.socket);
    p.address = net::is_loopback(from) ? 0 : from;  // of this host: others reach it where they reach rank 0
    p.host = guest.hello.host;
    p.port = guest.hello.port;
    p.watch = std::move(guest.socket);
  }
  std::vector<Entry> table;
  for (const Peer& p : peers_) table.push_back({p.host, p.address, p.port});
  for (Peer& p : peers_) {
    if (p.watch.open()) p.watch.send_all(table.data(), static_cast<int64_t>(table.size() * sizeof(Entry)), deadline);
  }
}

/// Gives where this rank listens for the others' data.
net::Listener Mesh::meet_root(net::Address master, net::Deadline deadline) {
  const auto absent = [&](bool found) {
    check(found, "parallel", "rank 0 did not listen at ", world_.master, ":", world_.port, " in ",
          options_.connect_seconds, " s; the ranks were told by ", world_.starter);
  };
  net::Address at = net::names_loopback(world_.master) ? master : 0;
  if (!net::is_loopback(master)) {  // the address from which this host reaches rank 0
    const net::Socket probe = net::connect_to(master, world_.port, deadline);
    absent(probe.open());
    at = net::own_of(probe);
  }
  net::Listener data = net::listen_on(at, 0);
  net::Hello hello = net::make_hello(world_.rank, world_.size, 0, net::Purpose::watch);
  hello.host = this_host();
  hello.port = data.port;
  net::Socket socket = net::knock(master, world_.port, hello, world_.secret, deadline);
  absent(socket.open());
  std::vector<Entry> table(peers_.size());
  try {
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
  return data;
}

void Mesh::connect_data(const net::Listener& data, net::Deadline deadline) {
  // Ranks knock at lower ones, which listen since before the table was sent, and wait in their backlog.
  for (int r = 0; r < world_.rank; ++r) {
    Peer& p = peers_[static_cast<size_t>(r)];
    const net::Hello hello = net::make_hello(world_.rank, world_.size, r, net::Purpose::data);
    p.data = net::knock(p.address, p.port, hello, world_.secret, deadline);
    check(p.data.open(), "parallel", "cannot reach rank ", r, " at ", net::to_text(p.address), ":", p.port);
  }
  net::Door door(data, world_.secret, [this](const net::Hello& h) {
    if (h.size != world_.size) return net::Verdict::wrong_size;
    if (h.to != world_.rank || h.rank <= world_.rank || h.rank >= h.size ||
        h.purpose != static_cast<int32_t>(net::Purpose::data))
      return net::Verdict::not_expected;
    return peers_[static_cast<size_t>(h.rank)].data.open() ? net::Verdict::rank_taken : net::Verdict::welcome;
  });
  for (int missing = world_.size - 1 - world_.rank; missing > 0; --missing) {
    net::Door::Guest guest = door.next(deadline);
    check(guest.socket.open(), "parallel", missing, " of ", world_.size, " ranks did not reach rank ", world_.rank,
          " at port ", data.port, refusals_of(door));
    peers_[static_cast<size_t>(guest.hello.rank)].data = std::move(guest.socket);
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
    if (s.size > 0)
      jobs.push_back(
          {.peer = s.peer, .sending = true, .at = static_cast<char*>(const_cast<void*>(s.bytes)), .left = s.size});
  }
  for (const Receive& r : receives) {
    if (r.size > 0)
      jobs.push_back({.peer = r.peer, .sending = false, .at = static_cast<char*>(r.bytes), .left = r.size});
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
  const Message m{.kind = kind, .why = why, .reserved = 0, .rank = about};
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
