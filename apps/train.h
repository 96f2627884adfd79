// Training runs as `ropewalk train`, `demo` and `compare` start them: with progress on standard error.
#pragma once
#include <vector>

#include "train/trainer.h"
#include "verbs.h"

/// Trains, with a progress line, and leaves a model folder at config.out. `documents` replaces config.data when it is
/// not empty. With `comm` this process is one of several ranks, which all make this call; losing a rank ends the
/// process. Errors: Trainer's.
rw::TrainResult run_training(const rw::TrainConfig& config, const Globals& globals,
                             const std::vector<rw::Document>& documents = {}, rw::Communicator* comm = nullptr);

/// run_training, and what it cost in config.out/cost.json: steps, tokens, seconds and the peak of device memory. A
/// resumed run counts from where it was resumed.
rw::TrainResult run_training_and_record(const rw::TrainConfig& config, const Globals& globals,
                                        const std::vector<rw::Document>& documents = {},
                                        rw::Communicator* comm = nullptr);

/// Declares the options of `ropewalk train` that fill `config`.
void add_train_options(CLI::App& app, rw::TrainConfig& config);
