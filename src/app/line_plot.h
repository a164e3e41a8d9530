// LinePlot: a line chart as an SVG text, without any library; for reports of commands.
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace quipu {

struct PlotLine {
  std::string label;
  std::vector<std::pair<double, double>> points;  // sorted by x
};

struct LinePlot {
  std::string title, x_label, y_label;
  bool log_x = false;  // REQUIRES: then all x > 0
  bool percent_y = false;
  std::vector<PlotLine> lines;
};

// The y axis starts at 0. REQUIRES: at least one point.
std::string render_svg(const LinePlot& plot);

}  // namespace quipu
