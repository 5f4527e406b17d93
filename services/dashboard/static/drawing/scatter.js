// @ts-check
// Returns (upwards) against values (to the right), with the line on which both are equal.
import { h, theme } from "/static/drawing/dom.js";
import { isNumber, short } from "/static/drawing/format.js";

/** @import { CriticPoints } from "/static/data/answers.d.ts" */
/** @typedef {(value: number) => number} Place */

const HEIGHT = 260;
const EDGE = 34;

export class Scatter {
  /** @param {string} label */
  constructor(label) {
    /** @type {Array<{ value: number, earned: number, isFinished: boolean }> | null} */
    this.points = null;
    this.canvas = h("canvas", { role: "img", "aria-label": label });
    this.legend = h("ul", { class: "legend" });
    this.element = h("div", { class: "scatter" }, this.canvas, this.legend);
    new ResizeObserver(() => this.repaint()).observe(this.element);
  }

  /** @param {CriticPoints} points */
  show(points) {
    this.points = points.value.flatMap((value, index) => {
      const earned = points.return[index];
      return isNumber(value) && isNumber(earned) ? [{ value, earned, isFinished: points.is_finished[index] }] : [];
    });
    this.repaint();
  }

  repaint() {
    this.element.hidden = !this.points?.length; // its place says why
    if (!this.points?.length) return;
    const scale = window.devicePixelRatio || 1;
    const width = this.canvas.clientWidth;
    this.canvas.style.height = `${HEIGHT}px`;
    [this.canvas.width, this.canvas.height] = [width * scale, HEIGHT * scale];
    const brush = /** @type {CanvasRenderingContext2D} */ (this.canvas.getContext("2d"));
    brush.scale(scale, scale);
    const every = this.points.flatMap((one) => [one.value, one.earned]);
    const [low, high] = [Math.min(...every), Math.max(...every)];
    const room = 0.05 * (high - low || 1);
    /** @type {Place} */
    const part = (value) => (value - low + room) / (high - low + 2 * room);
    /** @type {Place} */
    const x = (value) => EDGE + part(value) * (width - EDGE - 8);
    /** @type {Place} */
    const y = (value) => HEIGHT - EDGE / 2 - part(value) * (HEIGHT - EDGE);
    this.#axes(brush, { x, y, low, high });
    const [finished, cut] = [`${theme("--s1")}66`, `${theme("--s2")}66`];
    for (const one of this.points) {
      brush.fillStyle = one.isFinished ? finished : cut;
      brush.fillRect(x(one.value) - 1.5, y(one.earned) - 1.5, 3, 3);
    }
    const swatch = (/** @type {string} */ name) => h("span", { class: "swatch", style: `background:${theme(name)}` });
    this.legend.replaceChildren(
      h("li", {}, swatch("--s1"), "in the response's last window"),
      h("li", {}, swatch("--s2"), "in a window that was cut"),
      h("li", {}, "to the right: value; upwards: return; on the line both are equal"));
  }

  /**
   * @param {CanvasRenderingContext2D} brush
   * @param {{ x: Place, y: Place, low: number, high: number }} frame
   */
  #axes(brush, { x, y, low, high }) {
    brush.strokeStyle = theme("--soft");
    brush.setLineDash([4, 4]);
    brush.beginPath();
    brush.moveTo(x(low), y(low));
    brush.lineTo(x(high), y(high));
    brush.stroke();
    brush.setLineDash([]);
    brush.fillStyle = theme("--soft");
    brush.font = "11px system-ui";
    for (const value of [low, (low + high) / 2, high]) {
      brush.fillText(short(value), 0, y(value) + 4);
      brush.fillText(short(value), Math.max(EDGE, x(value) - 12), HEIGHT - 2);
    }
  }
}
