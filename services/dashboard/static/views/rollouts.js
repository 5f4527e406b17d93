// @ts-check
// All rollouts by state, the kept responses searched, one rollout with all that is known about it, and the kept responses
// to one prompt side by side.
import { seldom } from "/static/data/rest.js";
import { choice, facts, fill, h, labelled, table } from "/static/drawing/dom.js";
import { clock, seconds, short, visible, words } from "/static/drawing/format.js";
import { TokenText } from "/static/drawing/token_text.js";

/** @import { Excerpt, KeptSummary, KeptText, RolloutDetail, RolloutSummary, ScoreAnswer } from "/static/data/answers.d.ts" */
/** @import { Context, ShownView, TableColumn, ViewModule } from "/static/data/types.d.ts" */

export const title = "Rollouts";

const STATES = ["", "requested", "ready", "trained", "scoring", "retired", "parked", "dropped"];
const SORTS = [["-updated_at", "newest first"], ["-length", "longest first"], ["length", "shortest first"], ["-score", "best first"], ["score", "worst first"], ["-windows", "most windows first"], ["prompt", "by prompt"]];
const PAGE = 50;
const SIDE_BY_SIDE = [4, 8, 16, 32];
const SAME_PROMPT = "same-prompt";

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
 * One line of a text.
 * @param {string} text
 */
function inOneLine(text) {
  return visible(text.replaceAll("\n", " ⏎ "));
}

/** @type {TableColumn<RolloutSummary>} */
const PREVIEW = ["response", (one) => (one.preview === null ? "–" : h("span", { class: "preview" }, inOneLine(one.preview)))];

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
    ...(items.some((one) => one.preview !== null) ? [PREVIEW] : []),
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

/** @param {Excerpt} excerpt */
function passage(excerpt) {
  return h("span", { class: "passage" }, inOneLine(excerpt.before), excerpt.found ? h("mark", {}, inOneLine(excerpt.found)) : "", inOneLine(excerpt.after));
}

/**
 * The kept responses that have the text.
 * @param {Context} context
 * @param {Record<string, string>} parameters
 * @param {(older_than: string) => unknown} searchOn
 */
async function foundResponses(context, parameters, searchOn) {
  const { text, evaluation, min_score, max_score, older_than } = parameters;
  const found = await context.get("responses", { text, evaluation, min_score, max_score, older_than, limit: PAGE });
  /** @type {Array<TableColumn<KeptSummary>>} */
  const columns = [
    ["rollout", (one) => (one.is_listed ? link(context, one.rollout) : one.rollout)],
    ["prompt", (one) => h("a", { href: context.link("rollouts", [one.rollout, SAME_PROMPT]) }, "side by side")],
    ["kind", (one) => (one.evaluation ? "evaluation" : "training")],
    ["step", (one) => (one.step === null ? "–" : String(one.step)), "number"],
    ["score", (one) => (one.status === "SCORED" ? short(one.score) : words(one.status)), "number"],
    ["tokens", (one) => String(one.length), "number"],
    ["scored", (one) => clock(one.time)],
    ["response", (one) => passage(one.excerpt)],
  ];
  const on = found.older_than === null ? "" : h("button", { type: "button", onclick: () => searchOn(String(found.older_than)) }, "Search on");
  const first = older_than ? h("button", { type: "button", onclick: () => searchOn("") }, "From the newest") : "";
  return [
    table("", columns, found.items, "no kept response has this text"),
    h("div", { class: "line" }, h("span", { class: "soft" }, `${found.num_searched.toLocaleString("en")} of ${found.total.toLocaleString("en")} kept responses searched, the newest first`), first, on),
    found.note ? h("p", { class: "soft", role: "status" }, found.note) : "",
  ];
}

/**
 * @param {Context} context
 * @param {Record<string, string>} parameters
 * @param {(name: string, value: string) => unknown} change
 */
