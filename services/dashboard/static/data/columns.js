// @ts-check
// What is made of columns: other columns, and a table.
import { isNumber } from "/static/drawing/format.js";

/** @import { Column } from "/static/data/types.d.ts" */
/** @import { History } from "/static/data/history.js" */

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

/**
 * The exponential moving average, without the pull of its beginning at 0; where a number is missing, so is the average.
 * @param {Column} column
 * @param {number} weight of the average so far: 0 leaves the column as it is
 */
export function smoothed(column, weight) {
  let [sum, share] = [0, 0];
  return column.map((value) => {
    if (!isNumber(value)) return null;
    [sum, share] = [weight * sum + (1 - weight) * value, weight * share + (1 - weight)];
    return sum / share;
  });
}

/**
 * @param {string[]} names
 * @param {Column[]} columns
 */
export function csvOf(names, columns) {
  const quoted = (/** @type {string} */ name) => (/[",\r\n]/.test(name) ? `"${name.replaceAll('"', '""')}"` : name);
  const rows = columns[0].map((_, row) => columns.map((column) => column[row] ?? "").join(","));
  return [names.map(quoted).join(","), ...rows, ""].join("\n");
}
