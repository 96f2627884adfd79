// How two ranks make sure of each other: the one that comes, and the door that hears many at once.
#include "nn/parallel/handshake.h"

#include <poll.h>
#include <sys/random.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <thread>
#include <utility>
#include <vector>

#include "nn/parallel/hmac.h"
#include "tensor/error.h"

namespace rw::net {
namespace {

constexpr char kMagic[8] = {'r', 'o', 'p', 'e', 'm', 's', 'h', '2'};
constexpr double kSeconds = 5;         // for a connection to say who it is
constexpr size_t kMostVisitors = 256;  // at once; then the oldest goes, which a rank survives: it comes again
constexpr size_t kMostRefusals = 8;    // that are remembered

struct Challenge {
  char magic[8];
  uint8_t nonce[16];
};
struct Answer {
  int32_t verdict, reserved;
  Digest proof;
};
static_assert(sizeof(Challenge) == 24 && sizeof(Answer) == 40);

void fill_with_random(uint8_t* bytes, size_t n) {
  check(::getrandom(bytes, n, 0) == static_cast<ssize_t>(n), "parallel", "the system has no random numbers");
}

template <class T>
std::string_view bytes_of(const T& value) {
  return {reinterpret_cast<const char*>(&value), sizeof value};
}

Digest proof(const std::string& secret, std::string_view who, const Hello& hello, const uint8_t* nonce,
             int32_t verdict) {
  std::string text(who);
  text += bytes_of(hello);
  text.append(reinterpret_cast<const char*>(nonce), 16);
  text += bytes_of(verdict);
  return hmac_sha256(secret, text);
}

/// What the one that came is told.
std::string reason_of(Verdict verdict, const Hello& hello) {
  switch (verdict) {
    case Verdict::wrong_secret:
      return "it has another ROPEWALK_SECRET, or none";
    case Verdict::wrong_size:
      return cat("its run does not have ", hello.size, " ranks; two runs on one port? (MASTER_PORT names another)");
    case Verdict::rank_taken:
      return cat("another process came as rank ", hello.rank, "; two runs on one port? (MASTER_PORT names another)");
    default:
      return cat("rank ", hello.rank, " of ", hello.size, " is not expected there");
  }
}

/// One attempt. False if nobody answered as a rank does: it may still be starting, or have been too busy.
bool try_handshake(const Socket& socket, const Hello& hello, const std::string& secret, Deadline deadline,
                   Address address, int port) {
  Challenge challenge;
  Answer answer;
  try {
    socket.send_all(&hello, sizeof hello, deadline);
    socket.receive_all(&challenge, sizeof challenge, deadline);
    if (std::memcmp(challenge.magic, kMagic, sizeof kMagic) != 0) return false;
    const Digest own = proof(secret, "comes", hello, challenge.nonce, 0);
    socket.send_all(own.data(), static_cast<int64_t>(own.size()), deadline);
    socket.receive_all(&answer, sizeof answer, deadline);
  } catch (const Error&) {
    return false;
  }
  const std::string where = cat("rank ", hello.to, " at ", to_text(address), ":", port);
  const bool known = same_digest(answer.proof, proof(secret, "listens", hello, challenge.nonce, answer.verdict));
  const auto verdict = static_cast<Verdict>(answer.verdict);
  check(known || verdict == Verdict::wrong_secret, "parallel", where,
        " does not know this rank's ROPEWALK_SECRET: it is not of this run");
  check(verdict == Verdict::welcome, "parallel", where, " refused rank ", hello.rank, ": ", reason_of(verdict, hello));
  return true;
}

}  // namespace

Hello make_hello(int rank, int size, int to, Purpose purpose) {
  Hello hello{};
  std::memcpy(hello.magic, kMagic, sizeof kMagic);
  hello.rank = rank, hello.size = size, hello.to = to, hello.purpose = static_cast<int32_t>(purpose);
  fill_with_random(hello.nonce, sizeof hello.nonce);
  return hello;
}

Socket knock(Address address, int port, const Hello& hello, const std::string& secret, Deadline deadline) {
  while (Clock::now() < deadline) {
    Socket socket = connect_to(address, port, deadline);
    if (!socket.open()) return socket;
    if (try_handshake(socket, hello, secret, std::min(deadline, in_seconds(2 * kSeconds)), address, port)) {
      return socket;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  return {};
}

Door::Door(const Listener& listener, std::string secret, std::function<Verdict(const Hello&)> judge)
    : listener_(listener), secret_(std::move(secret)), judge_(std::move(judge)) {}

std::string Door::refused() const {
  std::string text;
  for (const auto& [what, times] : refusals_) {
    text += cat(text.empty() ? "" : ", ", what);
    if (times > 1) text += cat(" (", times, " times)");
  }
  return text;
}

void Door::let_in() {
  for (;;) {
    Socket socket = accept_now(listener_);
    if (!socket.open()) {
      // No descriptors left: the oldest makes room, and the connection is still waiting.
      if ((errno != EMFILE && errno != ENFILE) || visitors_.empty()) return;
      visitors_.pop_front();
      continue;
    }
    if (visitors_.size() >= kMostVisitors) visitors_.pop_front();
    Visitor& v = visitors_.emplace_back();
    v.socket = std::move(socket);
    v.until = in_seconds(kSeconds);
    fill_with_random(v.nonce, sizeof v.nonce);
  }
}

/// Takes what a visitor has sent and answers it.
Door::Progress Door::hear(Visitor& v) {
  char bytes[sizeof(Hello)];
  const size_t whole = v.has_hello ? sizeof(Digest) : sizeof(Hello);
  const ssize_t n = ::recv(v.socket.fd(), bytes, whole - v.heard.size(), MSG_DONTWAIT);
  if (n < 0) return errno == EAGAIN || errno == EINTR ? Progress::waits : Progress::gone;
  if (n == 0) return Progress::gone;
  v.heard.append(bytes, static_cast<size_t>(n));
  const auto answer = [&](const auto& message) {  // a few bytes into an empty buffer: they fit
    return ::send(v.socket.fd(), &message, sizeof message, MSG_NOSIGNAL | MSG_DONTWAIT) ==
           static_cast<ssize_t>(sizeof message);
  };
  if (v.has_hello) {
    if (v.heard.size() < whole) return Progress::waits;
    const Verdict verdict = check_proof(v);
    const auto number = static_cast<int32_t>(verdict);
    const bool sent = answer(Answer{number, 0, proof(secret_, "listens", v.hello, v.nonce, number)});
    return sent && verdict == Verdict::welcome ? Progress::welcome : Progress::gone;
  }
  // A stranger's bytes show at the first that differs.
  if (std::memcmp(v.heard.data(), kMagic, std::min(v.heard.size(), sizeof kMagic)) != 0) return Progress::gone;
  if (v.heard.size() < whole) return Progress::waits;
  std::memcpy(&v.hello, v.heard.data(), sizeof v.hello);
  v.has_hello = true;
  v.heard.clear();
  Challenge challenge;
  std::memcpy(challenge.magic, kMagic, sizeof kMagic);
  std::memcpy(challenge.nonce, v.nonce, sizeof v.nonce);
  return answer(challenge) ? Progress::waits : Progress::gone;
}

Verdict Door::check_proof(const Visitor& v) {
  Digest theirs;
  std::memcpy(theirs.data(), v.heard.data(), theirs.size());
  const bool knows = same_digest(theirs, proof(secret_, "comes", v.hello, v.nonce, 0));
  const Verdict verdict = knows ? judge_(v.hello) : Verdict::wrong_secret;
  if (verdict == Verdict::welcome) return verdict;
  std::string from = "?";
  try {
    from = to_text(peer_of(v.socket));
  } catch (const Error&) {  // it has gone already
  }
  const std::string what = cat("rank ", v.hello.rank, " of ", v.hello.size, " from ", from,
                               knows ? "" : " without the right ROPEWALK_SECRET");
  if (refusals_.count(what) || refusals_.size() < kMostRefusals) ++refusals_[what];
  return verdict;
}

Door::Guest Door::next(Deadline deadline) {
  std::vector<pollfd> waiting;
  while (Clock::now() < deadline) {
    waiting.assign(1, {listener_.socket.fd(), POLLIN, 0});
    Deadline first = deadline;
    for (const Visitor& v : visitors_) {
      waiting.push_back({v.socket.fd(), POLLIN, 0});
      first = std::min(first, v.until);
    }
    const int n = ::poll(waiting.data(), waiting.size(), milliseconds_until(first) + 1);
    check(n >= 0 || errno == EINTR, "parallel", "poll: ", std::strerror(errno));
    size_t i = 1;
    for (auto v = visitors_.begin(); v != visitors_.end(); ++i) {
      const Progress progress = n > 0 && waiting[i].revents != 0 ? hear(*v) : Progress::waits;
      if (progress == Progress::welcome) {
        Guest guest{std::move(v->socket), v->hello};
        visitors_.erase(v);
        return guest;
      }
      v = progress == Progress::gone || Clock::now() >= v->until ? visitors_.erase(v) : std::next(v);
    }
    if (n > 0 && waiting[0].revents != 0) let_in();
  }
  return {};
}

}  // namespace rw::net
