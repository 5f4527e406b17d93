// @ts-check
// What the charts of a view share: the range of x that is shown, the x that was chosen, and the smoothing.
import { h, labelled } from "/static/drawing/dom.js";
import { isNumber } from "/static/drawing/format.js";

/** @import { LineChart } from "/static/drawing/chart.js" */

/**
 * Bounds of x; null: as far as the data go, and on with the run.
 * @typedef {{ min: number | null, max: number | null }} Zoom
 */

const SMOOTHING = "tppo-smoothing";
const MOST_SMOOTHING = 0.99;

export class ChartGroup {
  /**
   * @param {object} [options]
   * @param {string} [options.x] what x counts, in the plural; empty where it changes
   * @param {Array<[text: string, href: string]>} [options.files] the run's metrics as CSV
   */
  constructor({ x = "steps", files = [] } = {}) {
    /** @type {Set<LineChart>} */
    this.charts = new Set();
    /** @type {Zoom | null} */
    this.zoom = null;
    /** @type {number | null} */
    this.chosen = null;
    this.smoothing = Math.min(MOST_SMOOTHING, Math.max(0, Number(localStorage.getItem(SMOOTHING)) || 0));
    /** Called when the range or the chosen x has changed. */
    this.changed = /** @type {() => unknown} */ (() => {});
    this.from = this.#bound();
    this.to = this.#bound();
    this.all = h("button", { type: "button", disabled: true, onclick: () => this.zoomTo(null) }, "Show all");
    this.newest = h("button", { type: "button", disabled: true, onclick: () => this.choose(null) }, "Newest");
    this.smoothed = h("output", {});
    this.element = h("section", { class: "card", "aria-label": "Charts" },
      h("div", { class: "line" },
        labelled("Smoothing", this.#slider()), this.smoothed,
        labelled("From", this.from), labelled(x ? `to (${x})` : "to", this.to), this.all, this.newest,
        files.length ? h("span", {}, "Metrics as CSV: ", files.map(([text, href], index) => [index ? ", " : "", h("a", { href, download: "" }, text)])) : ""),
      h("p", { class: "soft" }, "Drag over a chart to zoom in, double-click to zoom out. Click, or use the arrow keys, to choose a point; Escape returns to the newest."));
    this.#showSmoothing();
  }

  #slider() {
    /** @type {HTMLInputElement} */
    const made = h("input", { type: "range", min: 0, max: MOST_SMOOTHING, step: 0.01, value: this.smoothing, oninput: () => {
      this.smoothing = Number(made.value);
      localStorage.setItem(SMOOTHING, made.value);
      this.#showSmoothing();
      for (const chart of this.charts) chart.draw();
    } });
    return made;
  }

  #showSmoothing() {
    this.smoothed.textContent = this.smoothing ? this.smoothing.toFixed(2) : "off";
  }

  #bound() {
    const read = () => {
      const [min, max] = [this.from, this.to].map((field) => (field.value === "" ? null : Number(field.value)));
      const isRange = (min !== null || max !== null) && !(isNumber(min) && isNumber(max) && min >= max);
      this.zoomTo(isRange ? { min, max } : null);
    };
    return /** @type {HTMLInputElement} */ (h("input", { type: "number", step: "any", min: 0, placeholder: "all", onchange: read }));
  }

  /** @param {Zoom | null} zoom null: everything */
  zoomTo(zoom) {
    this.zoom = zoom;
    this.all.disabled = !zoom;
    this.from.value = isNumber(zoom?.min) ? String(Math.ceil(zoom.min)) : "";
    this.to.value = isNumber(zoom?.max) ? String(Math.floor(zoom.max)) : "";
    for (const chart of this.charts) chart.draw();
    this.changed();
  }

  /** @param {number | null} x null: the newest */
  choose(x) {
    this.chosen = x;
    this.newest.disabled = x === null;
    for (const chart of this.charts) chart.showChosen();
    this.changed();
  }

  repaint() {
    for (const chart of this.charts) chart.repaint();
  }
}
