// Who else may come to the ports of a run: strangers, ranks of other runs, ranks without the secret.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <thread>

#include "nn/parallel/handshake.h"
#include "parallel/ranks.h"

using namespace rw;

namespace {

const std::string kSecret = "a secret of thirty-two characters";

bool has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

World with_secret(int rank, int size, int port, const std::string& secret) {
  World w = test::world(rank, size, port);
  w.secret = secret;
  return w;
}

/// Connections that say `words` and then nothing.
std::vector<net::Socket> strangers(int count, int port, const std::string& words) {
  std::vector<net::Socket> all;
  for (int i = 0; i < count; ++i) {
    all.push_back(net::connect_to(net::resolve("127.0.0.1"), port, net::in_seconds(5)));
    if (!words.empty()) static_cast<void>(!::send(all.back().fd(), words.data(), words.size(), MSG_NOSIGNAL));
  }
  return all;
}

/// Both ranks of a run of two while strangers are connected; the errors of rank 0 and rank 1.
struct Outcome {
  std::string root, other;
};
Outcome run_two(const std::string& root_secret, const std::string& other_secret, double seconds,
                const std::function<void(int port)>& between = {}) {
  const int port = test::free_port();
  Outcome outcome;
  const auto rank = [&](int r, const std::string& secret, std::string& error) {
    try {
      Communicator comm(with_secret(r, 2, port, secret), {.connect_seconds = seconds});
      comm.barrier();
      comm.close();
    } catch (const Error& e) {
      error = e.what();
    }
  };
  std::thread root([&] { rank(0, root_secret, outcome.root); });
  if (between) between(port);
  std::thread other([&] { rank(1, other_secret, outcome.other); });
  root.join();
  other.join();
  return outcome;
}

}  // namespace

TEST_CASE("ranks that know the secret meet") {
  const Outcome outcome = run_two(kSecret, kSecret, 30);
  CHECK(outcome.root == "");
  CHECK(outcome.other == "");
}

TEST_CASE("a rank without the secret, or with another one, is refused and named on both sides") {
  for (const std::string& wrong : {std::string(), std::string("another secret of some length")}) {
    const Outcome outcome = run_two(kSecret, wrong, 2);
    CHECK(has(outcome.root, "rank 1 of 2 did not come"));
    CHECK(has(outcome.root, "refused: rank 1 of 2 from 127.0.0.1 without the right ROPEWALK_SECRET"));
    CHECK(has(outcome.other, "refused rank 1: it has another ROPEWALK_SECRET, or none"));
  }
}

TEST_CASE("a rank does not trust a rank 0 without its secret") {
  const Outcome outcome = run_two("", kSecret, 2);
  CHECK(has(outcome.other, "ROPEWALK_SECRET"));
  CHECK(has(outcome.root, "refused: rank 1 of 2"));
}

TEST_CASE("connections that say nothing, garbage or half a hello delay nobody and end nothing") {
  std::vector<net::Socket> all;
  const net::Hello hello = net::make_hello(1, 2, 0, net::Purpose::watch);
  const std::string half(reinterpret_cast<const char*>(&hello), 20);
  std::string wrong_size(reinterpret_cast<const char*>(&hello), sizeof hello);
  wrong_size[12] = 99;  // of 99 ranks, and no proof after it
  const Outcome outcome = run_two(kSecret, kSecret, 60, [&](int port) {
    for (const std::string& words : {std::string(), std::string("GET / HTTP/1.1\r\n\r\n"), half, wrong_size}) {
      for (net::Socket& s : strangers(75, port, words)) all.push_back(std::move(s));
    }
  });
  CHECK(outcome.root == "");
  CHECK(outcome.other == "");
}

