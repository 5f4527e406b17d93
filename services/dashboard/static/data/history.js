// @ts-check
// The columns of metrics.jsonl in the browser: read once, then grown by the lines of the stream.
import { isNumber } from "/static/drawing/format.js";

/** @import { Column, Context, MetricLine } from "/static/data/types.d.ts" */

const MAX_POINTS = 600;
const MAX_ROWS = 1500;

export class History {
  /**
   * @param {Context} context
   * @param {string[]} names
   * @param {"step" | "evaluation"} kind
   */
  constructor(context, names, kind = "step") {
    this.context = context;
    this.names = names;
    this.kind = kind;
    /** @type {Record<string, Column>} */
    this.columns = {};
  }

  async read() {
    const parameters = { kind: this.kind, names: this.names.join(","), max_points: MAX_POINTS };
    this.columns = (await this.context.get("metrics", parameters)).columns;
    return this;
  }

  /** @param {MetricLine[]} lines of the stream */
  async add(lines) {
    const newest = this.last("step") ?? 0;
    const areInOrder = lines.every((line, index) => Number(line.step) >= Number(lines[index - 1]?.step ?? newest));
    if (this.size > MAX_ROWS || !areInOrder) return this.read();
    for (const [name, column] of Object.entries(this.columns))
      column.push(...lines.map((line) => (isNumber(line[name]) ? line[name] : null)));
    return this;
  }

  /** @param {string} name */
  of(name) {
    return this.columns[name] ?? [];
  }

  /** @param {string} name */
  last(name) {
    return this.of(name).findLast(isNumber);
  }

  /** @param {string} name */
  first(name) {
    return this.of(name).find(isNumber);
  }

  get size() {
    return this.of("step").length;
  }

  /**
   * Why a chart of it is empty.
   * @param {string} condition under which there is a number
   */
  absence(condition) {
    if (this.size) return `No number so far. ${condition}`;
    return this.kind === "step" ? "No training step has ended yet." : `No evaluation has ended yet. ${condition}`;
  }
}
