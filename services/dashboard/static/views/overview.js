// @ts-check
// Is it learning, is it healthy, is it fast.
import { combined, rates } from "/static/data/columns.js";
import { History } from "/static/data/history.js";
import { address, seldom } from "/static/data/rest.js";
import { LineChart } from "/static/drawing/chart.js";
import { ChartGroup } from "/static/drawing/chart_group.js";
import { fill, h } from "/static/drawing/dom.js";
import { fixed, percent, seconds, short, whole } from "/static/drawing/format.js";
import { DistributionCard } from "/static/views/distributions.js";
import { WorkShares } from "/static/views/work.js";

/** @import { AlertStatus, Status } from "/static/data/answers.d.ts" */
/** @import { Options, Range, Series } from "/static/drawing/chart.js" */
/** @import { Context, ViewModule } from "/static/data/types.d.ts" */

export const title = "Overview";

const STEP_NAMES = [
  "reward/mean", "reward/std", "response_length/mean", "response_length/p10", "response_length/p50", "response_length/p90",
  "response_length/max", "policy_lag/mean", "policy_lag/max", "critic/vf_explained_var", "critic/vf_explained_var_cut",
  "actor/entropy", "actor/ppo_kl", "actor/pg_clipfrac", "timing_s/step", "timing_s/wait", "tokens/trained",
  "generation/num_tokens", "generation/num_active_slot_steps", "generation/num_slot_steps", "response/finished_fraction",
];
const EVALUATION_NAMES = ["eval/accuracy", "eval/accuracy_stderr", "eval/accuracy_exact"];
/** @type {[number, number]} */
const SHARE = [0, 1];
/**
 * Far below 0 it says no more than just below it.
 * @type {Range}
 */
export const EXPLAINED = (_, low) => [Math.max(-1, Math.min(0, low ?? 0)), 1];

/**
 * @param {History} history
 * @param {string} mean
 * @param {string} deviation
 * @param {string} label
 * @param {Partial<Series>} options
 * @returns {Series[]}
 */
function spread(history, mean, deviation, label, options = {}) {
  const from = (/** @type {number} */ sign) => () => combined(history, [mean, deviation], (middle, width) => middle + sign * width);
  return [
    { label, metric: mean, values: () => history.of(mean), colour: "--s1", ...options },
    { label: "less the spread", values: from(-1), edge: true, colour: "--s1" },
    { label: "plus the spread", values: from(1), band: true, colour: "--s1" },
  ];
}

/**
 * @param {History} history
 * @param {string[][]} pairs
 * @returns {Series[]}
 */
function plain(history, pairs) {
  return pairs.map(([label, metric]) => ({ label, metric, values: () => history.of(metric) }));
}

const FINISHED = "It is measured on responses that ended.";
/** @type {Record<string, string>} */
const CONDITIONS = {
  accuracy: "There is one before the first step and after the last, and one every evaluation.test_freq steps; 0 means none.",
  rate: "A rate needs two training steps.",
  cut: "It is measured on the last windows of responses that ended, and on the earlier windows of the same.",
};

/**
 * @param {Context} context
 * @param {string} evaluation whether the links lead to evaluations
 */
export function rolloutLinks(context, evaluation) {
  /** @type {(step: number) => Array<[text: string, href: string]>} */
  return (step) => [[`Rollouts of ${evaluation === "true" ? "the evaluation of " : ""}step ${step}`, context.link("rollouts", [], { step: String(step), evaluation })]];
}

/**
 * @param {History} steps
 * @param {History} evaluations
 * @param {Context} context
 * @param {ChartGroup} group
 */
function charts(steps, evaluations, context, group) {
  const unused = (/** @type {string} */ above, /** @type {string} */ below) => () => rates(steps, above, below).map((share) => (share === null ? null : 1 - share));
  /** @type {Array<[name: string, history: History, series: Series[], condition?: string, options?: Options]>} */
  const made = [
    ["Accuracy on the evaluation set", evaluations, spread(evaluations, "eval/accuracy", "eval/accuracy_stderr", "accuracy", { points: true }), CONDITIONS.accuracy, { hint: "Band: standard error." }],
    ["Reward of the responses that finished", steps, spread(steps, "reward/mean", "reward/std", "mean"), FINISHED, { hint: "Band: one standard deviation." }],
    ["Response length, tokens", steps, plain(steps, [["median", "response_length/p50"], ["10 % are shorter", "response_length/p10"], ["10 % are longer", "response_length/p90"], ["longest", "response_length/max"]]), FINISHED, { isLog: true }],
    ["Tokens a second", steps, [
      { label: "sampled", values: () => rates(steps, "generation/num_tokens", "seconds_since_start") },
      { label: "trained", values: () => rates(steps, "tokens/trained", "seconds_since_start") },
    ], CONDITIONS.rate],
    ["Empty slots and waiting", steps, [
      { label: "slots without a response", values: unused("generation/num_active_slot_steps", "generation/num_slot_steps") },
      { label: "of the step, waiting for windows", values: () => combined(steps, ["timing_s/wait", "timing_s/step"], (wait, step) => wait / step) },
    ], "", { range: SHARE, hint: "Shares: of the generators' slots, and of the learner's time." }],
    ["Policy lag, steps", steps, plain(steps, [["mean", "policy_lag/mean"], ["largest", "policy_lag/max"]])],
    ["Explained variance of the value model", steps, plain(steps, [["finished rows", "critic/vf_explained_var"], ["rows that were cut", "critic/vf_explained_var_cut"]]), CONDITIONS.cut, { range: EXPLAINED }],
    ["Policy", steps, plain(steps, [["entropy, nats", "actor/entropy"], ["KL of the update, nats", "actor/ppo_kl"], ["share clipped", "actor/pg_clipfrac"]])],
  ];
  return made.map(([name, history, series, condition = "", options = {}]) => ({
    history,
    chart: new LineChart(name, series, { group, whenEmpty: () => history.absence(condition), links: rolloutLinks(context, String(history === evaluations)), ...options }),
  }));
}

