// Line and point plots as SVG, for `ropewalk theory`.
#pragma once
#include <CLI/CLI.hpp>
#include <cmath>
#include <string>
#include <vector>

#include "rope/bounds.h"

struct Series {
  std::string name, colour;
  size_t column;
  bool points = false;
};

struct Plot {
  std::string title, x_title, y_title;
  const rw::CurveTable& table;  // x is the first column; NaN leaves a gap
  std::vector<Series> series;
  double low, high;    // of y; values outside are cut at the frame
  double line = NAN;   // a dashed horizontal line
  double right = NAN;  // end of the x axis; NaN: the last row's x
};

/// A standalone SVG. Titles and names must be free of markup.
std::string svg(const Plot& plot);

/// Registers `theory pictures`.
void add_theory_pictures(CLI::App& theory);
