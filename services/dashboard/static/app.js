// @ts-check
// The page: which run, which view, and what they receive. A view is a module with `title` and
// `show(place, context)`, which returns {receive(kind, data), repaint(), close()}, each of them optional.
import { Live } from "/static/data/live.js";
import { get, RestError, takeTokenFromAddress, whileAnswered } from "/static/data/rest.js";
import { fill, h } from "/static/drawing/dom.js";
import { words } from "/static/drawing/format.js";
import * as compare from "/static/views/compare.js";
import * as critic from "/static/views/critic.js";
import * as ledger from "/static/views/ledger.js";
import * as overview from "/static/views/overview.js";
import * as rollouts from "/static/views/rollouts.js";
import * as services from "/static/views/services.js";
import * as steer from "/static/views/steer.js";
import * as windows from "/static/views/windows.js";

/** @import { RunSummary, Status } from "/static/data/answers.d.ts" */
/** @import { Context, Receive, ShownView, ViewModule } from "/static/data/types.d.ts" */

/** @type {Record<string, ViewModule>} */
const VIEWS = { overview, windows, rollouts, critic, ledger, services, compare, steer };
const GOOD = ["running", "finished"];
const RUNS_MILLISECONDS = 15_000;
const [runSelect, progress] = [/** @type {HTMLSelectElement} */ (at("run")), /** @type {HTMLProgressElement} */ (at("progress"))];

/** @type {{ runs: RunSummary[], run: string, live: Live | null, view: ShownView | null, status: Status | null, numShown: number }} */
const page = { runs: [], run: "", live: null, view: null, status: null, numShown: 0 };

/** @param {string} id of an element of index.html */
function at(id) {
  return /** @type {HTMLElement} */ (document.getElementById(id));
}

