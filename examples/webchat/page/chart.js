// A chart of the last two minutes: lines over time, with axes that do not jump.

const span = 120_000; // milliseconds
const left = 64, right = 10, top = 10, bottom = 24; // pixels around the lines

// A Chart draws into an svg element. Each series is {name, css, of(point)}. A point has a time in
// milliseconds. ceiling(value) returns the smallest scale for a value. label(value) returns its text.
export class Chart {
  #svg;
  #legend;
  #series;
  #ceiling;
  #label;
  #points = [];
  #scale = 0;

  constructor(svg, legend, { series, ceiling, label }) {
    this.#svg = svg;
    this.#legend = legend;
    this.#series = series;
    this.#ceiling = ceiling;
    this.#label = label;
    for (const { name, css } of series) {
      const item = document.createElement("li");
      item.className = css;
      item.append(`${name} `, document.createElement("b"));
      legend.append(item);
    }
    new ResizeObserver(() => this.#draw()).observe(svg);
  }

  // show draws the points, oldest first.
  show(points) {
    this.#points = points;
    this.#draw();
  }

  #draw() {
    const points = this.#points;
    const { clientWidth: width, clientHeight: height } = this.#svg;
    const now = points.at(-1)?.time ?? 0;
    const most = Math.max(0, ...points.flatMap((p) => this.#series.map((s) => s.of(p))));
    const ceiling = this.#ceiling(most);
    // The scale shrinks only when it is much too large.
    if (ceiling > this.#scale || ceiling * 4 <= this.#scale) this.#scale = ceiling;

    const x = (time) => left + (1 - (now - time) / span) * (width - left - right);
    const y = (value) => height - bottom - (value / this.#scale) * (height - top - bottom);
    const parts = [];
    for (const value of [0, this.#scale / 2, this.#scale]) {
      parts.push(draw("line", { class: "grid", x1: left, x2: width - right, y1: y(value), y2: y(value) }));
      parts.push(draw("text", { x: left - 8, y: y(value) + 4, "text-anchor": "end" }, this.#label(value)));
    }
    for (const [ago, text, anchor] of [[span, "2 min ago", "start"], [span / 2, "1 min ago", "middle"], [0, "now", "end"]]) {
      parts.push(draw("text", { x: x(now - ago), y: height - 6, "text-anchor": anchor }, text));
    }
    if (points.length) {
      for (const { css, of } of this.#series) {
        if (!points.some(of)) continue; // a line of zeros would hide the axis
        const line = points.map((p) => `${x(p.time).toFixed(1)},${y(of(p)).toFixed(1)}`).join("L");
        const area = `M${x(points[0].time)},${y(0)}L${line}L${x(now)},${y(0)}Z`;
        parts.push(draw("path", { class: `area ${css}`, d: area }), draw("path", { class: `line ${css}`, d: `M${line}` }));
      }
    }
    this.#svg.replaceChildren(...parts);
    this.#series.forEach(({ of }, i) => {
      const value = this.#legend.children[i].lastChild;
      value.textContent = points.length ? this.#label(of(points.at(-1))) : "–";
    });
  }
}

function draw(tag, attributes, text = "") {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.textContent = text;
  return element;
}

// within returns the points within the time of a chart, and the one before.
export function within(points) {
  const since = points.at(-1).time - span;
  const first = points.findIndex((p) => p.time >= since);
  return points.slice(Math.max(0, first - 1));
}
