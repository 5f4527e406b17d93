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
}

/**
 * Growth of one column over growth of another, over a trailing stretch of at least so many seconds.
 * @param {History} history
 * @param {string} above
 * @param {string} below
 */
export function rates(history, above, below, stretch = 3) {
  const [numbers, others, moments] = [history.of(above), history.of(below), history.of("seconds_since_start")];
  const passed = (/** @type {number} */ from, /** @type {number} */ to) => (moments[to] ?? 0) - (moments[from] ?? 0);
  let from = 0;
  return moments.map((_, index) => {
    while (from + 1 < index && passed(from + 1, index) >= stretch) from += 1;
    const [growth, time] = [growthOf(numbers, from, index), growthOf(others, from, index)];
    return growth !== null && time !== null && time > 0 && growth >= 0 ? growth / time : null;
  });
}

/**
 * @param {Column} column
 * @param {number} from
 * @param {number} to
 */
function growthOf(column, from, to) {
  const [first, last] = [column[from], column[to]];
  return isNumber(first) && isNumber(last) ? last - first : null;
}

/**
 * @param {History} history
 * @param {string[]} names
 * @param {(...values: number[]) => number} make
 */
export function combined(history, names, make) {
  const columns = names.map((name) => history.of(name));
  return columns[0].map((_, row) => {
    const values = columns.map((column) => column[row]).filter(isNumber);
    return values.length === names.length ? make(...values) : null;
  });
}
