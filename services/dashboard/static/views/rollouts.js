// @ts-check
// All rollouts by state; one of them with all that is known about it.
import { seldom } from "/static/data/rest.js";
import { choice, facts, fill, h, labelled, table } from "/static/drawing/dom.js";
import { clock, seconds, short, words } from "/static/drawing/format.js";
import { TokenText } from "/static/drawing/token_text.js";

/** @import { RolloutDetail, RolloutSummary, ScoreAnswer } from "/static/data/answers.d.ts" */
/** @import { Context, ShownView, TableColumn, ViewModule } from "/static/data/types.d.ts" */

export const title = "Rollouts";

const STATES = ["", "requested", "ready", "trained", "scoring", "retired", "parked", "dropped"];
const SORTS = [["-updated_at", "newest first"], ["-length", "longest first"], ["length", "shortest first"], ["-score", "best first"], ["score", "worst first"], ["-windows", "most windows first"], ["prompt", "by prompt"]];
const PAGE = 50;

/**
 * @param {Context} context
 * @param {string} rollout
 */
function link(context, rollout) {
  return h("a", { href: context.link("rollouts", [rollout]) }, rollout);
}

/** @param {RolloutSummary | RolloutDetail} one */
function span(one) {
  if (one.oldest_version === null) return "–";
  return one.oldest_version === one.newest_version ? String(one.newest_version) : `${one.oldest_version} to ${one.newest_version}`;
}

/**
 * @param {Context} context
 * @param {string} caption
 * @param {RolloutSummary[]} items
 * @param {Array<TableColumn<RolloutSummary>>} more
 */
export function rolloutTable(context, caption, items, more = []) {
  return table(caption, [
    ["rollout", (one) => link(context, one.rollout)],
    ["prompt", (one) => (one.prompt === null ? "–" : `${one.evaluation ? "evaluation " : ""}${one.prompt}`), "number"],
    ["state", (one) => words(one.state)],
    ["windows", (one) => String(one.windows), "number"],
    ["tokens", (one) => String(one.length), "number"],
    ["policy versions", span],
    ["score", (one) => short(one.score), "number"],
    ["generator", (one) => one.generator || "–"],
    ["changed", (one) => clock(one.updated_at)],
    ...more,
  ], items, "no such rollout");
}

/**
 * @param {string} value
 * @param {(value: string) => unknown} onchange
 */
function numberField(value, onchange) {
  /** @type {HTMLInputElement} */
  const made = h("input", { type: "number", value, step: "any", onchange: () => onchange(made.value) });
  return made;
}

/**
 * @param {HTMLElement} place
 * @param {Context} context
 * @returns {Promise<ShownView>}
 */
async function showList(place, context) {
  const { run: _, ...given } = Object.fromEntries(context.parameters);
  /** @type {Record<string, string>} */
  const parameters = { state: "", sort: "-updated_at", evaluation: "", offset: "0", ...given };
  const listed = h("div", { "aria-live": "off" });
  const read = async () => {
    const found = await context.get("rollouts", { ...parameters, limit: PAGE });
    const last = Math.min(found.total, Number(parameters.offset) + found.items.length);
    const turn = (/** @type {number} */ by) => h("button", { type: "button", disabled: by < 0 ? Number(parameters.offset) === 0 : last >= found.total, onclick: () => change("offset", String(Math.max(0, Number(parameters.offset) + by))) }, by < 0 ? "Before" : "Next");
    fill(listed,
      rolloutTable(context, "", found.items),
      h("div", { class: "line" }, h("span", { class: "soft" }, `${found.total ? Number(parameters.offset) + 1 : 0} to ${last} of ${found.total.toLocaleString("en")}`), turn(-PAGE), turn(PAGE)));
  };
  const change = (/** @type {string} */ name, /** @type {string} */ value) => {
    parameters[name] = value;
    if (name !== "offset") parameters.offset = "0";
    const kept = Object.entries(parameters).filter(([, one]) => one !== "" && one !== "0");
    history.replaceState(null, "", context.link("rollouts", [], Object.fromEntries(kept)));
    return read();
  };
  const field = (/** @type {string} */ text, /** @type {string} */ name) => labelled(text, numberField(parameters[name] ?? "", (value) => change(name, value)));
  fill(place, h("section", { class: "card" },
    h("form", { class: "line", onsubmit: (event) => event.preventDefault() },
      labelled("State", choice(STATES.map((state) => [state, state ? words(state) : "all"]), parameters.state, (value) => change("state", value))),
      labelled("Kind", choice([["", "all"], ["false", "training"], ["true", "evaluation"]], parameters.evaluation, (value) => change("evaluation", value))),
      field("Prompt", "prompt"), field("Score from", "min_score"), field("Score to", "max_score"),
      field("Tokens from", "min_length"), field("Tokens to", "max_length"),
      labelled("Order", choice(SORTS, parameters.sort, (value) => change("sort", value)))),
    listed));
  await read();
  const renew = seldom(2000, read);
  return { receive: (kind, _) => ["windows", "steps"].includes(kind) && Number(parameters.offset) === 0 && !listed.contains(document.activeElement) && renew() };
}

