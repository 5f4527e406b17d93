// Every window that was ever asked for, accounted for; and the parked work, with what can be done about it.
import { History } from "/static/data/history.js";
import { seldom } from "/static/data/rest.js";
import { LineChart } from "/static/drawing/chart.js";
import { facts, fill, h, labelled, table } from "/static/drawing/dom.js";
import { whole, words } from "/static/drawing/format.js";
import { Orders } from "/static/views/commands.js";
import { rolloutTable } from "/static/views/rollouts.js";

export const title = "Ledger";

const PARTS = ["trained", "in_flight", "parked", "dropped"];
const MAX_PARKED = 100;

function equation(told) {
  const part = (name) => h("span", {}, h("b", {}, whole(told[name])), " ", h("small", {}, words(name)));
  const holds = told.holds === null ? "Not all of it is known." : told.holds ? "It holds." : "It does not hold: tokens are lost or counted twice.";
  return [
    h("div", { class: "equation" }, part("issued"), " = ", PARTS.map((name, index) => [index ? " + " : "", part(name)])),
    h("p", { class: told.holds === false ? "badge bad" : "soft" }, `In windows. ${holds}`),
  ];
}

function counts(caption, numbers, whenEmpty) {
  return table(caption, [["", ([name]) => words(name)], ["", ([, count]) => whole(count), "number"]], Object.entries(numbers), whenEmpty);
}

function parkedCard(context, orders, parked, renew) {
  const reason = h("input", { value: "given up by hand", maxlength: 500 });
  const send = (name, body) => orders.send(name, body).then(renew);
  const one = (name, text, body) => h("button", { type: "button", class: name === "drop-parked" ? "danger" : null, onclick: () => send(name, body) }, text);
  const buttons = (row) => h("div", { class: "line" }, one("retry-parked", "Retry", { rollouts: [row.rollout] }), one("drop-parked", "Drop", { rollouts: [row.rollout], reason: reason.value }));
  const all = parked.total ? h("div", { class: "line" }, one("retry-parked", "Retry all"), labelled("Reason for dropping", reason), h("button", { type: "button", class: "danger", onclick: () => send("drop-parked", { reason: reason.value }) }, "Drop all")) : "";
  const more = [["cause", (row) => row.cause], ...(orders.mayBeGiven ? [["", buttons]] : [])];
  const listed = parked.total ? rolloutTable(context, "Parked work", parked.items, more) : h("p", { class: "soft" }, "No work is parked.");
  return [listed, orders.mayBeGiven ? all : "", orders.element];
}

export async function show(place, context) {
  const history = await new History(context, PARTS.map((name) => `ledger/${name}`)).read();
  const chart = new LineChart("Windows under way and set aside", {
    series: PARTS.slice(1).map((name) => ({ label: words(name), values: () => history.of(`ledger/${name}`) })),
  });
  const orders = new Orders(context);
  const numbers = h("section", { class: "card" });
  const parkedPlace = h("section", { class: "card" });
  const [states, dropped, duplicates] = [1, 2, 3].map(() => h("section", { class: "card" }));
  fill(place, numbers, parkedPlace, h("div", { class: "grid" }, chart.element, states, h("div", {}, dropped, duplicates)));
  const draw = () => chart.show([history.of("step"), ...chart.series.map((line) => line.values())]);
  let shownParked = null;
  const read = async () => {
    const [told, parked] = await Promise.all([context.get("ledger"), context.get("rollouts", { state: "parked", limit: MAX_PARKED })]);
    fill(numbers, equation(told));
    const key = JSON.stringify([parked.total, parked.items.map((one) => one.rollout), orders.mayBeGiven]);
    if (key !== shownParked) fill(parkedPlace, parkedCard(context, orders, parked, read));
    shownParked = key;
    fill(states, counts("Rollouts by state", told.by_state, "none"), told.num_forgotten ? h("p", { class: "soft" }, `${whole(told.num_forgotten)} older ones are not listed.`) : "");
    fill(dropped, counts("Dropped, by reason", told.dropped_by_reason, "nothing was dropped"));
    fill(duplicates, h("h3", {}, "Duplicates and losses"), facts([
      ["duplicate windows, dropped", whole(told.duplicates.window)],
      ["duplicate scores, dropped", whole(told.duplicates.score)],
      ["requests that vanished, resent", whole(told.resent_requests)],
    ]));
  };
  draw();
  await read();
  const renew = seldom(1000, read);
  return {
    async tell(kind, data) {
      if (kind === "steps") draw(await history.add(data.lines));
      if (kind === "status") orders.hear(data);
      if (["status", "steps"].includes(kind)) renew();
    },
    repaint: () => chart.repaint(),
  };
}