async function listedRollouts(context, parameters, change) {
  const { text: _, older_than: __, ...wanted } = parameters;
  const found = await context.get("rollouts", { ...wanted, limit: PAGE });
  const offset = Number(parameters.offset);
  const last = Math.min(found.total, offset + found.items.length);
  const turn = (/** @type {number} */ by) => h("button", { type: "button", disabled: by < 0 ? offset === 0 : last >= found.total, onclick: () => change("offset", String(Math.max(0, offset + by))) }, by < 0 ? "Before" : "Next");
  return [
    rolloutTable(context, "", found.items),
    h("div", { class: "line" }, h("span", { class: "soft" }, `${found.total ? offset + 1 : 0} to ${last} of ${found.total.toLocaleString("en")}`), turn(-PAGE), turn(PAGE)),
  ];
}

/**
 * What narrows the list; a search for a text knows the kind and the score alone.
 * @param {Record<string, string>} parameters
 * @param {(name: string, value: string) => unknown} change
 */
function filters(parameters, change) {
  const field = (/** @type {string} */ text, /** @type {string} */ name) => labelled(text, numberField(parameters[name] ?? "", (value) => change(name, value)));
  /** @type {HTMLInputElement} */
  const text = h("input", { type: "search", value: parameters.text, maxlength: 200, onchange: () => change("text", text.value) });
  /** @type {HTMLFieldSetElement} */
  const ofList = h("fieldset", { class: "line" },
    labelled("State", choice(STATES.map((state) => [state, state ? words(state) : "all"]), parameters.state, (value) => change("state", value))),
    field("Prompt", "prompt"), field("Step", "step"), field("Tokens from", "min_length"), field("Tokens to", "max_length"),
    labelled("Order", choice(SORTS, parameters.sort, (value) => change("sort", value))));
  const form = h("form", { class: "line", onsubmit: (event) => event.preventDefault() },
    labelled("Text in kept responses", text),
    labelled("Kind", choice([["", "all"], ["false", "training"], ["true", "evaluation"]], parameters.evaluation, (value) => change("evaluation", value))),
    field("Score from", "min_score"), field("Score to", "max_score"), ofList);
  return { form, ofList };
}

/**
 * @param {HTMLElement} place
 * @param {Context} context
 * @returns {Promise<ShownView>}
 */
async function showList(place, context) {
  const { run: _, ...given } = Object.fromEntries(context.parameters);
  /** @type {Record<string, string>} */
  const parameters = { text: "", older_than: "", state: "", sort: "-updated_at", evaluation: "", offset: "0", ...given };
  const listed = h("div", { "aria-live": "off" });
  let numReads = 0;
  const read = async () => {
    const number = ++numReads; // of several that overlap, the newest counts
    const shown = parameters.text
      ? await foundResponses(context, parameters, (older_than) => change("older_than", older_than))
      : await listedRollouts(context, parameters, change);
    if (number === numReads) fill(listed, ...shown);
  };
  const change = (/** @type {string} */ name, /** @type {string} */ value) => {
    parameters[name] = value;
    if (name !== "offset") parameters.offset = "0";
    if (name !== "older_than") parameters.older_than = "";
    ofList.disabled = Boolean(parameters.text);
    const kept = Object.entries(parameters).filter(([, one]) => one !== "" && one !== "0");
    history.replaceState(null, "", context.link("rollouts", [], Object.fromEntries(kept)));
    return read();
  };
  const { form, ofList } = filters(parameters, change);
  ofList.disabled = Boolean(parameters.text);
  fill(place, h("section", { class: "card" }, form, listed));
  await read();
  const renew = seldom(2000, read);
  const isFollowing = () => !parameters.text && Number(parameters.offset) === 0 && !listed.contains(document.activeElement);
  return { receive: (kind, _) => ["windows", "steps"].includes(kind) && isFollowing() && renew() };
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

/**
 * Where there is no trace, the response as it was scored.
 * @param {RolloutDetail} one
 */
function keptText(one) {
  return one.text === null ? "" : h("div", { class: "tokens", tabindex: 0, role: "region", "aria-label": "Response" }, visible(one.text));
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
    h("p", { class: "line" },
      h("a", { href: context.link("rollouts") }, "All rollouts"),
      one.num_kept_of_same_prompt ? h("a", { href: context.link("rollouts", [one.rollout, SAME_PROMPT]) }, `${one.num_kept_of_same_prompt.toLocaleString("en")} kept responses to this prompt, side by side`) : ""),
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
    h("section", { class: "card" }, h("h3", {}, "Response"), one.tokens_missing ? h("p", { class: "soft" }, `${one.tokens_missing[0].toUpperCase()}${one.tokens_missing.slice(1)}.`) : "", tokens?.element ?? keptText(one)),
    h("section", { class: "card" }, windowTable(one.windows)),
    h("section", { class: "card" }, rolloutTable(context, "Other rollouts of this prompt", one.siblings)));
  const renew = seldom(2000, context.reload);
  const isOver = ["retired", "dropped"].includes(one.state) && !one.tokens_missing;
  return {
    receive: (kind, data) => kind === "windows" && !isOver && data.bars.some((bar) => bar.rollout === one.rollout) && renew(),
    repaint: () => tokens?.paint(),
  };
}

