// The timeline page: the records as numbers, and a small script that draws the part of them in view as SVG.
#include <cstdio>
#include <map>

#include "eval/profile_report.h"
#include "eval/report_chart.h"
#include "eval/report_style.h"
#include "tensor/error.h"

namespace rw {
namespace {

/// A JSON string that is also safe inside a script element.
std::string quoted(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) {
    char code[8];
    if (c == '"' || c == '\\' || c == '<' || static_cast<unsigned char>(c) < 0x20) {
      std::snprintf(code, sizeof code, "\\u%04x", static_cast<unsigned char>(c));
      out += code;
    } else {
      out += c;
    }
  }
  return out + "\"";
}

/// Gives each distinct text a number.
class Texts {
 public:
  size_t index(const std::string& text) {
    const auto [at, added] = known_.emplace(text, known_.size());
    if (added) list_ += (list_.empty() ? "" : ",") + quoted(text);
    return at->second;
  }
  std::string json() const { return "[" + list_ + "]"; }

 private:
  std::map<std::string, size_t> known_;
  std::string list_;
};

/// [row, name, part, start us, length us, queued us, bytes, FLOPs] per record. Rows are phases, those of the host last.
std::string records_json(const Profile& p, Texts& rows, Texts& names) {
  std::string out = "[";
  const auto add = [&](const std::vector<ProfileRecord>& records, const std::string& prefix) {
    for (const ProfileRecord& r : records) {
      char numbers[160];
      std::snprintf(numbers, sizeof numbers, "%.3f,%.3f,%.3f,%.0f,%.0f]", r.start * 1e6, (r.end - r.start) * 1e6,
                    r.queued * 1e6, r.work.bytes, r.work.flops);
      const std::string phase = r.phase.empty() ? "other" : r.phase;
      const size_t row = rows.index(prefix + phase), name = names.index(r.name), part = names.index(r.part);
      out += cat(out.size() > 1 ? ",[" : "[", row, ",", name, ",", part, ",", numbers);
    }
  };
  add(p.kernels, "");
  add(p.ops, p.kernels.empty() ? "" : "host: ");
  return out + "]";
}

const char* const kStyle = R"css(
.timeline { width: 100%; display: block; touch-action: none; cursor: grab; user-select: none; }
.timeline text { fill: var(--soft); font-size: 12px; }
.timeline .axis { stroke: var(--rule); }
.timeline .busy { fill-opacity: .92; }
.timeline .busy:hover { stroke: var(--ink); stroke-width: 1.5; }
#tip { position: fixed; pointer-events: none; background: var(--card); color: var(--ink); border: 1px solid var(--rule);
  border-radius: 8px; padding: 8px 10px; font-size: 13px; line-height: 1.4; white-space: pre; display: none;
  box-shadow: 0 4px 16px rgb(0 0 0 / .18); z-index: 5; }
.scroll { overflow-x: auto; }
pre { font-size: 12.5px; line-height: 1.45; margin: 0; }
)css";

