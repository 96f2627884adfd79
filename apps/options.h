// Options of the command line made of settings that the library describes.
#pragma once
#include <CLI/CLI.hpp>
#include <vector>

#include "eval/settings.h"

/// Declares an option for each setting; its value goes where the setting says. What the settings point to must live as
/// long as `app`. Values are checked by the library: its errors name the option and say in words what was expected.
void add_settings(CLI::App& app, const std::vector<rw::Setting>& settings);