TEST_CASE("where descriptors run out, the oldest strangers make room") {
  const int port = test::free_port();
  const net::Listener listener = net::listen_on(net::resolve("127.0.0.1"), port);
  net::Door door(listener, "", [](const net::Hello&) { return net::Verdict::welcome; });
  const std::vector<net::Socket> all = strangers(60, port, "");
  struct rlimit before {};
  ::getrlimit(RLIMIT_NOFILE, &before);
  const pid_t rank = ::fork();  // with a limit of its own
  if (rank == 0) {
    const net::Hello hello = net::make_hello(1, 2, 0, net::Purpose::watch);
    ::_exit(net::knock(net::resolve("127.0.0.1"), port, hello, "", net::in_seconds(30)).open() ? 7 : 8);
  }
  const int next_fd = ::dup(0);
  ::close(next_fd);
  struct rlimit few = before;
  few.rlim_cur = static_cast<rlim_t>(next_fd) + 20;
  ::setrlimit(RLIMIT_NOFILE, &few);
  const net::Door::Guest guest = door.next(net::in_seconds(30));
  ::setrlimit(RLIMIT_NOFILE, &before);
  CHECK(guest.socket.open());
  CHECK(guest.hello.rank == 1);
  int status = 0;
  ::waitpid(rank, &status, 0);
  CHECK(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == 7);
}

TEST_CASE("a proof that was heard once is of no use again") {
  const int port = test::free_port();
  const net::Listener listener = net::listen_on(net::resolve("127.0.0.1"), port);
  net::Door door(listener, kSecret, [](const net::Hello&) { return net::Verdict::welcome; });
  const net::Hello hello = net::make_hello(1, 2, 0, net::Purpose::watch);
  std::thread rank([&] { net::knock(net::resolve("127.0.0.1"), port, hello, kSecret, net::in_seconds(30)); });
  CHECK(door.next(net::in_seconds(30)).socket.open());
  rank.join();
  // The same hello again, with a proof for another nonce.
  const net::Socket thief = net::connect_to(net::resolve("127.0.0.1"), port, net::in_seconds(5));
  std::string words(reinterpret_cast<const char*>(&hello), sizeof hello);
  words.append(32, 'x');
  static_cast<void>(!::send(thief.fd(), words.data(), words.size(), MSG_NOSIGNAL));
  CHECK_FALSE(door.next(net::in_seconds(0.5)).socket.open());
  CHECK(door.refused() == "rank 1 of 2 from 127.0.0.1 without the right ROPEWALK_SECRET");
}

TEST_CASE("a run at 127.0.0.2 listens there and nowhere else") {
  CHECK(net::names_loopback("127.0.0.2"));
  CHECK(net::names_loopback("localhost"));
  CHECK_FALSE(net::names_loopback("10.0.0.1"));
  CHECK_FALSE(net::names_loopback("myhost"));
  const net::Listener listener = net::listen_on(net::resolve("127.0.0.2"), 0);
  CHECK(net::to_text(net::own_of(listener.socket)) == "127.0.0.2");
  CHECK(net::connect_to(net::resolve("127.0.0.2"), listener.port, net::in_seconds(5)).open());
  CHECK_FALSE(net::connect_to(net::resolve("127.0.0.1"), listener.port, net::in_seconds(0.3)).open());
  const int port = test::free_port();
  std::vector<std::string> errors(3);
  test::in_threads(3, [&](int r) {
    World w = with_secret(r, 3, port, kSecret);
    w.master = "127.0.0.2";
    try {
      Communicator comm(w, {.connect_seconds = 30});
      comm.close();
    } catch (const Error& e) {
      errors[static_cast<size_t>(r)] = e.what();
    }
  });
  for (const std::string& e : errors) CHECK(e == "");
}

TEST_CASE("a secret of fewer than 16 characters is refused") {
  const auto world = [](const std::string& secret) {
    return world_from([&](const std::string& name) -> std::optional<std::string> {
      if (name == "RANK") return "0";
      if (name == "WORLD_SIZE") return "2";
      if (name == "ROPEWALK_SECRET") return secret;
      return std::nullopt;
    });
  };
  CHECK(world(kSecret).secret == kSecret);
  CHECK(has(test::error_of([&] { world("short"); }), "ROPEWALK_SECRET has 5 characters"));
}