/**
 * @param {string} name
 * @param {string} number
 */
function tile(name, number, more = "") {
  return h("div", { class: "card tile" }, h("div", { class: "name" }, name), h("div", { class: "number" }, number), h("div", { class: "more" }, more));
}

/**
 * @param {Status | null} status
 * @param {History} steps
 * @param {History} evaluations
 */
function tiles(status, steps, evaluations) {
  const now = status?.metrics ?? {};
  const base = evaluations.first("eval/accuracy");
  const error = evaluations.last("eval/accuracy_stderr");
  const exact = evaluations.last("eval/accuracy_exact");
  const sampled = rates(steps, "generation/num_tokens", "seconds_since_start").at(-1);
  const trained = rates(steps, "tokens/trained", "seconds_since_start").at(-1);
  return [
    tile("accuracy, evaluation", fixed(evaluations.last("eval/accuracy")), `± ${fixed(error)}; ${exact === undefined ? "" : `exact ${fixed(exact)}; `}began at ${fixed(base)}`),
    tile("reward", fixed(steps.last("reward/mean")), `${percent(now["response/finished_fraction"])} of the rows finished`),
    tile("response length", whole(steps.last("response_length/p50")), `median, tokens; longest ${whole(steps.last("response_length/max"))}`),
    tile("tokens a second", whole(sampled), `sampled; ${whole(trained)} trained`),
    tile("policy lag", fixed(steps.last("policy_lag/mean"), 2), `steps; largest ${short(steps.last("policy_lag/max"))}`),
    tile("explained variance", fixed(steps.last("critic/vf_explained_var"), 2), `rows that were cut: ${fixed(steps.last("critic/vf_explained_var_cut"), 2)}`),
    tile("training step", seconds(now["timing_s/step"]), `of which waiting ${seconds(now["timing_s/wait"])}`),
  ];
}

/** @param {AlertStatus[]} alerts */
function alertList(alerts) {
  if (!alerts.length) return h("p", { class: "soft" }, "No alerts.");
  return h("ul", { class: "alerts" }, alerts.map((alert) =>
    h("li", { class: alert.severity }, alert.text, alert.since_step === null ? "" : h("span", { class: "soft" }, ` Since step ${alert.since_step}.`))));
}

/** @type {ViewModule["show"]} */
export async function show(place, context) {
  const [steps, evaluations] = await Promise.all([
    new History(context, STEP_NAMES).read(),
    new History(context, EVALUATION_NAMES, "evaluation").read(),
  ]);
  const csv = (/** @type {string} */ kind) => address("metrics/csv", { run: context.run, kind });
  const group = new ChartGroup({ files: [["steps", csv("step")], ["evaluations", csv("evaluation")]] });
  const responses = new DistributionCard(context, group);
  const drawn = charts(steps, evaluations, context, group);
  const numbers = h("div", { class: "grid small" });
  const alerts = h("section", { class: "card", "aria-label": "Alerts" });
  const work = new WorkShares();
  const services = h("section", { class: "card", "aria-label": "What each service does now" });
  fill(place, alerts, numbers, h("div", { class: "below" }, group.element), h("div", { class: "grid" }, drawn.map(({ chart }) => chart.element), services, responses.element));

  const draw = (/** @type {History} */ history) => {
    for (const one of drawn) if (one.history === history) one.chart.show(history.of("step"));
  };
  draw(steps);
  draw(evaluations);
  await responses.read();
  const readResponses = seldom(5000, () => group.chosen === null && responses.read());
  const showStatus = (/** @type {Status} */ status) => {
    fill(numbers, tiles(status, steps, evaluations));
    fill(alerts, alertList(status.alerts));
    work.add(status);
    fill(services, work.table(status));
  };
  fill(numbers, tiles(null, steps, evaluations));
  return {
    async receive(kind, data) {
      if (kind === "status") showStatus(data);
      if (kind === "steps") draw(await steps.add(data.lines));
      if (kind === "evaluations") draw(await evaluations.add(data.lines));
      if (kind === "steps" || kind === "evaluations") readResponses();
    },
    repaint: () => {
      group.repaint();
      responses.repaint();
    },
  };
}