function route() {
  const [path, query] = location.hash.replace(/^#\/?/, "").split("?");
  const [view, ...rest] = path.split("/").map(decodeURIComponent);
  return { view: VIEWS[view] ? view : "overview", path: rest, parameters: new URLSearchParams(query ?? "") };
}

/**
 * The address of a view, of the run that is shown.
 * @type {Context["link"]}
 */
function link(view, path = [], parameters = {}) {
  const query = new URLSearchParams({ ...parameters, ...(page.run ? { run: page.run } : {}) }).toString();
  return `#/${[view, ...path].map(encodeURIComponent).join("/")}${query ? `?${query}` : ""}`;
}

function offerRuns() {
  fill(runSelect, page.runs.map((one) => h("option", { value: one.name, selected: one.name === page.run }, one.name)));
}

/** @param {string} current */
function showViews(current) {
  const made = Object.entries(VIEWS).map(([name, view]) =>
    h("a", { href: link(name), "aria-current": name === current ? "page" : null }, view.title));
  fill(at("views"), made);
}

async function showRoute() {
  const number = ++page.numShown; // of several that overlap, the newest counts
  const { view, path, parameters } = route();
  const run = parameters.get("run") || page.runs.find((one) => one.is_live)?.name || page.runs[0]?.name || "";
  if (run !== page.run) await showRun(run);
  showViews(view);
  page.view?.close?.();
  page.view = null;
  document.title = `${VIEWS[view].title} – ${run || "no run"} – T-PPO`;
  const place = h("div", { class: "view" });
  fill(at("main"), h("h2", {}, VIEWS[view].title), place);
  /** @type {Context} */
  const context = {
    run, path, parameters, link,
    status: () => page.status,
    get: (address, more) => get(address, { run, ...more }),
    reload: showRoute,
  };
  try {
    const shown = run || view === "compare" ? await VIEWS[view].show(place, context) : emptied(place);
    if (number !== page.numShown) {
      shown?.close?.();
      return;
    }
    page.view = shown;
    if (page.status) page.view?.receive?.("status", page.status);
  } catch (error) {
    fill(place, h("p", { role: "alert" }, `This view cannot be shown: ${error instanceof Error ? error.message : error}.`));
  }
}

/** @param {HTMLElement} place */
function emptied(place) {
  fill(place, h("p", {}, "This folder has no run yet."));
  return null;
}

/** @param {string} run */
async function showRun(run) {
  page.live?.close();
  page.run = run;
  page.status = null;
  offerRuns();
  if (!run) return;
  const followed = page.runs.find((one) => one.is_live)?.name;
  page.live = new Live(run, run === followed, receive);
}

/**
 * Where `tppo run` is not on a terminal, its dashboard ends with the run, often before it has sent a last status.
 * @param {string} reason
 */
function unanswered(reason) {
  const status = page.status;
  const isOver = status && (["finished", "stopped", "gave_up"].includes(status.state) || (status.total_training_steps && status.step >= status.total_training_steps));
  if (isOver) return "The run has ended, and its dashboard with it. `tppo dashboard runs/` shows the run again.";
  return `The dashboard does not answer (${reason}). Retrying. If the run has ended, \`tppo dashboard runs/\` shows it.`;
}

/** @type {Receive} */
const receive = (...message) => {
  const [kind, data] = message;
  if (kind === "status") showStatus(data);
  if (kind === "steps" && page.status) page.status.step = Math.max(page.status.step, ...data.lines.map((line) => Number(line.step)));
  if (kind === "gone") at("banner").textContent = unanswered(data.reason);
  if (kind === "back" && page.status) showStatus(page.status);
  if (kind === "reset" || (kind === "back" && !page.view)) showRoute();
  else whileAnswered(page.view?.receive?.(...message));
};

/** @param {Status} status */
function showStatus(status) {
  page.status = status;
  const state = at("state");
  state.textContent = words(status.state);
  state.className = `badge ${GOOD.includes(status.state) ? "good" : status.state.endsWith("_gone") || status.state === "gave_up" ? "bad" : "warn"}`;
  if (status.control?.paused && status.state === "running") [state.textContent, state.className] = ["paused", "badge warn"];
  at("steps").textContent = status.total_training_steps ? `step ${status.step} of ${status.total_training_steps}` : `step ${status.step}`;
  progress.value = status.total_training_steps ? status.step / status.total_training_steps : 0;
  at("waiting").textContent = status.waiting_for ? `waiting for ${status.waiting_for}` : "";
  const text = bannerOf(status);
  if (at("banner").textContent !== text) at("banner").textContent = text;
}

/**
 * No seconds that count up: a screen reader would read each of them.
 * @param {Status} status
 */
function bannerOf(status) {
  const since = status.known_since ? new Date(status.known_since).toLocaleTimeString("en-GB") : "";
  if (status.state === "gave_up") return `The run gave up: ${status.ending_cause}`;
  if (status.state === "learner_gone") return `No heartbeat from learner since ${since}. The other processes fill the queues and wait; nothing is lost.`;
  if (status.state === "redis_gone") return `Redis does not answer. The page shows the state of ${since}.`;
  const gone = status.services.filter((service) => !service.is_alive).map((service) => service.name);
  return status.state === "running" && gone.length ? `No heartbeat from ${gone.join(", ")}. Their leases pass to other workers.` : "";
}

function changeTheme() {
  const next = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
  localStorage.setItem("tppo-theme", next);
  document.documentElement.dataset.theme = next;
  repaint();
}

function repaint() {
  at("theme").textContent = document.documentElement.dataset.theme === "dark" ? "Light" : "Dark";
  at("theme").setAttribute("aria-label", `Change to the ${at("theme").textContent.toLowerCase()} theme`);
  page.view?.repaint?.();
}

async function renewRuns() {
  try {
    page.runs = (await get("runs", { limit: 500 })).items;
    const names = [...runSelect.options].map((option) => option.value).join("\n");
    if (names !== page.runs.map((one) => one.name).join("\n")) {
      offerRuns();
      if (!page.run && page.runs.length && page.numShown) await showRoute();
    }
  } catch (error) {
    if (!(error instanceof RestError)) throw error;
    at("banner").textContent = unanswered(error.message);
  } finally {
    setTimeout(renewRuns, RUNS_MILLISECONDS);
  }
}

takeTokenFromAddress();
at("theme").addEventListener("click", changeTheme);
runSelect.addEventListener("change", () => {
  const { view } = route();
  location.assign(`#/${view}?run=${encodeURIComponent(runSelect.value)}`);
});
window.addEventListener("hashchange", showRoute);
window.addEventListener("tppo-theme", repaint);
repaint();
await renewRuns();
await showRoute();
