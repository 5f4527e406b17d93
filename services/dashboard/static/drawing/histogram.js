// @ts-check
// Counts in bins as bars, drawn by uPlot; a sentence says which bin is the fullest, or what the one under the pointer holds.
import { fill, h, theme } from "/static/drawing/dom.js";
import { isNumber, percent, short, whole } from "/static/drawing/format.js";
import { axesOf } from "/static/drawing/lines.js";

/** @import { BinCounts } from "/static/data/answers.d.ts" */

const HEIGHT = 150;
const MOST_BAR_PIXELS = 120;

export class Histogram {
  /**
   * @param {string} title
   * @param {object} options
   * @param {string} options.unit of the values, in the plural; empty where they have none
   * @param {boolean} options.areWhole the values are whole numbers
   */
  constructor(title, { unit, areWhole }) {
    this.unit = unit;
    this.areWhole = areWhole;
    /** @type {BinCounts} */
    this.bins = { edges: [], counts: [] };
    this.whenEmpty = "";
    /** @type {uPlot | null} */
    this.plot = null;
    this.place = h("div", { class: "chart" });
    this.text = h("p", { class: "soft" });
    this.element = h("figure", {}, h("figcaption", {}, title), this.place, this.text);
    this.observer = new ResizeObserver(() => this.#resized());
    this.observer.observe(this.place);
  }

  /**
   * @param {BinCounts} bins
   * @param {string} whenEmpty why there is nothing to count
   */
  show(bins, whenEmpty) {
    [this.bins, this.whenEmpty] = [bins, whenEmpty];
    if (!this.plot || !bins.counts.length) this.repaint();
    else {
      this.plot.setData(this.#data());
      this.#describe(this.plot);
    }
  }

  repaint() {
    this.plot?.destroy();
    this.plot = null;
    if (!this.bins.counts.length) {
      fill(this.place, h("p", { class: "soft nothing" }, this.whenEmpty));
      this.text.textContent = "";
    } else if (this.place.clientWidth) {
      fill(this.place);
      this.plot = new uPlot(this.#options(), this.#data(), this.place);
      this.#describe(this.plot);
    }
  }

  #resized() {
    if (!this.element.isConnected) {
      this.observer.disconnect();
      this.plot?.destroy();
    } else if (this.plot) this.plot.setSize({ width: this.place.clientWidth, height: HEIGHT });
    else this.repaint();
  }

  /** @returns {uPlot.AlignedData} */
  #data() {
    const { edges, counts } = this.bins;
    return [counts.map((_, bin) => (edges[bin] + edges[bin + 1]) / 2), counts];
  }

  /** @returns {uPlot.Options} */
  #options() {
    const bars = /** @type {uPlot.Series.BarsPathBuilderFactory} */ (uPlot.paths.bars);
    return {
      width: this.place.clientWidth,
      height: HEIGHT,
      legend: { show: false },
      cursor: { y: false, drag: { x: false, y: false }, points: { show: false } },
      scales: {
        x: { time: false, range: () => [this.bins.edges[0], this.bins.edges[this.bins.edges.length - 1]] },
        y: { range: () => [0, Math.max(...this.bins.counts) * 1.05] },
      },
      axes: axesOf(false),
      series: [{}, { fill: theme("--s1"), width: 0, paths: bars({ size: [0.9, MOST_BAR_PIXELS] }), points: { show: false } }],
      hooks: { setCursor: [(plot) => this.#describe(plot)] },
    };
  }

  /**
   * The bin under the pointer; without it, the fullest one.
   * @param {uPlot} plot
   */
  #describe(plot) {
    const { counts } = this.bins;
    const pointed = isNumber(plot.cursor.idx) ? plot.cursor.idx : null;
    const bin = pointed ?? counts.indexOf(Math.max(...counts));
    const total = counts.reduce((sum, count) => sum + count, 0);
    const share = `${this.#range(bin, bin + 1)}: ${whole(counts[bin])} of ${whole(total)} (${percent(counts[bin] / total)}).`;
    this.text.textContent = pointed === null && counts.length > 1 ? `Most in ${share}` : share;
  }

  /**
   * @param {number} first edge
   * @param {number} last edge
   */
  #range(first, last) {
    const { edges } = this.bins;
    const end = this.areWhole ? edges[last] - 1 : edges[last];
    return `${edges[first] === end ? short(end) : `${short(edges[first])} to ${short(end)}`}${this.unit ? ` ${this.unit}` : ""}`;
  }
}
