// @ts-check
// Every window that was ever issued, accounted for; and the parked rollouts, with buttons to retry or drop them.
import { History } from "/static/data/history.js";
import { seldom } from "/static/data/rest.js";
import { LineChart } from "/static/drawing/chart.js";
import { facts, fill, h, labelled, table } from "/static/drawing/dom.js";
import { whole, words } from "/static/drawing/format.js";
import { Commands } from "/static/views/commands.js";
import { rolloutTable } from "/static/views/rollouts.js";

/** @import { DeadLettersStatus, LedgerReport, PageRolloutSummary, RolloutSummary } from "/static/data/answers.d.ts" */
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
 * @param {Context} context
 * @param {Commands} commands
 * @param {PageRolloutSummary} parked
 * @param {() => Promise<void>} renew
 */
function parkedCard(context, commands, parked, renew) {
  const reason = h("input", { value: "dropped by operator", maxlength: 500 });
  const send = (/** @type {string} */ name, /** @type {object} */ body) => commands.send(name, body).then(renew);
  const one = (/** @type {string} */ name, /** @type {string} */ text, /** @type {object} */ body) => h("button", { type: "button", class: name === "drop-parked" ? "danger" : null, onclick: () => send(name, body) }, text);
  const buttons = (/** @type {RolloutSummary} */ row) => h("div", { class: "line" }, one("retry-parked", "Retry", { rollouts: [row.rollout] }), one("drop-parked", "Drop", { rollouts: [row.rollout], reason: reason.value }));
  const all = parked.total ? h("div", { class: "line" }, one("retry-parked", "Retry all", {}), labelled("Reason for dropping", reason), h("button", { type: "button", class: "danger", onclick: () => send("drop-parked", { reason: reason.value }) }, "Drop all")) : "";
  /** @type {Array<TableColumn<RolloutSummary>>} */
  const more = [["cause", (row) => row.cause], ...(commands.areEnabled ? [/** @type {TableColumn<RolloutSummary>} */ (["", buttons])] : [])];
  const listed = parked.total ? rolloutTable(context, "Parked rollouts", parked.items, more) : h("p", { class: "soft" }, "No rollout is parked.");
  return [listed, commands.areEnabled ? all : "", commands.element];
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
  const commands = new Commands(context);
  const numbers = h("section", { class: "card" });
  const parkedPlace = h("section", { class: "card" });
  const [states, dropped, duplicates] = [1, 2, 3].map(() => h("section", { class: "card" }));
  fill(place, numbers, parkedPlace, h("div", { class: "grid" }, chart.element, states, h("div", {}, dropped, duplicates)));
  const draw = () => chart.show(history.of("step"));
  let shownParked = "";
  const read = async () => {
    const [ledger, parked] = await Promise.all([context.get("ledger"), context.get("rollouts", { state: "parked", limit: MAX_PARKED })]);
    fill(numbers, equation(ledger));
    const key = JSON.stringify([parked.total, parked.items.map((one) => one.rollout), commands.areEnabled]);
    if (key !== shownParked) fill(parkedPlace, parkedCard(context, commands, parked, read));
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
      if (kind === "status") commands.receiveStatus(data);
      if (["status", "steps"].includes(kind)) renew();
    },
    repaint: () => chart.repaint(),
  };
}
