// Runge-Kutta methods as data, and the weights of their dense output.
#include "rope/ode.h"

namespace rw {
namespace {

const std::vector<Tableau>& tableaux() {
  static const std::vector<Tableau> all = {
      {"euler", 1, {0}, {{}}, {1}, {}, {}},
      {"midpoint", 2, {0, 0.5}, {{}, {0.5}}, {0, 1}, {}, {}},
      {"rk4", 4, {0, 0.5, 0.5, 1}, {{}, {0.5}, {0, 0.5}, {0, 0, 1}}, {1. / 6, 1. / 3, 1. / 3, 1. / 6}, {}, {}},
      {"rk4_38",
       4,
       {0, 1. / 3, 2. / 3, 1},
       {{}, {1. / 3}, {-1. / 3, 1}, {1, -1, 1}},
       {1. / 8, 3. / 8, 3. / 8, 1. / 8},
       {},
       {}},
      // Dormand and Prince 1980; the middle of the step is Shampine's (1986), as in torchdiffeq
      {"dopri5",
       5,
       {0, 1. / 5, 3. / 10, 4. / 5, 8. / 9, 1, 1},
       {{},
        {1. / 5},
        {3. / 40, 9. / 40},
        {44. / 45, -56. / 15, 32. / 9},
        {19372. / 6561, -25360. / 2187, 64448. / 6561, -212. / 729},
        {9017. / 3168, -355. / 33, 46732. / 5247, 49. / 176, -5103. / 18656},
        {35. / 384, 0, 500. / 1113, 125. / 192, -2187. / 6784, 11. / 84}},
       {35. / 384, 0, 500. / 1113, 125. / 192, -2187. / 6784, 11. / 84, 0},
       {35. / 384 - 1951. / 21600, 0, 500. / 1113 - 22642. / 50085, 125. / 192 - 451. / 720,
        -2187. / 6784 + 12231. / 42400, 11. / 84 - 649. / 6300, -1. / 60},
       {6025192743. / 30085553152. / 2, 0, 51252292925. / 65400821598. / 2, -2691868925. / 45128329728. / 2,
        187940372067. / 1594534317056. / 2, -1776094331. / 19743644256. / 2, 11237099. / 235043384. / 2}},
  };
  return all;
}

}  // namespace

const Tableau& tableau(const std::string& name) {
  std::string known;
  for (const Tableau& t : tableaux()) {
    if (t.name == name) return t;
    known += (known.empty() ? "" : ", ") + t.name;
  }
  fail("odeint", "unknown method \"", name, "\"; known: ", known);
}

DenseOutput dense_output(const Tableau& tableau, double x) {
  if (x == 1) return {0, 1, 0, 0, 0};
  if (tableau.b_middle.empty()) return {1 - x, x, 0, 0, 0};
  // the quartic through y0, middle and y1 with the slopes of both ends
  const double x2 = x * x, x3 = x2 * x, x4 = x3 * x;
  return {1 - 11 * x2 + 18 * x3 - 8 * x4, -5 * x2 + 14 * x3 - 8 * x4, 16 * x2 - 32 * x3 + 16 * x4,
          x - 4 * x2 + 5 * x3 - 2 * x4, x2 - 3 * x3 + 2 * x4};
}

}  // namespace rw