/** @param {ScoreAnswer | null} score */
function scoreCard(score) {
  if (!score) return h("section", { class: "card" }, h("h3", {}, "Score"), h("p", { class: "soft" }, "It has no score yet."));
  /** @type {Array<[string, string]>} */
  const components = Object.entries(score.components).map(([name, value]) => [name, typeof value === "number" ? short(value) : String(value)]);
  return h("section", { class: "card" },
    h("h3", {}, "Score"),
    facts([["score", short(score.score)], ["status", words(score.status)], ["function", score.function], ...components]),
    table("Attempts", [
      ["attempt", (one) => String(one.attempt), "number"],
      ["status", (one) => words(one.status)],
      ["score", (one) => short(one.score), "number"],
      ["took", (one) => seconds(one.seconds), "number"],
      ["error", (one) => one.error || "–"],
      ["details", (one) => one.details || "–"],
    ], score.attempts));
}

/** @param {RolloutDetail["windows"]} windows */
function windowTable(windows) {
  return table("Windows", [
    ["window", (one) => String(one.window), "number"],
    ["tokens", (one) => `${one.start} to ${one.start + one.tokens}`, "number"],
    ["policy version (tokens)", (one) => one.versions.map(([version, count]) => `${version} (${count})`).join(", ") || "–"],
    ["generator", (one) => (one.generator ? `${one.generator}, slot ${one.slot}` : "waiting for a slot")],
    ["requested", (one) => clock(one.requested)],
    ["sampled in", (one) => (one.ended === null || one.started === null ? "–" : seconds(one.ended - one.started)), "number"],
    ["end", (one) => (one.ended === null ? "–" : one.is_finished ? (one.finish === "length" ? "response limit" : "response ended") : "cut")],
    ["trained in step", (one) => (one.step === null ? "–" : String(one.step)), "number"],
  ], windows);
}

/**
 * @param {HTMLElement} place
 * @param {Context} context
 * @returns {Promise<ShownView>}
 */
async function showOne(place, context) {
  const one = await context.get(`rollouts/${encodeURIComponent(context.path[0])}`);
  const tokens = one.tokens ? new TokenText(one.tokens, one.windows) : null;
  fill(place,
    h("p", {}, h("a", { href: context.link("rollouts") }, "All rollouts")),
    h("div", { class: "grid" },
      h("section", { class: "card" }, h("h3", {}, `${one.evaluation ? "Evaluation" : "Rollout"} ${one.rollout}`), facts([
        ["state", words(one.state)],
        ["cause", one.cause],
        ["prompt", one.prompt === null ? "–" : String(one.prompt)],
        ["response", `${one.length} tokens in ${one.windows.length} windows`],
        ["policy versions", span(one)],
        ["trained in steps", one.trained_steps.join(", ") || "none yet"],
        ["expected answer", one.ground_truth ?? ""],
        ["changed", clock(one.updated_at)],
      ])),
      scoreCard(one.score)),
    one.prompt_text === null ? "" : h("section", { class: "card" }, h("h3", {}, "Prompt"), h("div", { class: "tokens", tabindex: 0, role: "region", "aria-label": "Prompt" }, one.prompt_text)),
    h("section", { class: "card" }, h("h3", {}, "Response"), one.tokens_missing ? h("p", { class: "soft" }, `${one.tokens_missing[0].toUpperCase()}${one.tokens_missing.slice(1)}.`) : "", tokens?.element ?? ""),
    h("section", { class: "card" }, windowTable(one.windows)),
    h("section", { class: "card" }, rolloutTable(context, "Other rollouts of this prompt", one.siblings)));
  const renew = seldom(2000, context.reload);
  const isOver = ["retired", "dropped"].includes(one.state) && !one.tokens_missing;
  return {
    receive: (kind, data) => kind === "windows" && !isOver && data.bars.some((bar) => bar.rollout === one.rollout) && renew(),
    repaint: () => tokens?.paint(),
  };
}

/** @type {ViewModule["show"]} */
export async function show(place, context) {
  return context.path[0] ? showOne(place, context) : showList(place, context);
}
