// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

import uPlot from "./uplot/uPlot.esm.js";
import { clock, clockMinutes, exact, printable, size } from "./format.js";
import { otherHeap, runtime } from "./history.js";
import { element } from "./table.js";

const shortest = 60; // seconds that a chart shows at least
const sync = uPlot.sync("weir");

// The colours are the style sheet's, so that there is one place for both themes. Purposes that it does not know, of a later server,
// take turns in what it has.
const known = ["frames", "history", "derived", "compressed", "streams", "readers", "compressors", "decoded", "informers"];
const others = new Map([[otherHeap, "--c-heap"], [runtime, "--c-runtime"]]);
let styles = null;

function colour(property) {
  styles ??= getComputedStyle(document.documentElement);
  return styles.getPropertyValue(property).trim();
}

function property(name, i) {
  return others.get(name) ?? `--c-${known.includes(name) ? name : known[i % known.length]}`;
}

function rootSize() {
  return parseFloat(getComputedStyle(document.documentElement).fontSize);
}

// Chart is one of uPlot's in a figure. make makes this.uplot.
class Chart {
  constructor(figure, label) {
    this.figure = figure;
    this.label = label;
    this.plot = figure.querySelector(".plot");
    this.at = figure.querySelector(".at");
    this.window = [0, 1];
    new ResizeObserver(() => this.resize()).observe(this.plot);
  }

  options(series, y) {
    const rem = this.rem = rootSize();
    const axis = { stroke: () => colour("--muted"), font: this.font(), ticks: { show: false } };
    return {
      ...this.room(),
      padding: [8, Math.round(2 * rem), 0, 0], // the last time has its middle at the end of the line
      legend: { show: false },
      cursor: { y: false, drag: { x: false, y: false }, points: { show: false }, sync: { key: sync.key } },
      scales: { x: { range: () => this.window }, y: { range: (_, __, max) => [0, y.top(max)] } },
      axes: [
        {
          ...axis, incrs: (_, __, from, to) => times.filter((t) => t >= 60 || !coarse(from, to)), space: (_, __, from, to) => (coarse(from, to) ? 3.6 : 5.4) * rem, size: 1.7 * rem, gap: 4,
          values: (_, splits, __, ___, step) => splits.map((s) => (step < 60 ? clock : clockMinutes)(s * 1000)), grid: { show: false },
        },
        { ...axis, space: 2.4 * rem, gap: 6, size: (_, values) => this.width(values), values: (_, splits) => splits.map(y.text), incrs: y.steps, grid: { stroke: () => colour("--grid"), width: 1 } },
      ],
      series: [{}, ...series],
      hooks: { setCursor: [(u) => this.point(u.cursor.idx)], draw: y.draw ? [y.draw] : [] },
    };
  }

  font() {
    return `${Math.round(this.rem * 0.86)}px ${getComputedStyle(document.body).fontFamily}`;
  }

  // width is what the numbers beside the axis take.
  width(values) {
    return Math.ceil((Math.max(4, ...(values ?? []).map((v) => v.length)) * 0.5 + 1.1) * this.rem);
  }

  room() {
    return { width: Math.max(120, this.plot.clientWidth), height: Math.max(80, this.plot.clientHeight) };
  }

  // resize fits the chart into its place. Its letters do not change, so that it is made anew for others.
  resize() {
    if (!this.uplot) return;
    if (this.rem === rootSize()) {
      this.uplot.setSize(this.room());
      return;
    }
    this.make();
    if (this.data) this.set(this.data, this.window);
  }

  // set shows data, with x in seconds.
  set(data, window) {
    this.window = window;
    if (!this.uplot) return;
    this.data = data;
    this.uplot.setData(data);
    this.point(this.uplot.cursor.idx);
    this.plot.setAttribute("aria-label", `${this.label}: ${this.words()}`);
  }

  // last is the place of the newest sample that is none of a gap.
  last() {
    return this.data[1].findLastIndex((v) => v !== null);
  }

  // point shows the numbers of a sample, those of the last if there is none at the pointer.
  point(idx) {
    if (!this.data) return;
    const pointed = idx !== null && idx !== undefined && this.data[1][idx] !== null && this.data[1][idx] !== undefined;
    this.at.textContent = pointed ? `at ${clock(this.data[0][idx] * 1000)}` : "";
    this.show(pointed ? idx : this.last());
  }

  // theme draws anew in other colours.
  theme() {
    styles = null;
    this.uplot?.redraw(false);
  }
}

// Steps of an axis of time, in seconds; of 60 and more the seconds are not written.
const times = [1, 5, 10, 15, 30, 60, 120, 300, 600, 1200, 1800, 3600];
const coarse = (from, to) => to - from > 200;

// Steps of an axis of bytes and of one of things, each of which is a whole.
const steps = Array.from({ length: 15 }, (_, e) => [1, 2, 5].map((f) => f * 10 ** e)).flat();

// LineChart shows one number.
export class LineChart extends Chart {
  constructor(figure, { label, property, of, text, axis, least }) {
    super(figure, label);
    Object.assign(this, { of, text });
    this.now = figure.querySelector(".now");
    this.series = { stroke: () => colour(property), fill: () => colour(`${property}-fill`), width: 1.5, points: { show: false } };
    this.y = { top: (max) => Math.max(least, (max ?? 0) * 1.08), text: axis, steps };
    this.make();
  }