const char* const kScript = R"js(
const svg = document.querySelector('.timeline'), tip = document.getElementById('tip');
const NS = 'http://www.w3.org/2000/svg', LEFT = 110, BAND = 34, HEAD = 26;
const first = Math.min(...records.map(r => r[3])), last = Math.max(...records.map(r => r[3] + r[4]));
let from = first, to = Math.max(last, first + 1);
const color = i => `var(--s${i % 8})`;
const micro = x => x >= 1000 ? (x / 1000).toFixed(3) + ' ms' : x.toFixed(1) + ' us';
function add(kind, attributes, text) {
  const e = document.createElementNS(NS, kind);
  for (const k in attributes) e.setAttribute(k, attributes[k]);
  if (text !== undefined) e.textContent = text;
  svg.appendChild(e);
  return e;
}
function draw() {
  svg.replaceChildren();
  const width = svg.clientWidth, scale = (width - LEFT) / (to - from), height = HEAD + rows.length * BAND;
  svg.setAttribute('viewBox', `0 0 ${width} ${height}`);
  svg.style.height = height + 'px';
  let tick = 10 ** Math.floor(Math.log10((to - from) / 4));
  if ((to - from) / tick > 16) tick *= 5; else if ((to - from) / tick > 8) tick *= 2;
  for (let t = Math.ceil((from - first) / tick) * tick; t <= to - first; t += tick) {
    const x = LEFT + (t + first - from) * scale;
    add('line', {x1: x, x2: x, y1: HEAD - 6, y2: height, class: 'axis'});
    add('text', {x: x + 3, y: 12}, micro(t));
  }
  rows.forEach((name, i) => add('text', {x: 0, y: HEAD + i * BAND + BAND / 2 + 2}, name));
  const drawn = rows.map(() => -1);  // right edge of the last rectangle of a row: what is narrower than a pixel is joined
  for (const r of records) {
    const a = Math.max(LEFT, LEFT + (r[3] - from) * scale), b = Math.min(width, LEFT + (r[3] + r[4] - from) * scale);
    if (b < LEFT || a > width || b - drawn[r[0]] < 0.4) continue;
    drawn[r[0]] = b;
    const e = add('rect', {x: a, y: HEAD + r[0] * BAND + 3, width: Math.max(b - a, 0.5), height: BAND - 8, rx: b - a > 6 ? 2 : 0,
                           fill: color(r[1]), class: 'busy'});
    e.record = r;
  }
}
svg.addEventListener('pointermove', event => {
  if (drag) {
    const shift = (drag.x - event.clientX) * (to - from) / (svg.clientWidth - LEFT);
    from = drag.from + shift; to = drag.to + shift; draw();
    return;
  }
  const r = event.target.record;
  tip.style.display = r ? 'block' : 'none';
  if (!r) return;
  let text = names[r[1]] + '\n' + rows[r[0]] + (names[r[2]] ? ', ' + names[r[2]] : '') + '\nat ' + micro(r[3] - first) +
    ', takes ' + micro(r[4]);
  if (r[5] > 0) text += '\nqueued ' + micro(r[3] - r[5]) + ' before';
  if (r[6] > 0) text += '\n' + (r[6] / 1e6).toFixed(1) + ' MB, ' + (r[6] / r[4] / 1e3).toFixed(0) + ' GB/s';
  if (r[7] > 0) text += '\n' + (r[7] / 1e9).toFixed(1) + ' GFLOP, ' + (r[7] / r[4] / 1e6).toFixed(1) + ' TFLOP/s';
  const least = Math.max(ceilings[0] > 0 ? r[6] / ceilings[0] : 0, ceilings[1] > 0 ? r[7] / ceilings[1] : 0) * 1e6;
  if (least > 0) text += '\n' + (100 * least / r[4]).toFixed(1) + ' % of the roofline';
  tip.textContent = text;
  tip.style.left = Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8) + 'px';
  tip.style.top = Math.min(event.clientY + 14, innerHeight - tip.offsetHeight - 8) + 'px';
});
svg.addEventListener('pointerleave', () => tip.style.display = 'none');
svg.addEventListener('wheel', event => {
  event.preventDefault();
  const at = from + (event.clientX - svg.getBoundingClientRect().left - LEFT) / (svg.clientWidth - LEFT) * (to - from);
  const factor = Math.exp(event.deltaY * 0.002);
  from = at - (at - from) * factor; to = at + (to - at) * factor; draw();
}, {passive: false});
let drag = null;
svg.addEventListener('pointerdown', event => { drag = {x: event.clientX, from, to}; svg.setPointerCapture(event.pointerId); });
svg.addEventListener('pointerup', () => drag = null);
svg.addEventListener('dblclick', () => { from = first; to = last; draw(); });
addEventListener('resize', draw);
if (records.length) draw();
)js";

}  // namespace

std::string profile_html(const ProfileSubject& s) {
  Texts rows, names;
  const std::string records = records_json(s.profile, rows, names);
  char ceilings[80];
  std::snprintf(ceilings, sizeof ceilings, "[%.6g,%.6g]", s.bytes_per_second, s.flops_per_second);
  std::string out = "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>" + escape_html(s.title) +
                    "</title>\n<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<style>" +
                    report_style() + kStyle + "</style></head><body>\n";
  out += "<header><div class=\"in\"><div class=\"brand\">Ropewalk profile</div><h1>" + escape_html(s.title) +
         "</h1><p class=\"lead\">One training step on " + escape_html(s.device) + "</p></div></header><main>\n";
  out +=
      "<section><h2>Timeline</h2><p class=\"note\">A rectangle is a kernel (or an op of the host). Wheel: zoom. Drag: "
      "move. Double click: all of it.</p><svg class=\"timeline\"></svg></section>\n";
  out += "<section><h2>Where the time goes</h2><div class=\"scroll\"><pre>" + escape_html(profile_text(s, 200)) +
         "</pre></div></section>\n</main><div id=\"tip\"></div>\n<script>\nconst rows = " + rows.json() +
         ", names = " + names.json() + ", ceilings = " + ceilings + ", records = " + records + ";" + kScript +
         "</script>\n</body></html>\n";
  return out;
}

}  // namespace rw
