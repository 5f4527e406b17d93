// @ts-check
// Lines over steps or time, drawn by uPlot; each chart also has its newest numbers in a sentence.
import { h, theme } from "/static/drawing/dom.js";
import { isNumber, seconds, short } from "/static/drawing/format.js";

/** @import { Column } from "/static/data/types.d.ts" */

/** @typedef {(plot: uPlot, low: number | null) => [number, number]} Range */

/**
 * A line, or a border of a band: an "edge" begins a band that the "band" behind it ends.
 * @typedef {{ label: string, values?: () => Column, colour?: string, points?: boolean, edge?: boolean, band?: boolean }} Series
 */

/**
 * `x`: of the axis; `range`: of the y axis; `isLog`: it is logarithmic; `isJoint`: the cursor moves in all such charts.
 * @typedef {{ x?: { label: string, isTime?: boolean }, range?: [number, number] | Range, hint?: string, isJoint?: boolean, isLog?: boolean }} Options
 */

const HEIGHT = 190;
const COLOURS = ["--s1", "--s2", "--s3", "--s4", "--s5", "--s6"];
const sync = uPlot.sync("charts");

export class LineChart {
  /**
   * @param {string} title
   * @param {Series[]} series
   * @param {Options} options
   */
  constructor(title, series, { x = { label: "step" }, range = undefined, hint = "", isJoint = true, isLog = false } = {}) {
    this.title = title;
    this.series = series;
    this.x = x;
    this.range = range;
    this.isJoint = isJoint;
    this.isLog = isLog;
    this.place = h("div", { class: "chart" });
    this.text = h("p", { class: "hidden-text" });
    this.element = h("figure", { class: "card" }, h("figcaption", {}, title), hint ? h("p", { class: "soft" }, hint) : "", this.place, this.text);
    /** @type {Column[] | null} */
    this.data = null;
    /** @type {uPlot | null} */
    this.plot = null;
    new ResizeObserver(() => this.plot?.setSize({ width: this.place.clientWidth, height: HEIGHT })).observe(this.place);
  }

  /**
   * @param {Column} across x values
   * @param {Column[]} up the values of each series; without them, those that the series name
   */
  show(across, up = this.series.map((one) => one.values?.() ?? [])) {
    this.data = [across, ...up];
    this.text.textContent = this.#sentence(up);
    if (!this.place.clientWidth) return;
    if (this.plot) {
      this.plot.setData(aligned(this.data));
      if (this.plot.cursor.idx === null || this.plot.cursor.idx === undefined) this.#showNewest();
    }
    else this.#make(this.data);
  }

  repaint() {
    this.plot?.destroy();
    this.plot = null;
    if (this.data) this.#make(this.data);
  }

  /** @param {Column[]} data */
  #make(data) {
    const axis = { stroke: theme("--soft"), grid: { stroke: theme("--grid"), width: 1 }, ticks: { show: false }, font: "11px system-ui" };
    const format = (/** @type {uPlot} */ _, /** @type {Column} */ values) => values.map((value) => (value === null ? "" : short(value)));
    const xAxis = { ...axis, values: this.x.isTime ? (/** @type {uPlot} */ _, /** @type {Column} */ values) => values.map(seconds) : format };
    /** @type {uPlot.Options} */
    const options = {
      width: this.place.clientWidth,
      height: HEIGHT,
      cursor: { sync: this.isJoint ? { key: sync.key } : undefined, points: { size: 5 } },
      legend: { live: true },
      scales: { x: { time: false }, y: { range: this.range, distr: this.isLog ? 3 : 1 } },
      axes: [xAxis, { ...axis, values: format, size: 56 }],
      series: [{ label: this.x.label, value: (_, value) => (this.x.isTime ? seconds(value) : short(value)) }, ...this.series.map((one, index) => this.#line(one, index))],
      hooks: { setCursor: [(plot) => plot.cursor.idx ?? this.#showNewest()] },
      bands: this.series.flatMap((one, index) => (one.band ? [{ series: [index + 1, index], fill: `${theme(one.colour ?? COLOURS[0])}33` }] : [])),
    };
    this.plot = new uPlot(options, aligned(data), this.place);
    const rows = this.place.querySelectorAll(".u-legend .u-series");
    this.series.forEach((one, index) => rows[index + 1].toggleAttribute("hidden", Boolean(one.edge || one.band)));
    this.#showNewest();
  }

  // While nobody points at the chart, the legend shows the newest numbers.
  #showNewest() {
    if (!this.plot || !this.data?.[0].length) return;
    this.plot.setLegend({ idxs: this.data.map((values) => Math.max(0, values.findLastIndex(isNumber))) }, false);
  }

  /**
   * @param {Series} one
   * @param {number} index
   * @returns {uPlot.Series}
   */
  #line(one, index) {
    const stroke = theme(one.colour ?? COLOURS[index % COLOURS.length]);
    const isEdge = one.edge || one.band;
    return {
      label: one.label,
      stroke: isEdge ? `${stroke}00` : stroke,
      width: 2, // of an edge, too, and not in whole pixels: else a narrow band lies aside of its line
      pxAlign: 0,
      points: { show: Boolean(one.points), size: 6, fill: stroke },
      spanGaps: true,
      value: (_, value) => short(value),
    };
  }

  /** @param {Column[]} up */
  #sentence(up) {
    const parts = this.series.map((one, index) => {
      const values = up[index].filter(isNumber);
      return values.length ? `${one.label} ${short(values.at(-1))} (from ${short(values[0])})` : `${one.label} none yet`;
    });
    return `${this.title}: ${parts.join("; ")}.`;
  }
}

/** @param {Column[]} data */
function aligned(data) {
  return /** @type {uPlot.AlignedData} */ (data);
}
