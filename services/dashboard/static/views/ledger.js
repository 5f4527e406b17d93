// @ts-check
// Every window that was ever issued, accounted for; and the parked rollouts by cause, with buttons to retry or drop them.
import { History } from "/static/data/history.js";
import { seldom } from "/static/data/rest.js";
import { LineChart } from "/static/drawing/chart.js";
import { facts, fill, h, labelled, table } from "/static/drawing/dom.js";
import { visible, whole, words } from "/static/drawing/format.js";
import { Commands, confirmed, outcomes } from "/static/views/commands.js";
import { rolloutTable } from "/static/views/rollouts.js";

/** @import { DeadLettersStatus, LedgerReport, PageRolloutSummary, ParkedCause, RolloutSummary, Status } from "/static/data/answers.d.ts" */
/** @import { Context, TableColumn, ViewModule } from "/static/data/types.d.ts" */

export const title = "Ledger";

const PARTS = /** @type {const} */ (["trained", "in_flight", "parked", "dropped"]);
const MAX_PARKED = 100;

/** @param {LedgerReport} ledger */
function equation(ledger) {
  const part = (/** @type {"issued" | typeof PARTS[number]} */ name) => h("span", {}, h("b", {}, whole(ledger[name])), " ", h("small", {}, words(name)));
  const holds = ledger.holds === null ? "Some numbers are not known." : ledger.holds ? "Every window is accounted for." : "The equation does not hold: windows are lost or counted twice.";
  return [
    h("div", { class: "equation" }, part("issued"), " = ", PARTS.map((name, index) => [index ? " + " : "", part(name)])),
    h("p", { class: ledger.holds === false ? "badge bad" : "soft" }, `In windows. ${holds}`),
  ];
}

/**
 * @param {string} caption
 * @param {Record<string, number>} numbers
 * @param {string} whenEmpty
 */
function counts(caption, numbers, whenEmpty) {
  return table(caption, [["", ([name]) => words(name)], ["", ([, count]) => whole(count), "number"]], Object.entries(numbers), whenEmpty);
}

/**
 * Retrying and dropping: the rollouts that are named, those of a cause, or all. Several at once are confirmed.
 * @param {Context} context
 * @param {() => Promise<void>} renew
 */
function parkedControls(context, renew) {
  const commands = new Commands(context);
  const reason = h("input", { value: "dropped by operator", maxlength: 500 });
  const outcome = h("div", { class: "below" });
  const send = async (/** @type {boolean} */ isDrop, /** @type {object} */ body, question = "") => {
    if (question && !await confirmed(question, isDrop ? "Drop" : "Retry")) return;
    if (await commands.send(isDrop ? "drop-parked" : "retry-parked", isDrop ? { ...body, reason: reason.value } : body)) await renew();
  };
  const button = (/** @type {boolean} */ isDrop, /** @type {string} */ text, /** @type {object} */ body, question = "") => h("button", { type: "button", class: isDrop ? "danger" : null, onclick: () => send(isDrop, body, question) }, text);
  const both = (/** @type {string} */ what, /** @type {object} */ body, which = "") => h("div", { class: "line" },
    button(false, `Retry${what}`, body, which && `Retry ${which}? They are requested again, and each trains once.`),
    button(true, `Drop${what}`, body, which && `Drop ${which}? Their windows count as dropped, and never train.`));
  const receiveStatus = (/** @type {Status} */ status) => {
    commands.receiveStatus(status);
    const ours = (status.control?.commands ?? []).filter((one) => ["RETRY_PARKED", "DROP_PARKED"].includes(one.action));
    fill(outcome, ours.length ? outcomes(ours.slice(-3)) : "");
  };
  return { commands, both, receiveStatus, outcome, reasonField: labelled("Reason for dropping", reason) };
}

/**
 * @param {ReturnType<typeof parkedControls>} controls
 * @param {ParkedCause[]} causes
 * @param {number} total
 */
