// @ts-check
// The point of a chart whose values the legend shows: the one under the pointer, else the chosen one, else the newest.
import { fill, h, theme } from "/static/drawing/dom.js";
import { isNumber, seconds, short } from "/static/drawing/format.js";

/** @import { LineChart } from "/static/drawing/chart.js" */

/** @type {Record<string, number>} */
const MOVES = { ArrowLeft: -1, ArrowRight: 1, PageDown: -10, PageUp: 10, Home: -Infinity, End: Infinity };

export class ChartPoint {
  /** @param {LineChart} chart */
  constructor(chart) {
    this.chart = chart;
    this.links = h("p", { class: "soft links" });
  }

  /** @param {uPlot} plot */
  attach(plot) {
    for (const [name, value] of Object.entries({ tabindex: "0", role: "slider", "aria-label": `Point of ${this.chart.title}` })) plot.over.setAttribute(name, value);
    plot.over.addEventListener("keydown", (event) => this.#key(event));
    plot.over.addEventListener("click", () => this.#click(plot));
  }

  /** @param {unknown} x */
  xText(x) {
    return this.chart.x.isTime ? seconds(x) : short(x);
  }

  /**
   * The number at the x that the legend names; an older one says of which x it is.
   * @param {number} place of the line, or of its average, in the plot
   * @param {number | null} row
   */
  value(place, row) {
    const { data, series, averages, x } = this.chart;
    if (row === null || row === undefined) return "–";
    const line = (place - 1) % series.length;
    const known = data[line + 1].findLastIndex((value, index) => index <= row && isNumber(value));
    if (known < 0) return "–";
    const average = averages[line];
    const more = [
      ...(known === row ? [] : [`${x.label} ${this.xText(data[0][known])}`]),
      ...(average ? [`smoothed ${short(average[known])}`] : []),
    ];
    return `${short(data[line + 1][known])}${more.length ? ` (${more.join(", ")})` : ""}`;
  }

  /** The legend follows the pointer; without it, it returns to this. */
  rest() {
    const { plot } = this.chart;
    if (!plot || isNumber(plot.cursor.idx)) return;
    plot.setLegend({ idx: this.#row(plot) }, false);
    this.describe(plot, this.#row(plot));
  }

  /**
   * @param {uPlot} plot
   * @param {number} row
   */
  describe(plot, row) {
    const { data: [across], series, x } = this.chart;
    const at = across[row] ?? 0;
    const values = series.flatMap((one, index) => (one.edge || one.band ? [] : [`${one.label} ${this.value(index + 1, row)}`]));
    plot.over.setAttribute("aria-valuenow", String(at));
    plot.over.setAttribute("aria-valuetext", `${x.label} ${this.xText(at)}: ${values.join("; ")}`);
    this.#link(this.chart.links(at));
  }

  /**
   * The same elements as before, so that a focused one keeps the focus.
   * @param {Array<[text: string, href: string]>} links
   */
  #link(links) {
    const shown = this.links.querySelectorAll("a");
    if (shown.length !== links.length) fill(this.links, links.map(([text, href], index) => [index ? " · " : "", h("a", { href }, text)]));
    else links.forEach(([text, href], index) => Object.assign(shown[index], { textContent: text, href }));
  }

  /** @param {uPlot} plot */
  showRange(plot) {
    plot.over.setAttribute("aria-valuemin", String(plot.scales.x.min));
    plot.over.setAttribute("aria-valuemax", String(plot.scales.x.max));
  }

  /** @param {uPlot} plot */
  mark(plot) {
    const { chosen } = this.chart.group;
    if (chosen === null) return;
    const { left, top, width, height } = plot.bbox;
    const x = plot.valToPos(chosen, "x", true);
    if (x < left || x > left + width) return;
    plot.ctx.fillStyle = theme("--accent");
    plot.ctx.fillRect(x - 1, top, 2, height);
  }

  /** @param {uPlot} plot */
  #row(plot) {
    const { chosen, zoom } = this.chart.group;
    if (chosen !== null) return plot.valToIdx(chosen);
    return Math.max(0, this.chart.data[0].findLastIndex((x) => (x ?? 0) <= (zoom?.max ?? Infinity)));
  }

  /** @param {uPlot} plot */
  #click(plot) {
    const row = plot.cursor.idx;
    if (!isNumber(row)) return;
    const x = this.chart.data[0][row];
    this.chart.group.choose(x === this.chart.group.chosen ? null : x);
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    const { data: [across], plot, group } = this.chart;
    if (event.key === "Escape") group.choose(null);
    if (event.key === "Enter") this.links.querySelector("a")?.click();
    const move = MOVES[event.key];
    if (move === undefined || !plot) return;
    event.preventDefault();
    group.choose(across[Math.min(across.length - 1, Math.max(0, this.#row(plot) + move))]);
  }
}
