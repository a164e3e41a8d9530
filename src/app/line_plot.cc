#include "app/line_plot.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

namespace quipu {

namespace {

constexpr double kWidth = 720, kHeight = 420, kLeft = 70, kRight = 150, kTop = 50, kBottom = 60;
// Told apart by people who see few colours too, on white and on black. SOURCE: Okabe & Ito 2008.
constexpr std::array kColours = {"#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"};

std::string escape_xml(const std::string& text) {
  std::string escaped;
  for (const char c : text) {
    if (c == '&')
      escaped += "&amp;";
    else if (c == '<')
      escaped += "&lt;";
    else
      escaped += c;
  }
  return escaped;
}

// 1, 2 or 5 times a power of ten, so that about `steps` of them span `range`.
double round_step(double range, int steps) {
  const double raw = range / steps;
  const double power = std::pow(10, std::floor(std::log10(raw)));
  for (const double factor : {1.0, 2.0, 5.0, 10.0}) {
    if (factor * power >= raw) return factor * power;
  }
  return 10 * power;
}

std::string short_number(double value) {
  const char* units[] = {"", "k", "M", "G", "T"};
  int unit = 0;
  for (; std::abs(value) >= 1000 && unit < 4; ++unit) value /= 1000;
  return fmt::format("{:.3g}{}", value, units[unit]);
}

class Frame {
 public:
  explicit Frame(const LinePlot& plot) : plot_(plot) {
    x_min_ = INFINITY;
    for (const PlotLine& line : plot.lines) {
      for (const auto& [x, y] : line.points) {
        x_min_ = std::min(x_min_, position(x));
        x_max_ = std::max(x_max_, position(x));
        y_max_ = std::max(y_max_, y);
      }
    }
    if (x_max_ == x_min_) x_max_ += 1;
    if (y_max_ == 0) y_max_ = 1;
    y_step_ = round_step(y_max_, 5);
    y_max_ = std::ceil(y_max_ / y_step_) * y_step_;
  }

  double x(double value) const {
    return kLeft + (position(value) - x_min_) / (x_max_ - x_min_) * (kWidth - kLeft - kRight);
  }
  double y(double value) const {
    return kHeight - kBottom - value / y_max_ * (kHeight - kTop - kBottom);
  }
  double y_max() const { return y_max_; }
  double y_step() const { return y_step_; }

 private:
  double position(double value) const { return plot_.log_x ? std::log(value) : value; }

  const LinePlot& plot_;
  double x_min_, x_max_ = -INFINITY, y_max_ = 0, y_step_ = 1;
};

std::string text_at(double x, double y, const char* anchor, const std::string& text,
                    int size = 12) {
  return fmt::format(
      "<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"{}\" font-size=\"{}\">{}</text>\n", x, y,
      anchor, size, escape_xml(text));
}

std::string render_axes(const LinePlot& plot, const Frame& frame) {
  std::string svg;
  for (double y = 0; y <= frame.y_max() * 1.0001; y += frame.y_step()) {
    svg +=
        fmt::format("<line x1=\"{0}\" x2=\"{1}\" y1=\"{2:.1f}\" y2=\"{2:.1f}\" stroke=\"#ddd\"/>\n",
                    kLeft, kWidth - kRight, frame.y(y));
    svg += text_at(kLeft - 8, frame.y(y) + 4, "end",
                   plot.percent_y ? fmt::format("{:.0f} %", y * 100) : short_number(y));
  }
  std::vector<double> ticks;
  for (const PlotLine& line : plot.lines) {
    for (const auto& [x, y] : line.points) ticks.push_back(x);
  }
  std::ranges::sort(ticks);
  double last = -1e9;
  for (const double tick : ticks) {
    if (frame.x(tick) - last < 40) continue;  // labels need room
    last = frame.x(tick);
    svg += text_at(last, kHeight - kBottom + 18, "middle", short_number(tick));
  }
  svg += text_at((kLeft + kWidth - kRight) / 2, kHeight - 18, "middle", plot.x_label);
  svg += fmt::format(
      "<text transform=\"translate(18 {:.1f}) rotate(-90)\" text-anchor=\"middle\" "
      "font-size=\"12\">{}</text>\n",
      (kTop + kHeight - kBottom) / 2, escape_xml(plot.y_label));
  return svg + text_at(kLeft, 28, "start", plot.title, 15);
}

}  // namespace

std::string render_svg(const LinePlot& plot) {
  const Frame frame(plot);
  std::string svg = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0} {1}\" width=\"{0}\" "
      "height=\"{1}\" font-family=\"sans-serif\">\n"
      "<rect width=\"{0}\" height=\"{1}\" fill=\"white\"/>\n",
      kWidth, kHeight);
  svg += render_axes(plot, frame);
  for (size_t i = 0; i < plot.lines.size(); ++i) {
    const char* colour = kColours[i % kColours.size()];
    std::string points;
    for (const auto& [x, y] : plot.lines[i].points)
      points += fmt::format("{:.1f},{:.1f} ", frame.x(x), frame.y(y));
    svg += fmt::format("<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"2\"/>\n",
                       points, colour);
    for (const auto& [x, y] : plot.lines[i].points) {
      svg += fmt::format("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"3\" fill=\"{}\"/>\n", frame.x(x),
                         frame.y(y), colour);
    }
    const double y = kTop + 20 * static_cast<double>(i);
    svg += fmt::format(
        "<line x1=\"{0}\" x2=\"{1}\" y1=\"{2}\" y2=\"{2}\" stroke=\"{3}\" stroke-width=\"2\"/>\n",
        kWidth - kRight + 14, kWidth - kRight + 34, y, colour);
    svg += text_at(kWidth - kRight + 40, y + 4, "start", plot.lines[i].label);
  }
  return svg + "</svg>\n";
}

}  // namespace quipu
