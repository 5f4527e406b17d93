// @ts-check
// Several runs over each other, by step, time, tokens or decode steps, and what their configurations differ in.
import { get } from "/static/data/rest.js";
import { LineChart } from "/static/drawing/chart.js";
import { ChartGroup } from "/static/drawing/chart_group.js";
import { choice, fill, h, labelled, table } from "/static/drawing/dom.js";
import { date, fixed, isNumber, words } from "/static/drawing/format.js";

/** @import { Configuration, RunSummary } from "/static/data/answers.d.ts" */
/** @import { Column, TableColumn, ViewModule } from "/static/data/types.d.ts" */

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

/**
 * Each key with its value, as it would be written in TOML; the run's own name is left out.
 * @param {Configuration} configuration
 */
function valuesOf({ sections }) {
  /** @type {Map<string, string>} */
  const values = new Map();
  const add = (/** @type {string} */ name, /** @type {unknown} */ value) => {
    const isTable = typeof value === "object" && value !== null && !Array.isArray(value);
    if (isTable) for (const [key, inner] of Object.entries(value)) add(name ? `${name}.${key}` : key, inner);
    else if (name !== "run.name") values.set(name, JSON.stringify(value));
  };
  add("", sections);
  return values;
}

/** @param {Configuration[]} configurations */
function differences(configurations) {
  if (configurations.length < 2) return h("p", { class: "soft" }, "Configurations: choose two runs to see what they differ in.");
  const known = configurations.map((one) => ({ run: one.run, values: valuesOf(one) }));
  const missing = known.filter((one) => !one.values.size).map((one) => one.run);
  const present = known.filter((one) => one.values.size);
  const keys = [...new Set(present.flatMap((one) => [...one.values.keys()]))].sort();
  const differing = keys.filter((key) => new Set(present.map((one) => one.values.get(key))).size > 1);
  /** @type {Array<TableColumn<string>>} */
  const columns = [["key", (key) => h("code", {}, key)], ...present.map((one) => /** @type {TableColumn<string>} */ ([one.run, (key) => h("code", {}, one.values.get(key) ?? "not set")]))];
  return [
    table("Configurations: the keys that differ", columns, differing, `all ${keys.length} keys are equal`),
    missing.length ? h("p", { class: "soft" }, `No configuration is known of ${missing.join(", ")}.`) : "",
  ];
}

class Comparison {
  /**
   * @param {HTMLElement} place
   * @param {RunSummary[]} runs
   */
  constructor(place, runs) {
    this.runs = runs;
    this.group = new ChartGroup({ x: "" });
    this.chosen = new Set(runs.slice(0, 4).map((run) => run.name));
    this.metric = "eval/accuracy";
    this.axis = "step";
    this.numDrawn = 0;
    this.charted = h("div", {});
    this.notice = h("p", { class: "soft", role: "status" });
    this.metricPlace = h("div", {});
    this.differences = h("section", { class: "card" });
    const axis = choice(Object.entries(AXES).map(([name, [text]]) => [name, text]), this.axis, (value) => {
      this.axis = value;
      this.group.zoomTo(null); // it was a range of the other axis
      this.group.choose(null);
      this.draw();
    });
    fill(place,
      this.group.element,
      h("section", { class: "card" }, h("div", { class: "line" }, this.metricPlace, labelled("Over", axis)), this.charted, this.notice),
      h("section", { class: "card" }, this.#runTable()),
      this.differences);
  }

  /** The runs that are compared. */
  get shown() {
    return [...this.chosen].slice(0, MAX_RUNS);
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
    const number = ++this.numDrawn; // of several that overlap, the newest counts
    const runs = this.shown;
    this.notice.textContent = this.chosen.size > MAX_RUNS ? `The first ${MAX_RUNS} are shown.` : "";
    const [curves, configurations] = await Promise.all([
      Promise.all(runs.map((run) => curve(run, this.metric, this.axis))),
      Promise.all(runs.map((run) => get("configuration", { run }))),
    ]);
    if (number !== this.numDrawn) return;
    fill(this.differences, differences(configurations));
    const chart = this.#chart(runs, curves);
    fill(this.charted, chart.element);
    const [across, ...up] = runs.length ? /** @type {Column[]} */ (uPlot.join(/** @type {uPlot.AlignedData[]} */ (curves))) : [[]];
    chart.show(across, up);
  }

  /**
   * @param {string[]} runs
   * @param {Column[][]} curves
   */
  #chart(runs, curves) {
    const evaluation = String(this.metric.startsWith("eval/"));
    const chart = new LineChart(this.metric, runs.map((run) => ({ label: run, points: true })), {
      group: this.group,
      x: { label: AXES[this.axis][0], isTime: this.axis === "time" },
      whenEmpty: () => (runs.length ? `None of the chosen runs has ${this.metric} over ${AXES[this.axis][0]}.` : "Choose a run in the table below."),
      links: (x) => runs.filter((_, index) => this.axis === "step" && curves[index][0].includes(x))
        .map((run) => [`Rollouts of step ${x} of ${run}`, `#/rollouts?${new URLSearchParams({ step: String(x), evaluation, run })}`]),
    });
    chart.element.classList.remove("card");
    return chart;
  }
}

/** @type {ViewModule["show"]} */
export async function show(place) {
  const comparison = new Comparison(place, (await get("runs", { limit: 500 })).items);
  await comparison.offer();
  await comparison.draw();
  return { repaint: () => comparison.group.repaint() };
}
