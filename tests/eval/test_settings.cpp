// Settings as data: what is read from text, and how an error says what was expected.
#include <doctest/doctest.h>

#include "eval/protocol.h"
#include "eval/settings.h"
#include "support.h"

using namespace rw;

TEST_CASE("A setting is read from text by its type and range, and its error says in words what was expected") {
  int64_t count = 7;
  double share = 0;
  std::vector<int64_t> windows;
  std::vector<std::string> paths;
  std::string mode = "token";
  const Setting c{.name = "count", .target = &count, .low = 1, .high = kMostCount};
  const Setting s{.name = "share", .target = &share, .low = 0, .high = 1};
  const Setting w{.name = "window", .target = &windows, .low = 2, .high = kMostCount};
  const Setting p{.name = "data", .target = &paths};
  const Setting m{.name = "mode", .target = &mode, .choices = {"token", "window", "byte"}};
  assign(c, {"12"}, "--count");
  assign(s, {"0.25"}, "--share");
  assign(w, {"512,1024", "2048"}, "--window");
  assign(p, {"a,b", "c"}, "--data");
  assign(m, {"window"}, "--mode");
  CHECK(count == 12);
  CHECK(share == 0.25);
  CHECK(windows == std::vector<int64_t>{512, 1024, 2048});
  CHECK(paths == std::vector<std::string>{"a,b", "c"});
  CHECK(mode == "window");
  const auto error = [](const Setting& setting, const std::string& text) {
    return test::error_of([&] { assign(setting, {text}, "--x"); });
  };
  CHECK(error(c, "0") == "[option] --x must be at least 1, got 0");
  CHECK(error(c, "many") == "[option] --x expects a whole number, got 'many'");
  CHECK(error(c, "1.5") == "[option] --x expects a whole number, got '1.5'");
  CHECK(error(c, "99999999999999999999") == "[option] --x must be at least 1, got 99999999999999999999");
  CHECK(error(s, "2") == "[option] --x must be from 0 to 1, got 2");
  CHECK(error(s, "nan").find("expects a number") != std::string::npos);
  CHECK(error(w, "512,").find("expects a whole number, got ''") != std::string::npos);
  CHECK(error(m, "words") == "[option] --x must be token, window or byte, got 'words'");
  CHECK(count == 12);
}

TEST_CASE("Every protocol's settings have names of their own, and defaults that its own rules accept") {
  for (const std::string& kind : eval_kinds()) {
    CAPTURE(kind);
    const auto protocol = make_eval_protocol(kind);
    REQUIRE(protocol != nullptr);
    CHECK(protocol->kind() == kind);
    const std::vector<Setting> settings = protocol->settings();
    for (const Setting& s : settings) {
      CAPTURE(s.name);
      CHECK(find_setting(settings, s.name) == &s);
      CHECK_FALSE(s.help.empty());
      for (const std::string& other : s.excludes) CHECK(find_setting(settings, other) != nullptr);
      if (s.is_flag() || s.is_list() || !s.shows_default) continue;
      const std::string before = current_value(s);
      assign(s, {before}, s.name);
      CHECK(current_value(s) == before);
    }
  }
  CHECK(make_eval_protocol("sing") == nullptr);
}