/**
 * One of the responses side by side.
 * @param {Context} context
 * @param {KeptText} one
 * @param {string} current the rollout whose prompt it is
 */
function responseColumn(context, one, current) {
  const numShown = [...one.response].length; // as the server counts characters
  return h("article", { class: `card${one.rollout === current ? " current" : ""}` },
    h("h3", {}, one.step === null ? "Step not known" : `Step ${one.step}`),
    facts([
      ["score", one.status === "SCORED" ? short(one.score) : words(one.status)],
      ["length", `${one.length} tokens`],
      ["rollout", one.is_listed ? link(context, one.rollout) : one.rollout],
    ]),
    h("div", { class: "tokens", tabindex: 0, role: "region", "aria-label": `Response of ${one.rollout}` }, visible(one.response)),
    numShown < one.num_characters ? h("p", { class: "soft" }, `Its first ${numShown.toLocaleString("en")} of ${one.num_characters.toLocaleString("en")} characters.`) : "");
}

/**
 * @param {HTMLElement} place
 * @param {Context} context
 * @returns {Promise<ShownView>}
 */
async function showSamePrompt(place, context) {
  const [rollout] = context.path;
  const limit = context.parameters.get("limit") ?? String(SIDE_BY_SIDE[1]);
  const found = await context.get(`rollouts/${encodeURIComponent(rollout)}/same-prompt`, { limit });
  const shown = found.responses.length < found.total ? `${found.responses.length} of the ${found.total.toLocaleString("en")} kept responses to this prompt, spread over the run` : `All ${found.total} kept responses to this prompt`;
  const more = choice(SIDE_BY_SIDE.map((count) => [String(count), `${count} at most`]), limit, (value) => {
    location.assign(context.link("rollouts", [rollout, SAME_PROMPT], { limit: value }));
  });
  fill(place,
    h("p", {}, h("a", { href: context.link("rollouts") }, "All rollouts")),
    found.total
      ? h("section", { class: "card" }, h("h3", {}, "Prompt"),
        h("div", { class: "tokens short", tabindex: 0, role: "region", "aria-label": "Prompt" }, visible(found.prompt)),
        facts([["expected answer", visible(found.ground_truth)]]))
      : "",
    h("section", { class: "card" },
      found.total ? h("div", { class: "line" }, h("span", {}, `${shown}, from the earliest to the latest.`), labelled("Side by side", more)) : "",
      found.note ? h("p", { class: "soft" }, found.note) : "",
      h("div", { class: "columns", tabindex: 0, role: "region", "aria-label": "Responses side by side" }, found.responses.map((one) => responseColumn(context, one, rollout)))));
  return {};
}

/** @type {ViewModule["show"]} */
export async function show(place, context) {
  if (context.path[1] === SAME_PROMPT) return showSamePrompt(place, context);
  return context.path[0] ? showOne(place, context) : showList(place, context);
}
