// The file that --config names.
#pragma once
#include <CLI/CLI.hpp>

/// Reads it with checks that the option parser does not make: a regular file within the limit of a recipe, read to its
/// end, of bounded depth. Call it after the option is declared. Errors while parsing: CLI::FileError, rw::Error.
void check_config_file(CLI::App& app);
