// @ts-check
// How uPlot draws a chart's lines, bands and axes.
import { theme } from "/static/drawing/dom.js";
import { seconds, short } from "/static/drawing/format.js";

/** @import { Column } from "/static/data/types.d.ts" */
/** @import { Series } from "/static/drawing/chart.js" */

const COLOURS = ["--s1", "--s2", "--s3", "--s4", "--s5", "--s6"];
const PALE = "55";
const BAND = "33";

/**
 * Each line; with averages, pale, and its average after all lines.
 * @param {Series[]} series
 * @param {boolean} areAveraged
 */
export function linesOf(series, areAveraged) {
  const raw = series.map((one, index) => line(one, index, areAveraged));
  return areAveraged ? [...raw, ...series.map((one, index) => ({ ...line(one, index, false), points: { show: false } }))] : raw;
}

/**
 * @param {Series} one
 * @param {number} index
 * @param {boolean} isPale
 * @returns {uPlot.Series}
 */
function line(one, index, isPale) {
  const stroke = `${colourOf(one, index)}${isPale ? PALE : ""}`;
  return {
    label: one.label,
    stroke: one.edge || one.band ? "#00000000" : stroke,
    width: 2, // of an edge, too, and not in whole pixels: else a narrow band lies aside of its line
    pxAlign: 0,
    points: { show: Boolean(one.points), size: 6, fill: stroke },
    spanGaps: true,
  };
}

/**
 * @param {Series} one
 * @param {number} index among the chart's series
 */
export function colourOf(one, index) {
  return theme(one.colour ?? COLOURS[index % COLOURS.length]);
}

/**
 * The areas between edges: of the averages, where there are any.
 * @param {Series[]} series
 * @param {boolean} areAveraged
 * @returns {uPlot.Band[]}
 */
export function bandsOf(series, areAveraged) {
  const before = areAveraged ? series.length : 0;
  return series.flatMap((one, index) => (one.band ? [{ series: [before + index + 1, before + index], fill: `${colourOf(one, index)}${BAND}` }] : []));
}

/**
 * @param {boolean} isTime whether x is in seconds
 * @returns {uPlot.Axis[]}
 */
export function axesOf(isTime) {
  const axis = { stroke: theme("--soft"), grid: { stroke: theme("--grid"), width: 1 }, ticks: { show: false }, font: "11px system-ui" };
  const numbers = (/** @type {uPlot} */ _, /** @type {Column} */ values) => values.map((value) => (value === null ? "" : short(value)));
  const times = (/** @type {uPlot} */ _, /** @type {Column} */ values) => values.map(seconds);
  return [{ ...axis, values: isTime ? times : numbers, size: 32 }, { ...axis, values: numbers, size: 56 }];
}

/**
 * With some room, and 0 where it is near; of values that are all 0, not as far as 100.
 * @param {uPlot} _
 * @param {number | null} low
 * @param {number | null} high
 * @returns {uPlot.Range.MinMax}
 */
export function roomy(_, low, high) {
  return low === null || high === null || (low === 0 && high === 0) ? [0, 1] : uPlot.rangeNum(low, high, 0.1, true);
}

/**
 * The series of the plot that a series of the plot belongs to: that of a border or an average is its line.
 * @param {Series[]} series
 * @param {number} place in the plot, 0 for x
 */
export function ownerOf(series, place) {
  if (!place) return 0;
  let owner = (place - 1) % series.length;
  while (owner > 0 && (series[owner].edge || series[owner].band)) owner -= 1;
  return owner + 1;
}
