// @ts-check
// Lines over steps or time, drawn by uPlot; each chart also has its newest numbers in a sentence.
import { csvOf, smoothed } from "/static/data/columns.js";
import { ChartGroup } from "/static/drawing/chart_group.js";
import { fill, h, save } from "/static/drawing/dom.js";
import { isNumber, short } from "/static/drawing/format.js";
import { axesOf, bandsOf, colourOf, linesOf, ownerOf, roomy } from "/static/drawing/lines.js";
import { ChartPoint } from "/static/drawing/point.js";

/** @import { Column } from "/static/data/types.d.ts" */

/** @typedef {(plot: uPlot, low: number | null) => [number, number]} Range */

/**
 * A line, or a border of a band: an "edge" begins a band that the "band" behind it ends; both belong to the line before.
 * @typedef {{ label: string, metric?: string, values?: () => Column, colour?: string, points?: boolean, edge?: boolean, band?: boolean }} Series
 */

/**
 * `x`: of the axis; `range`: of the y axis while it is linear; `isLog`: it is logarithmic at first; `whenEmpty`: why there
 * is no number; `links`: where a point leads to. Charts of a group are zoomed together.
 * @typedef {{ group?: ChartGroup, x?: { label: string, isTime?: boolean }, range?: [number, number] | Range, hint?: string, isLog?: boolean, whenEmpty?: () => string, links?: (x: number) => Array<[text: string, href: string]> }} Options
 */

const HEIGHT = 190;
const DRAG_PIXELS = 6;
const sync = uPlot.sync("charts");

