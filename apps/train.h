// Training runs as `ropewalk train`, `demo` and `compare` start them: with progress on standard error.
#pragma once
#include "train/trainer.h"
#include "verbs.h"

/// Trains, with a progress line, and leaves a model folder at config.out. `place` says where; its device and ranks are
/// set here: `comm` makes this process one of several ranks, which all make this call, and losing a rank ends the
/// process. Ctrl-C and SIGTERM end the run early, with a checkpoint. Errors: Trainer's.
rw::TrainResult run_training(const rw::Recipe& config, const Globals& globals, rw::TrainPlace place = {},
                             rw::Communicator* comm = nullptr);

/// Declares the options of `ropewalk train` that fill `config`.
void add_train_options(CLI::App& app, rw::Recipe& config);
