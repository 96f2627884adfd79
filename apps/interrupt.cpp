// Signal handlers that only set a flag, or leave.
#include "interrupt.h"

#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstring>

namespace {

std::atomic<int> signal_seen{0}, graceful{0};
std::atomic<const char*> last_words{nullptr};

void say(const char* text) {
  if (text) static_cast<void>(!::write(STDERR_FILENO, text, std::strlen(text)));
}

extern "C" void on_signal(int signal) {
  if (graceful.load() > 0 && signal_seen.exchange(signal) == 0) {
    say("\nropewalk: stopping after this step; a second signal stops at once\n");
    return;
  }
  say(graceful.load() > 0
          ? "\nropewalk: stopped at once; steps after the newest checkpoint are lost, --resume goes on\n"
          : last_words.load());
  ::_exit(128 + signal);
}

}  // namespace

GracefulStop::GracefulStop() { ++graceful; }
GracefulStop::~GracefulStop() { --graceful; }

void catch_interrupts(const char* hint) {
  last_words = hint;
  struct sigaction action {};
  action.sa_handler = on_signal;
  action.sa_flags = SA_RESTART;
  ::sigaction(SIGINT, &action, nullptr);
  ::sigaction(SIGTERM, &action, nullptr);
}

int interrupted() { return signal_seen.load(); }
