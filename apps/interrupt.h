// Ctrl-C and SIGTERM: work that can be gone on with ends in order, everything else at once.
#pragma once

/// What main returns when a signal ended the work: 128 + signal.
struct Interrupted {
  int signal;
};

/// While one lives, the first SIGINT or SIGTERM only asks the work to end; a second one ends the process. Without one,
/// and after catch_interrupts(), the first ends the process with `hint` as its last words.
class GracefulStop {
 public:
  GracefulStop();
  ~GracefulStop();
  GracefulStop(const GracefulStop&) = delete;
  GracefulStop& operator=(const GracefulStop&) = delete;
};

/// Installs the handlers. `hint`: a line, with its end, that lives as long as the process.
void catch_interrupts(const char* hint);
/// The signal that asked the work to end; 0 if none did.
int interrupted();
