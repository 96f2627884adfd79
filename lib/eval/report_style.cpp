// The style sheet of a report, and the rope drawn at its head.
#include "eval/report_style.h"

#include <cmath>
#include <cstdio>

#include "tensor/error.h"

namespace rw {

namespace {

// The eight colours keep their distance from each other and from the surface, light and dark, for readers with common
// colour blindness too; the grey is for what everything is compared with.
constexpr const char* kStyle = R"css(
:root { color-scheme: light dark;
  --page: #f6f5f1; --card: #ffffff; --ink: #1d1c1a; --soft: #65625b; --rule: #e4e1d9; --grid: #eeece6;
  --s0: #1f6fd0; --s1: #d8661f; --s2: #0c8f72; --s3: #9a45c7; --s4: #c2304f; --s5: #7c8a00; --s6: #0e8fb3; --s7: #8a5a2b;
  --grey: #8b877d; --heat: #1f6fd0; --on: #ffffff; --best: #0b7a4b; --shade: #00000026; --warn: #8a4b00; --warnbg: #fff3df; }
@media (prefers-color-scheme: dark) { :root {
  --page: #141517; --card: #1c1e21; --ink: #ecebe7; --soft: #a09d95; --rule: #303338; --grid: #282b2f;
  --s0: #6cabf7; --s1: #f09a5a; --s2: #3fc7a3; --s3: #c58bec; --s4: #f2788f; --s5: #b9c543; --s6: #4fc3e2; --s7: #c99763;
  --grey: #8e8b84; --heat: #4a90e2; --on: #ffffff; --best: #55d39a; --shade: #00000090; --warn: #f0c27a; --warnbg: #33291a; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main, header .in, footer { max-width: 1240px; margin: 0 auto; padding: 0 24px; }
header { background: var(--card); border-bottom: 1px solid var(--rule); overflow: hidden; }
header .in { padding-top: 30px; padding-bottom: 26px; }
.rope { display: block; width: 100%; min-width: 900px; height: 40px; }
.rope path { fill: none; stroke-width: 2.5; stroke-linecap: round; }
.brand { font-weight: 650; letter-spacing: .14em; text-transform: uppercase; font-size: 12px; color: var(--soft); }
h1 { font-size: clamp(26px, 4vw, 38px); line-height: 1.15; letter-spacing: -.02em; margin: 4px 0 6px; font-weight: 680; }
.lead { color: var(--soft); margin: 0; max-width: 75ch; }
.verdict { font-size: clamp(17px, 2vw, 20px); line-height: 1.5; margin: 26px 0 4px; max-width: 80ch; }
h2 { font-size: 19px; letter-spacing: -.01em; margin: 0 0 2px; font-weight: 650; }
h3 { font-size: 14px; margin: 0 0 6px; font-weight: 600; }
section { background: var(--card); border: 1px solid var(--rule); border-radius: 12px; padding: 22px 24px; margin: 20px 0; }
.note { color: var(--soft); font-size: 14px; margin: 0 0 14px; max-width: 80ch; }
.warn { color: var(--warn); background: var(--warnbg); border-radius: 8px; padding: 8px 12px; margin: 0 0 14px; font-size: 14px;
  overflow-wrap: anywhere; }
.pair + h3 { margin-top: 24px; }
h3.protocol { margin: 18px 0 8px; overflow-wrap: anywhere; }
.pair { display: grid; grid-template-columns: minmax(0, 1.3fr) minmax(0, 1fr); gap: 30px; align-items: start; }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(320px, 1fr)); gap: 22px; }
.chart { display: block; width: 100%; height: auto; }
.narrow, .legend.small { display: none; }
.chart text { font-size: 12px; fill: var(--soft); font-variant-numeric: tabular-nums; }
.chart .title { font-size: 12px; fill: var(--soft); }
.chart .group { font-size: 12.5px; font-weight: 600; fill: var(--ink); }
.chart .end { font-size: 12.5px; font-weight: 600; fill: var(--c); }
.chart .grid { stroke: var(--grid); }
.chart .axis { stroke: var(--soft); stroke-opacity: .6; }
.chart .mark { stroke: var(--soft); stroke-dasharray: 2 4; }
.chart .marktext { font-size: 11.5px; font-style: italic; }
.chart .line { fill: none; stroke: var(--c); stroke-width: 2.25; stroke-linejoin: round; stroke-linecap: round; }
.again .line { stroke-dasharray: 2 4; }
.chart .dashed { stroke-dasharray: 6 5; }
.chart .dot { fill: var(--c); stroke: var(--card); stroke-width: 1.5; }
.chart .whisker { stroke: var(--c); stroke-opacity: .5; stroke-width: 2.5; stroke-linecap: round; }
.chart .lead { stroke: var(--c); stroke-opacity: .6; stroke-dasharray: 1 4; }
.chart .cell { fill: var(--heat); }
.chart .on { fill: var(--on); font-size: 11px; }
.chart .off { fill: var(--ink); font-size: 11px; }
.c0 { --c: var(--s0); } .c1 { --c: var(--s1); } .c2 { --c: var(--s2); } .c3 { --c: var(--s3); }
.c4 { --c: var(--s4); } .c5 { --c: var(--s5); } .c6 { --c: var(--s6); } .c7 { --c: var(--s7); } .grey { --c: var(--grey); }
.legend { display: flex; flex-wrap: wrap; gap: 4px 16px; margin: 0 0 8px; padding: 0; list-style: none; font-size: 13.5px; }
.chip { display: inline-block; width: 11px; height: 11px; border-radius: 3px; background: var(--c); margin-right: 7px; }
.chip.again { background: transparent; border: 3px dotted var(--c); }
/* A shade at the edge shows that a table goes on there. */
.scroll { overflow-x: auto; -webkit-overflow-scrolling: touch;
  background: linear-gradient(to left, var(--card) 24px, transparent) right / 48px 100% no-repeat local,
    linear-gradient(to left, var(--shade), transparent) right / 16px 100% no-repeat scroll; }
.pair th:first-child, .pair td:first-child { white-space: normal; min-width: 104px; overflow-wrap: anywhere; }
.facts td.words { min-width: 5.4em; overflow-wrap: break-word; }
table { border-collapse: collapse; width: 100%; font-size: 13.5px; font-variant-numeric: tabular-nums; }
th, td { padding: 7px 8px; text-align: right; border-bottom: 1px solid var(--rule); white-space: nowrap; }
th { color: var(--soft); font-weight: 550; font-size: 12.5px; }
th:first-child, td:first-child { text-align: left; padding-left: 0; position: sticky; left: 0; background: var(--card); }
td:first-child wbr { display: none; }
tbody tr:last-child td { border-bottom: 0; }
th.words { text-align: left; }
td.words { text-align: left; white-space: normal; min-width: 9em; overflow-wrap: anywhere; }
.best { color: var(--best); font-weight: 650; }
.same { color: var(--soft); }
.range { color: var(--soft); font-size: 12px; display: block; }
.bar { display: block; height: 5px; border-radius: 3px; background: var(--c); margin-top: 4px; min-width: 2px; }
pre { margin: 0; white-space: pre-wrap; overflow-wrap: anywhere; font: 13.5px/1.6 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
footer { color: var(--soft); font-size: 13px; padding-top: 6px; padding-bottom: 40px; }
@media (max-width: 900px) { .pair { grid-template-columns: minmax(0, 1fr); gap: 16px; } }
@media (max-width: 640px) {
  main, header .in, footer { padding-left: 14px; padding-right: 14px; }
  section { padding: 18px 14px; border-radius: 10px; margin: 14px 0; }
  .wide { display: none; } .narrow { display: block; } .legend.small { display: flex; }
  .grid { grid-template-columns: minmax(0, 1fr); }
  th, td { padding: 6px; }
  /* A long name must not fill the screen: the columns beside it could not be reached. */
  th:first-child, td:first-child, .pair th:first-child, .pair td:first-child { white-space: normal; min-width: 86px; max-width: 34vw; overflow-wrap: anywhere; }
  td:first-child wbr { display: inline; }
  td.words { min-width: 7em; }
  .facts td.words { white-space: nowrap; min-width: 0; }
}
@media print { body { background: #fff; } section { break-inside: avoid; } }
)css";

}  // namespace

std::string report_style() { return kStyle; }

std::string report_rope() {
  std::string out = "<svg class=\"rope\" viewBox=\"0 0 1240 40\" preserveAspectRatio=\"none\" aria-hidden=\"true\">";
  for (int strand = 0; strand < 3; ++strand) {
    std::string path;
    for (int x = 0; x <= 1240; x += 8) {
      // The pitch grows to the right: a rope being stretched.
      const double u = x / 1240.0, turns = 16 * u * (1 - 0.38 * u);
      const double y = 20 + 12 * std::sin(2 * 3.14159265 * (turns + strand / 3.0));
      char point[40];
      std::snprintf(point, sizeof point, "%s%d %.1f", x ? "L" : "M", x, y);
      path += point;
    }
    out += cat("<path d=\"", path, "\" style=\"stroke:var(--s", strand, ")\"/>");
  }
  return out + "</svg>\n";
}

}  // namespace rw
