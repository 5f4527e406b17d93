// @ts-check
// What the value model believes, and whether it is right.
import { History } from "/static/data/history.js";
import { RestError, seldom } from "/static/data/rest.js";
import { LineChart } from "/static/drawing/chart.js";
import { ChartGroup } from "/static/drawing/chart_group.js";
import { fill, h, labelled, table } from "/static/drawing/dom.js";
import { fixed } from "/static/drawing/format.js";
import { Scatter } from "/static/drawing/scatter.js";
import { EXPLAINED, rolloutLinks } from "/static/views/overview.js";

/** @import { CriticPoints } from "/static/data/answers.d.ts" */
/** @import { Range } from "/static/drawing/chart.js" */
/** @import { ViewModule } from "/static/data/types.d.ts" */

export const title = "Critic";

const PARTS = ["first_eighth", "second_eighth", "second_quarter", "second_half"];
/** @type {Array<[title: string, lines: string[][], hint: string, range?: Range]>} */
const CHARTS = [
  ["Explained variance: finished rows and rows that were cut", [["finished", "critic/vf_explained_var"], ["cut", "critic/vf_explained_var_cut"]], "1: the values are the returns; 0: no better than a constant; below -1 nothing is drawn.", EXPLAINED],
  ["Explained variance by place in the response", PARTS.map((part) => [part.replace("_", " "), `critic/vf_explained_var_${part}`]), "Parts of the response limit.", EXPLAINED],
  ["Bias at the cut", [["mean", "critic/bias_at_cut/mean"], ["mean absolute value", "critic/bias_at_cut/mean_abs"]], "EGAE of a cut window less the GAE of the whole response, for the same tokens."],
  ["Jump of the value at a window's border", [["mean", "critic/border_value_jump/mean"], ["mean absolute value", "critic/border_value_jump/mean_abs"]], ""],
  ["Loss and share clipped", [["loss", "critic/vf_loss"], ["share clipped", "critic/vf_clipfrac"]], ""],
  ["Mean value beside mean reward", [["value", "critic/values/mean"], ["reward", "reward/mean"]], ""],
];
const NUM_BINS = 5;

/**
 * Mean return where the value was about the same: a value model that is right has both equal.
 * @param {CriticPoints} points
 */
function calibration(points) {
  const pairs = points.value.flatMap((value, index) => {
    const earned = points.return[index];
    return value !== null && earned !== null ? [[value, earned]] : [];
  });
  pairs.sort(([a], [b]) => a - b);
  const mean = (/** @type {number[][]} */ rows, /** @type {number} */ column) => rows.reduce((sum, row) => sum + row[column], 0) / rows.length;
  return Array.from({ length: NUM_BINS }, (_, bin) => pairs.slice(Math.floor((bin * pairs.length) / NUM_BINS), Math.floor(((bin + 1) * pairs.length) / NUM_BINS)))
    .filter((rows) => rows.length)
    .map((rows) => ({ value: mean(rows, 0), earned: mean(rows, 1), count: rows.length }));
}

/** @type {ViewModule["show"]} */
export async function show(place, context) {
  const history = await new History(context, [...new Set(CHARTS.flatMap(([, lines]) => lines.map(([, name]) => name)))]).read();
  const group = new ChartGroup();
  const options = { group, links: rolloutLinks(context, "false"), whenEmpty: () => history.absence("It is measured on responses that ended.") };
  const charts = CHARTS.map(([name, lines, hint, range]) => new LineChart(name, lines.map(([label, metric]) => ({ label, metric, values: () => history.of(metric) })), { ...options, hint, range }));
  const scatter = new Scatter("Returns against values");
  /** @type {HTMLInputElement} */
  const step = h("input", { type: "number", min: 1, placeholder: "newest", onchange: () => points() });
  const about = h("p", { class: "soft", role: "status" });
  const bins = h("div", {});
  fill(place, group.element,
    h("div", { class: "grid" }, charts.map((chart) => chart.element),
      h("section", { class: "card wide" },
        h("h3", {}, "Returns against values, token by token"),
        h("div", { class: "line" }, labelled("Step", step), about),
        h("div", { class: "grid" }, scatter.element, bins))));
  const draw = () => charts.forEach((chart) => chart.show(history.of("step")));
  const points = async () => {
    try {
      const found = await context.get("critic", { step: step.value });
      const count = found.points.value.length;
      about.textContent = `Step ${found.step}: ${count ? `${count} tokens` : "no token trained the value model, since no response ended"}.`;
      scatter.show(found.points);
      fill(bins, table("Mean return where the value was about the same", [
        ["value", (row) => fixed(row.value), "number"],
        ["return", (row) => fixed(row.earned), "number"],
        ["tokens", (row) => String(row.count), "number"],
      ], calibration(found.points)));
    } catch (error) {
      if (!(error instanceof RestError && error.status === 404)) throw error;
      about.textContent = `${error.message}.`;
      fill(bins);
      scatter.show({ value: [], return: [], is_finished: [], position: [] });
    }
  };
  draw();
  await points();
  const renew = seldom(5000, () => step.value || points());
  return {
    async receive(kind, data) {
      if (kind !== "steps") return;
      await history.add(data.lines);
      draw();
      renew();
    },
    repaint: () => {
      group.repaint();
      scatter.repaint();
    },
  };
}
