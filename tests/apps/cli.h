// What the tests of the program share: running it, and a text to train on.
#pragma once
#include <sys/wait.h>

#include <cstdlib>
#include <fstream>
#include <string>

#include "support.h"
#include "tensor/file.h"

struct Answer {
  int code;
  std::string out, err;
};

inline Answer ropewalk(const std::string& arguments) {
  const test::TempDir dir;
  const std::string command = std::string("OMP_NUM_THREADS=2 '") + ROPEWALK_BINARY_DIR + "/bin/ropewalk' " + arguments +
                              " >'" + dir.path("out") + "' 2>'" + dir.path("err") + "' </dev/null";
  const int status = std::system(command.c_str());
  return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, rw::read_file(dir.path("out")), rw::read_file(dir.path("err"))};
}

inline std::string text_of(int bytes) {
  std::string text;
  for (int i = 0; static_cast<int>(text.size()) < bytes; ++i)
    text += "Line " + std::to_string(i * 37 % 101) + " of the little story. ";
  return text;
}

inline void write(const std::string& path, const std::string& text) { std::ofstream(path, std::ios::binary) << text; }