  make() {
    this.uplot?.destroy();
    this.uplot = new uPlot(this.options([this.series], this.y), [[], []], this.plot);
  }

  update(history, window) {
    this.set([history.samples.map((s) => s.t), history.column(this.of)], window);
  }

  show(idx) {
    this.now.textContent = idx < 0 ? "–" : this.text(this.data[1][idx]);
  }

  words() {
    const idx = this.last();
    return idx < 0 ? "nothing yet" : `${this.text(this.data[1][idx])} now`;
  }
}

// MemoryChart shows what memory is made of, one on top of the other, and the limit.
export class MemoryChart extends Chart {
  constructor(figure) {
    super(figure, "Memory by purpose");
    this.legend = figure.querySelector(".legend");
    this.names = [];
  }

  update(history, window) {
    const names = history.names();
    if (!this.uplot || names.join() !== this.names.join()) {
      this.names = names;
      this.make();
    }
    // The series are drawn one over the other, so the first is the sum of all, and the last of one part alone.
    const columns = names.map((name) => history.column((s) => s.parts[name] ?? 0));
    this.values = columns;
    const sums = [];
    columns.forEach((column, i) => {
      sums.push(i === 0 ? column : column.map((v, j) => (v === null ? null : v + sums[i - 1][j])));
    });
    const limits = history.column((s) => s.limit);
    this.limits = limits;
    this.set([history.samples.map((s) => s.t), ...sums.reverse(), limits], window);
  }

  make() {
    this.uplot?.destroy();
    const { names } = this;
    const areas = names.map((name, i) => ({
      fill: () => colour(property(name, i)), stroke: () => colour("--surface"), width: 1, points: { show: false },
    }));
    // The limit is drawn by hand: a line of data would say nothing outside of the samples.
    const y = { top: (max) => this.top(max), text: (v) => (v === 0 ? "0" : size(v)), steps, draw: (u) => this.line(u) };
    const limit = { show: true, width: 0, stroke: "transparent", points: { show: false } };
    this.uplot = new uPlot(this.options([...areas.reverse(), limit], y), [[], ...names.map(() => []), []], this.plot);
    this.rows = names.map((name, i) => {
      const swatch = element("span", "swatch");
      swatch.style.setProperty("--colour", `var(${property(name, i)})`);
      const row = element("li");
      const value = element("span", "number");
      row.append(swatch, element("span", "name", printable(name)), value);
      return { row, value };
    });
    const row = element("li", "limit");
    const value = element("span", "number");
    row.append(element("span", "swatch"), element("span", "name", "limit"), value);
    this.limitRow = { row, value };
    this.legend.replaceChildren(row, ...this.rows.map((r) => r.row).reverse());
  }

  // top is the top of the chart: the limit is in it unless what is used would then be too low to be read.
  top() {
    let used = 1;
    const [from, to] = this.window;
    this.data?.[0].forEach((t, i) => {
      if (t >= from && t <= to) used = Math.max(used, this.data[1][i] ?? 0);
    });
    const limit = this.limits?.at(this.last()) ?? null;
    return (limit !== null && limit < 5 * used ? Math.max(used, limit) : used) * 1.08;
  }

  line(u) {
    const limit = this.data && this.limits[this.last()];
    const { ctx, bbox } = u;
    if (!limit || limit > u.scales.y.max) return;
    const y = Math.round(u.valToPos(limit, "y", true)) + 0.5;
    ctx.save();
    ctx.strokeStyle = ctx.fillStyle = colour("--bad");
    ctx.lineWidth = 1.5 * devicePixelRatio;
    ctx.setLineDash([6 * devicePixelRatio, 4 * devicePixelRatio]);
    ctx.beginPath();
    ctx.moveTo(bbox.left, y);
    ctx.lineTo(bbox.left + bbox.width, y);
    ctx.stroke();
    ctx.restore();
  }

  show(idx) {
    this.rows.forEach(({ row, value }, i) => {
      const bytes = idx < 0 ? null : this.values[i][idx];
      value.textContent = bytes === null ? "–" : size(bytes);
      value.title = bytes === null ? "" : `${exact(bytes)} bytes`;
      row.classList.toggle("zero", !bytes);
    });
    const limit = idx < 0 ? null : this.limits[idx];
    this.limitRow.value.textContent = limit === null ? "none" : size(limit);
    this.limitRow.row.title = limit === null ? "" : `${exact(limit)} bytes${limit > this.uplot.scales.y.max ? ", above what the chart shows" : ""}`;
    this.limitRow.row.classList.toggle("zero", limit === null);
  }

  words() {
    const idx = this.last();
    if (idx < 0) return "nothing yet";
    return this.names.map((name, i) => `${printable(name)} ${size(this.values[i][idx])}`).join(", ");
  }
}

// windowOf returns from when to when charts show what there is, at most so many minutes of it.
export function windowOf(history, minutes) {
  const { samples } = history;
  const to = samples.length ? samples.at(-1).t : Date.now() / 1000;
  const from = samples.length ? samples[0].t : to;
  return [to - Math.min(minutes * 60, Math.max(shortest, to - from)), to];
}
