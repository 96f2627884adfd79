// What a run reads and where it writes: its text as tokens, its folder.
#pragma once
#include <string>

#include "data/retrieval_template.h"
#include "data/text.h"

namespace rw {

/// Makes a folder and those above it; one that is there already is fine. Errors:
/// it cannot be made, in the name of `op`.
void make_folder(const char* op, const std::string& path);

}  // namespace rw