export class LineChart {
  /**
   * @param {string} title
   * @param {Series[]} series
   * @param {Options} options
   */
  constructor(title, series, { group, x = { label: "step" }, range, hint = "", isLog = false, whenEmpty = () => this.#absence(), links = () => [] } = {}) {
    this.title = title;
    this.series = series;
    this.x = x;
    this.range = range;
    this.whenEmpty = whenEmpty;
    this.links = links;
    this.isJoint = Boolean(group);
    this.group = group ?? new ChartGroup();
    this.wantsLog = isLog;
    /** @type {Column[]} */
    this.data = [[]];
    /** @type {Column[]} of the series, while they are smoothed */
    this.averages = [];
    /** @type {uPlot | null} */
    this.plot = null;
    this.drawnAs = "";
    /** @type {Set<number>} */
    this.hidden = new Set();
    this.place = h("div", { class: "chart" });
    this.point = new ChartPoint(this);
    this.text = h("p", { class: "hidden-text" });
    this.showAll = h("button", { type: "button", hidden: true, "aria-label": `Show all of ${title}`, onclick: () => this.group.zoomTo(null) }, "Show all");
    this.log = h("button", { type: "button", "aria-label": `Log scale of ${title}`, onclick: () => this.#changeScale() }, "Log");
    this.csv = h("button", { type: "button", "aria-label": `CSV of ${title}`, onclick: () => this.#save() }, "CSV");
    this.element = h("figure", { class: "card lines" },
      h("figcaption", {}, title),
      h("div", { class: "tools" }, this.showAll, this.log, this.csv),
      hint ? h("p", { class: "soft" }, hint) : "",
      this.place, this.point.links, this.text);
    this.group.charts.add(this);
    this.observer = new ResizeObserver(() => this.#resized());
    this.observer.observe(this.place);
  }

  /**
   * @param {Column} across x values
   * @param {Column[]} up the values of each series; without them, those that the series name
   */
  show(across, up = this.series.map((one) => one.values?.() ?? [])) {
    this.data = [across, ...up];
    this.draw();
  }

  /** Again, from the same numbers. */
  draw() {
    this.text.textContent = this.#sentence();
    this.log.disabled = this.isEmpty || !this.isPositive;
    this.log.title = this.isPositive ? "" : "Not all values are above 0.";
    this.log.setAttribute("aria-pressed", String(!this.isEmpty && this.isLog));
    this.csv.disabled = this.isEmpty;
    this.showAll.hidden = this.isEmpty || !this.group.zoom;
    if (this.isEmpty) this.#explain();
    else if (this.place.clientWidth) this.#plot();
  }

  repaint() {
    this.#destroy();
    this.draw();
  }

  /** While nobody points at the chart, its legend shows the chosen x, or else the newest. */
  showChosen() {
    this.plot?.redraw(false, false);
    this.point.rest();
  }

  get isEmpty() {
    return !this.data.slice(1).some((column) => column.some(isNumber));
  }

  get isPositive() {
    return this.data.slice(1).every((column) => column.every((value) => !isNumber(value) || value > 0));
  }

  get isLog() {
    return this.wantsLog && this.isPositive;
  }

  get isSmoothed() {
    return this.group.smoothing > 0;
  }

  #absence() {
    return this.data[0].length ? "No number so far." : "No training step has ended yet.";
  }

  #explain() {
    this.#destroy();
    fill(this.place, h("p", { class: "soft nothing" }, this.whenEmpty()));
    fill(this.point.links);
  }

  #destroy() {
    this.plot?.destroy();
    this.plot = null;
  }

  #resized() {
    if (!this.element.isConnected) {
      this.observer.disconnect();
      this.group.charts.delete(this);
      this.#destroy();
    } else if (this.plot) this.plot.setSize({ width: this.place.clientWidth, height: HEIGHT });
    else this.draw();
  }

  #plot() {
    const [across, ...up] = this.data;
    const drawnAs = `${this.isLog} ${this.isSmoothed}`;
    if (drawnAs !== this.drawnAs) this.#destroy();
    this.drawnAs = drawnAs;
    this.averages = this.isSmoothed ? up.map((column) => smoothed(column, this.group.smoothing)) : [];
    const drawn = /** @type {uPlot.AlignedData} */ ([across, ...up, ...this.averages]);
    const { zoom } = this.group;
    if (this.plot) this.plot.setData(drawn, !zoom);
    else this.plot = this.#made(drawn);
    if (zoom) this.plot.setScale("x", { min: zoom.min ?? across[0] ?? 0, max: zoom.max ?? across.at(-1) ?? 1 });
    this.point.rest();
  }

  /** @param {uPlot.AlignedData} drawn */
  #made(drawn) {
    fill(this.place);
    const plot = new uPlot(this.#options(), drawn, this.place);
    const rows = this.place.querySelectorAll(".u-legend .u-series");
    plot.series.forEach((_, index) => rows[index].toggleAttribute("hidden", ownerOf(this.series, index) !== index));
    plot.over.addEventListener("dblclick", () => this.group.zoomTo(null));
    this.point.attach(plot);
    return plot;
  }

  /** @returns {uPlot.Options} */
  #options() {
    const lines = linesOf(this.series, this.isSmoothed).map((one, index) => ({
      ...one,
      show: !this.hidden.has(ownerOf(this.series, index + 1)),
      value: (/** @type {uPlot} */ _, /** @type {unknown} */ __, /** @type {number} */ place, /** @type {number | null} */ row) => this.point.value(place, row),
    }));
    return {
      width: this.place.clientWidth,
      height: HEIGHT,
      cursor: {
        y: false,
        bind: { dblclick: () => null },
        dataIdx: (_, __, row) => row, // all values of one x, and none of its neighbours
        drag: { setScale: false, dist: DRAG_PIXELS },
        points: { size: 5 },
        sync: this.isJoint ? { key: sync.key, scales: ["x", null], filters: { pub: (kind) => kind === "mousemove", sub: () => true } } : undefined,
      },
      legend: { markers: { stroke: (_, place) => colourOf(this.series[(place - 1) % this.series.length], (place - 1) % this.series.length) } },
      scales: { x: { time: false }, y: { range: this.isLog ? undefined : (this.range ?? roomy), distr: this.isLog ? 3 : 1 } },
      axes: axesOf(Boolean(this.x.isTime)),
      series: [{ label: this.x.label, value: (_, value) => this.point.xText(value) }, ...lines],
      bands: bandsOf(this.series, this.isSmoothed),
      hooks: {
        setCursor: [(plot) => (isNumber(plot.cursor.idx) ? this.point.describe(plot, plot.cursor.idx) : this.point.rest())],
        setScale: [(plot, scale) => scale === "x" && this.point.showRange(plot)],
        setSelect: [(plot) => this.#zoomToSelection(plot)],
        setSeries: [(plot, place, { show }) => place !== null && show !== undefined && this.#hide(plot, place, show)],
        draw: [(plot) => this.point.mark(plot)],
      },
    };
  }

  /** @param {uPlot} plot */
  #zoomToSelection(plot) {
    const { left, width } = plot.select;
    if (!width) return;
    plot.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
    const [min, max] = [plot.posToVal(left, "x"), plot.posToVal(left + width, "x")];
    if (this.data[0].some((x) => isNumber(x) && x >= min && x <= max)) this.group.zoomTo({ min, max });
  }

  /**
   * What belongs to a line is shown and hidden with it.
   * @param {uPlot} plot
   * @param {number} place
   * @param {boolean} isShown
   */
  #hide(plot, place, isShown) {
    const owner = ownerOf(this.series, place);
    if (place === owner) this.hidden[isShown ? "delete" : "add"](owner);
    plot.series.forEach((one, other) => {
      if (other > 0 && ownerOf(this.series, other) === owner && one.show === this.hidden.has(owner)) plot.setSeries(other, { show: !this.hidden.has(owner) });
    });
  }

  #changeScale() {
    this.wantsLog = !this.wantsLog;
    this.draw();
  }

  #save() {
    const names = [this.x.label, ...this.series.map((one) => one.metric ?? one.label)];
    save(`${this.title.toLowerCase().replaceAll(/[^a-z0-9]+/g, "-")}.csv`, csvOf(names, this.data));
  }

  #sentence() {
    const parts = this.series.map((one, index) => {
      const values = this.data[index + 1]?.filter(isNumber) ?? [];
      return values.length ? `${one.label} ${short(values.at(-1))} (from ${short(values[0])})` : `${one.label} none yet`;
    });
    return `${this.title}: ${parts.join("; ")}.`;
  }
}
