// @ts-check
// Several runs over each other, by step, time, tokens or decode steps.
import { get } from "/static/data/rest.js";
import { LineChart } from "/static/drawing/chart.js";
import { choice, fill, h, labelled, table } from "/static/drawing/dom.js";
import { date, fixed, isNumber, words } from "/static/drawing/format.js";

/** @import { RunSummary } from "/static/data/answers.d.ts" */
/** @import { Column, ViewModule } from "/static/data/types.d.ts" */

export const title = "Compare";

/** @type {Record<string, [text: string, column: string]>} */
const AXES = {
  step: ["step", "step"],
  time: ["time since the start", "seconds_since_start"],
  tokens: ["tokens trained", "tokens/trained"],
  decode: ["decode steps", "generation/num_decode_steps"],
};
const USUAL = ["eval/accuracy", "reward/mean", "response_length/mean", "critic/vf_explained_var", "policy_lag/mean", "actor/entropy"];
const MAX_RUNS = 6;
const MAX_POINTS = 400;

/**
 * x and y of a run. An evaluation's tokens and decode steps are those of its step.
 * @param {string} run
 * @param {string} metric
 * @param {string} axis
 */
async function curve(run, metric, axis) {
  const column = AXES[axis][1];
  const isEvaluation = metric.startsWith("eval/");
  const steps = (await get("metrics", { run, names: [column, ...(isEvaluation ? [] : [metric])].join(","), max_points: MAX_POINTS })).columns;
  if (!isEvaluation) return points(steps[column], steps[metric]);
  const found = (await get("metrics", { run, kind: "evaluation", names: `eval/step,${metric}`, max_points: MAX_POINTS })).columns;
  const at = (/** @type {number | null} */ step) => (step === 0 ? 0 : steps[column][steps.step.findLastIndex((one) => (one ?? 0) <= (step ?? 0))] ?? null);
  const across = axis === "time" ? found.seconds_since_start : found["eval/step"].map((step) => (axis === "step" ? step : at(step)));
  return points(across, found[metric]);
}

/**
 * @param {Column} across
 * @param {Column} up
 */
function points(across, up) {
  const pairs = across.flatMap((x, index) => {
    const y = up[index];
    return isNumber(x) && isNumber(y) ? [[x, y]] : [];
  });
  pairs.sort(([a], [b]) => a - b);
  const apart = pairs.filter(([x], index) => index === 0 || x > pairs[index - 1][0]);
  return [apart.map(([x]) => x), apart.map(([, y]) => y)];
}

class Comparison {
  /**
   * @param {HTMLElement} place
   * @param {RunSummary[]} runs
   */
  constructor(place, runs) {
    this.runs = runs;
    /** @type {LineChart | null} */
    this.chart = null;
    this.chosen = new Set(runs.slice(0, 4).map((run) => run.name));
    this.metric = "eval/accuracy";
    this.axis = "step";
    this.charted = h("div", {});
    this.notice = h("p", { class: "soft", role: "status" });
    this.metricPlace = h("div", {});
    const axis = choice(Object.entries(AXES).map(([name, [text]]) => [name, text]), this.axis, (value) => {
      this.axis = value;
      this.draw();
    });
    fill(place,
      h("section", { class: "card" }, h("div", { class: "line" }, this.metricPlace, labelled("Over", axis)), this.charted, this.notice),
      h("section", { class: "card" }, this.#runTable()));
  }

  #runTable() {
    const box = (/** @type {RunSummary} */ run) => {
      /** @type {HTMLInputElement} */
      const made = h("input", { type: "checkbox", checked: this.chosen.has(run.name), "aria-label": `Show ${run.name}`, onchange: () => {
        this.chosen[made.checked ? "add" : "delete"](run.name);
        this.offer().then(() => this.draw());
      } });
      return made;
    };
    return table("Runs", [
      ["", box],
      ["run", (run) => h("a", { href: `#/overview?run=${encodeURIComponent(run.name)}` }, run.name)],
      ["algorithm", (run) => run.algorithm || "–"],
      ["mode", (run) => run.mode || "–"],
      ["state", (run) => words(run.state)],
      ["steps", (run) => `${run.step} of ${run.total_training_steps}`, "number"],
      ["accuracy before", (run) => fixed(run.base_accuracy), "number"],
      ["accuracy", (run) => fixed(run.accuracy), "number"],
      ["began", (run) => date(run.started_at)],
    ], this.runs, "there is no run yet");
  }

  // Every metric that one of the chosen runs has.
  async offer() {
    const found = await Promise.all([...this.chosen].map((run) => get("metrics/names", { run })));
    const every = [...new Set(found.flatMap((names) => [...names.evaluation.filter((name) => name.startsWith("eval/")), ...names.step]))].sort();
    const usual = USUAL.filter((name) => every.includes(name));
    const names = [...usual, ...every.filter((name) => !usual.includes(name))];
    if (names.length && !names.includes(this.metric)) this.metric = names[0];
    fill(this.metricPlace, labelled("Metric", choice(names.map((name) => [name, name]), this.metric, (value) => {
      this.metric = value;
      this.draw();
    })));
  }

  async draw() {
    const runs = [...this.chosen].slice(0, MAX_RUNS);
    this.notice.textContent = this.chosen.size > MAX_RUNS ? `The first ${MAX_RUNS} are shown.` : "";
    const curves = await Promise.all(runs.map((run) => curve(run, this.metric, this.axis)));
    this.chart = new LineChart(this.metric, runs.map((run) => ({ label: run, points: true })), {
      x: { label: AXES[this.axis][0], isTime: this.axis === "time" },
      isJoint: false,
    });
    this.chart.element.classList.remove("card");
    fill(this.charted, this.chart.element);
    if (!runs.length) return;
    const [across, ...up] = /** @type {Column[]} */ (uPlot.join(/** @type {uPlot.AlignedData[]} */ (curves)));
    this.chart.show(across, up);
  }
}

/** @type {ViewModule["show"]} */
export async function show(place) {
  const comparison = new Comparison(place, (await get("runs", { limit: 500 })).items);
  await comparison.offer();
  await comparison.draw();
  return { repaint: () => comparison.chart?.repaint() };
}
