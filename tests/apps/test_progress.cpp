#include <doctest/doctest.h>

#include "../../apps/remaining_time.h"

TEST_CASE("Time left needs two reports, counts from the first one, and is never negative") {
  RemainingTime steps(100);
  CHECK_FALSE(steps.seconds());
  steps.report(1, 50.0);  // after a long start-up
  CHECK_FALSE(steps.seconds());
  steps.report(11, 52.0);
  CHECK(steps.seconds().value() == doctest::Approx(89 * 0.2));
  steps.report(100, 70.0);
  CHECK(steps.seconds().value() == 0);
  steps.report(103, 71.0);  // a total that was a guess
  CHECK(steps.seconds().value() == 0);
}

TEST_CASE("A resumed run and a job counted in thousands of tokens get a sensible time left") {
  RemainingTime resumed(1000);
  resumed.report(901, 3.0);
  resumed.report(951, 8.0);
  CHECK(resumed.seconds().value() == doctest::Approx(4.9));
  RemainingTime tokens(10'000'000);
  tokens.report(65'536, 0.5);
  CHECK_FALSE(tokens.seconds());
  tokens.report(131'072, 1.0);
  CHECK(tokens.seconds().value() == doctest::Approx(75.3).epsilon(0.01));
}