function parkedByCause(controls, causes, total) {
  if (!total) return [h("p", { class: "soft" }, "No rollout is parked.")];
  const { commands, both } = controls;
  const number = (/** @type {number} */ count) => `${whole(count)} parked ${count === 1 ? "rollout" : "rollouts"}`;
  /** @type {TableColumn<ParkedCause>} */
  const ofCause = ["", (one) => both("", { cause: one.cause }, `the ${number(one.num_rollouts)} with the cause “${visible(one.cause)}”`)];
  /** @type {Array<TableColumn<ParkedCause>>} */
  const columns = [["cause", (one) => visible(one.cause)], ["rollouts", (one) => whole(one.num_rollouts), "number"]];
  return [
    table("Parked, by cause", [...columns, ...(commands.areEnabled ? [ofCause] : [])], causes),
    commands.areEnabled ? both(" all", {}, `all ${number(total)}`) : "",
  ];
}

/**
 * @param {Context} context
 * @param {ReturnType<typeof parkedControls>} controls
 * @param {PageRolloutSummary} parked
 */
function parkedList(context, controls, parked) {
  if (!parked.total) return "";
  /** @type {TableColumn<RolloutSummary>} */
  const ofOne = ["", (row) => controls.both("", { rollouts: [row.rollout] })];
  /** @type {Array<TableColumn<RolloutSummary>>} */
  const more = [["cause", (row) => visible(row.cause)]];
  const caption = `Parked rollouts${parked.items.length < parked.total ? `, the newest ${parked.items.length}` : ""}`;
  return rolloutTable(context, caption, parked.items, [...more, ...(controls.commands.areEnabled ? [ofOne] : [])]);
}

/** @param {DeadLettersStatus} letters */
function deadLetters(letters) {
  const caption = `Dead letters: ${whole(letters.num_kept)} kept, ${whole(letters.num_dropped)} dropped; the newest`;
  return table(caption, [["stream", (one) => one.source], ["entry", (one) => one.place], ["cause", (one) => one.cause]], letters.newest);
}

/** @type {ViewModule["show"]} */
export async function show(place, context) {
  const history = await new History(context, PARTS.map((name) => `ledger/${name}`)).read();
  const chart = new LineChart(
    "Windows in flight, parked and dropped",
    PARTS.slice(1).map((name) => ({ label: words(name), values: () => history.of(`ledger/${name}`) })),
  );
  const numbers = h("section", { class: "card" });
  const [causesPlace, listPlace] = [h("div"), h("div", { class: "below" })];
  const controls = parkedControls(context, () => read());
  const control = h("div", {}, controls.reasonField, controls.commands.element, controls.outcome);
  const [states, dropped, duplicates] = [1, 2, 3].map(() => h("section", { class: "card" }));
  fill(place, numbers, h("section", { class: "card" }, causesPlace, control, listPlace), h("div", { class: "grid" }, chart.element, states, h("div", {}, dropped, duplicates)));
  const draw = () => chart.show(history.of("step"));
  let shownParked = "";
  const read = async () => {
    const [ledger, parked] = await Promise.all([context.get("ledger"), context.get("rollouts", { state: "parked", evaluation: false, limit: MAX_PARKED })]);
    fill(numbers, equation(ledger));
    const key = JSON.stringify([parked.total, ledger.parked_by_cause, parked.items.map((one) => one.rollout), controls.commands.areEnabled]);
    if (key !== shownParked) {
      fill(causesPlace, parkedByCause(controls, ledger.parked_by_cause, parked.total));
      fill(listPlace, parkedList(context, controls, parked));
    }
    controls.reasonField.hidden = !parked.total || !controls.commands.areEnabled;
    shownParked = key;
    fill(states, counts("Rollouts by state", ledger.by_state, "none"), ledger.num_forgotten ? h("p", { class: "soft" }, `${whole(ledger.num_forgotten)} older ones are not listed.`) : "");
    fill(dropped, counts("Dropped, by reason", ledger.dropped_by_reason, "nothing was dropped"));
    fill(duplicates, h("h3", {}, "Duplicates and losses"), facts([
      ["duplicate windows, dropped", whole(ledger.duplicates.window)],
      ["duplicate scores, dropped", whole(ledger.duplicates.score)],
      ["requests lost in Redis, resent", whole(ledger.resent_requests)],
      ["records rejected, requested again", whole(ledger.rejected_records)],
    ]), deadLetters(ledger.dead_letters));
  };
  draw();
  await read();
  const renew = seldom(1000, read);
  return {
    async receive(kind, data) {
      if (kind === "steps") {
        await history.add(data.lines);
        draw();
      }
      if (kind === "status") controls.receiveStatus(data);
      if (["status", "steps"].includes(kind)) renew();
    },
    repaint: () => chart.repaint(),
  };
}
