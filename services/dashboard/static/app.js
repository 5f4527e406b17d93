// The status of a run for people: asks the REST interface every two seconds. Whatever comes is set as text, never as HTML.
import { drawWindows } from "/static/windows.js";

const RENEW_MILLISECONDS = 2000;
const NUMBERS = [
  ["reward", "reward/mean", 3],
  ["response length, tokens", "response_length/mean", 0],
  ["explained variance", "critic/vf_explained_var", 2],
  ["policy lag, steps", "policy_lag/mean", 2],
  ["waiting, s", "timing_s/wait", 2],
  ["training, s", "timing_s/train", 2],
];
const at = (id) => document.getElementById(id);

function element(name, text, className = "") {
  const made = document.createElement(name);
  made.textContent = text;
  if (className) made.className = className;
  return made;
}

function shown(value, digits) {
  return typeof value === "number" ? value.toFixed(digits) : "none";
}

async function asked(address) {
  const run = at("run").value;
  const answer = await fetch(`/api/v1/${address}${run ? `?run=${encodeURIComponent(run)}` : ""}`);
  if (!answer.ok) throw new Error((await answer.json()).detail);
  return answer.json();
}

function showStatus(status) {
  at("headline").textContent =
    `${status.run}: ${status.state.replaceAll("_", " ")}, step ${status.step} of ${status.total_training_steps}`;
  at("waiting").textContent = status.waiting_for ? `Waits for ${status.waiting_for}.` : "";
  const alerts = status.alerts.map((alert) => element("li", alert.text, alert.severity === "info" ? "" : "serious"));
  at("alerts").replaceChildren(...(alerts.length ? alerts : [element("li", "none")]));
  const accuracy = status.evaluation["eval/accuracy"];
  const rows = [["accuracy, evaluation", shown(accuracy, 3)]];
  for (const [title, name, digits] of NUMBERS) rows.push([title, shown(status.metrics[name], digits)]);
  at("numbers").replaceChildren(...rows.flatMap(([title, text]) => [element("dt", title), element("dd", text)]));
  at("services").replaceChildren(...status.services.map(serviceRow));
}

function serviceRow(service) {
  const row = document.createElement("tr");
  const seen = service.is_alive ? "now" : `${Math.round(service.seconds_since_seen)} s ago`;
  const says = service.status.last_error || service.status.waiting_for || "";
  row.append(...[service.name, service.kind, seen, says].map((text) => element("td", String(text))));
  if (!service.is_alive) row.className = "serious";
  return row;
}

function showLedger(ledger) {
  const { issued, trained, in_flight: inFlight, parked, dropped } = ledger;
  const holds = ledger.holds ? "" : " (does not hold)";
  at("equation").textContent =
    `${issued} issued = ${trained} trained + ${inFlight} in flight + ${parked} parked + ${dropped} dropped${holds}`;
}

async function renew() {
  try {
    showStatus(await asked("status"));
    showLedger(await asked("ledger"));
    drawWindows(await asked("windows"), at("windows"), at("windows-text"), at("legend"));
  } catch (error) {
    at("waiting").textContent = `The dashboard does not answer: ${error.message}`;
  }
  setTimeout(renew, RENEW_MILLISECONDS);
}

async function begin() {
  const runs = await (await fetch("/api/v1/runs")).json();
  at("run").append(...runs.items.map((run) => element("option", run.name)));
  const live = runs.items.find((run) => run.is_live);
  if (live) at("run").value = live.name;
  renew();
}

begin();
