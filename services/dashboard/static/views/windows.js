// @ts-check
// Successive batching as a picture: a row per slot, time to the right, a bar per window.
import { seldom } from "/static/data/rest.js";
import { choice, fill, h, labelled, table } from "/static/drawing/dom.js";
import { clock, fixed, percent, short } from "/static/drawing/format.js";
import { SlotPicture } from "/static/drawing/slots.js";

/** @import { Bar, ServiceStatus, StepMark } from "/static/data/answers.d.ts" */
/** @import { SlotBar } from "/static/drawing/slots.js" */
/** @import { Context, Receive, ViewModule } from "/static/data/types.d.ts" */

export const title = "Windows";

const SPANS = [["3", "3 s"], ["10", "10 s"], ["30", "30 s"], ["120", "2 min"], ["600", "10 min"], ["3600", "1 h"]];
const MAX_BARS = 2000;
const PLACES = 1000; // of the slider: all the way to the right follows the run
const TABLE_ROWS = 40;

/** @param {Bar} bar */
function ending(bar) {
  if (bar.ended === null) return "being sampled";
  if (bar.is_finished) return bar.finish === "length" ? "reached the response limit" : "the response ended";
  return bar.finish === "failed" ? "failed" : "cut; goes on in the next window";
}

/**
 * @param {SlotBar} bar
 * @param {number} now the end of the picture, seconds since the epoch
 */
function describe(bar, now) {
  const versions = bar.versions.map(([version, tokens]) => `${version} (${tokens})`).join(", ");
  return [
    `${bar.evaluation ? "Evaluation" : "Rollout"} ${bar.rollout}, window ${bar.window}`,
    `${bar.tokens} tokens${versions ? `; policy version (tokens): ${versions}` : ""}`,
    `${clock(bar.started)}, ${fixed((bar.ended ?? now) - bar.started, 2)} s; ${ending(bar)}${bar.score === null ? "" : `; score ${short(bar.score)}`}`,
    `${bar.generator}, slot ${bar.slot}`,
  ].join("\n");
}

/**
 * @param {Bar} bar
 * @returns {bar is SlotBar}
 */
function isInSlot(bar) {
  return bar.slot !== null && bar.started !== null;
}

class View {
  /**
   * @param {HTMLElement} place
   * @param {Context} context
   */
  constructor(place, context) {
    this.context = context;
    this.span = Number(context.parameters.get("span") ?? 10);
    this.end = Number(context.parameters.get("until")) || null; // null: follow
    this.shownUntil = 0;
    this.isRead = false;
    this.isLive = false;
    this.clockAhead = 0;
    this.first = 0; // moment of the run; 0: not yet known
    this.last = 0;
    /** @type {Record<string, number>} */
    this.slots = {};
    /** @type {StepMark[]} */
    this.steps = [];
    /** @type {Map<string, Bar>} */
    this.bars = new Map();
    this.text = h("p", { id: "windows-text" });
    this.tip = h("div", { class: "tip", hidden: true });
    this.spoken = h("p", { class: "hidden-text", "aria-live": "polite" });
    this.listed = h("div", {});
    /** @type {HTMLDetailsElement} */
    this.details = h("details", { class: "card", ontoggle: () => this.#list() }, h("summary", {}, "The newest of these windows as a table"), this.listed);
    this.picture = new SlotPicture({ label: "windows-text", choose: (bar, x, y) => this.#point(bar, x, y), open: (bar) => this.#open(bar) });
    /** @type {HTMLInputElement} */
    this.slider = h("input", { type: "range", min: 0, max: PLACES, value: PLACES, disabled: true, "aria-label": "End of the stretch that is shown", oninput: () => this.#slide() });
    this.followed = h("button", { type: "button", "aria-pressed": "true", onclick: () => this.#follow() }, "Follow");
    this.fetchSoon = seldom(250, () => this.fetch());
    const span = choice(SPANS, String(this.span), (value) => {
      this.span = Number(value);
      this.fetch();
    });
    fill(
      place,
      h("section", { class: "card" },
        h("div", { class: "line" }, labelled("Time range", span), this.slider, this.followed),
        this.text,
        h("div", { class: "picture" }, this.picture.canvas, this.tip),
        this.picture.legend,
        this.spoken),
      this.details,
    );
  }

  /** @returns {Promise<void>} */
  async fetch() {
    const [since, until] = this.end === null ? [Math.max(0, this.#newest() - this.span), undefined] : [this.end - this.span, this.end];
    const found = await this.context.get("windows", { since: this.first ? since : undefined, until, limit: MAX_BARS });
    if (!this.first) return this.#begin();
    this.isRead = true;
    this.clockAhead = Date.now() / 1000 - found.now;
    this.slots = found.slots;
    this.steps = found.steps;
    this.bars = new Map(found.bars.map((bar) => [`${bar.rollout}/${bar.window}`, bar]));
    this.draw();
    this.#list();
  }

  // The run's first and last moments, for the slider.
  async #begin() {
    const columns = (await this.context.get("metrics", { names: "time", max_points: 2 })).columns;
    const [found, status] = await Promise.all([this.context.get("windows", { limit: 1 }), this.context.get("status")]);
    this.isLive = status.state === "running" || status.state === "starting";
    this.last = found.now;
    this.first = (columns.time[0] ?? found.now) - (columns.seconds_since_start[0] ?? 0);
    this.clockAhead = Date.now() / 1000 - found.now;
    this.slider.disabled = false;
    return this.fetch();
  }

  #newest() {
    return this.isLive ? Date.now() / 1000 - this.clockAhead : this.last;
  }

  #slide() {
    const place = Number(this.slider.value);
    if (place === PLACES) return this.#follow();
    this.end = this.first + ((this.#newest() - this.first) * Math.max(1, place)) / PLACES;
    this.followed.setAttribute("aria-pressed", "false");
    return this.fetchSoon();
  }

  #follow() {
    this.end = null;
    this.slider.value = String(PLACES);
    this.followed.setAttribute("aria-pressed", "true");
    return this.fetch();
  }

  /** @type {Receive} */
  receive = (kind, data) => {
    if (!this.isRead || this.end !== null) return;
    if (kind === "windows") for (const bar of data.bars) this.bars.set(`${bar.rollout}/${bar.window}`, bar);
    if (kind === "steps") this.steps.push(...data.lines.map(({ step, time }) => ({ step, time })));
    if (kind === "status") {
      this.isLive = data.state === "running" || data.state === "starting";
      this.#occupy(data.services);
    }
    if (["windows", "steps", "status"].includes(kind)) this.draw();
  };

  /**
   * Running windows, from the generators' heartbeats.
   * @param {ServiceStatus[]} services
   */
  #occupy(services) {
    for (const service of services) {
      for (const one of service.status.running ?? []) {
        const bar = this.bars.get(`${one.rollout_id}/${one.window_index}`);
        if (bar?.ended === null) Object.assign(bar, { generator: service.name, slot: one.slot, started: one.started_at, tokens: one.num_tokens });
      }
    }
  }

  draw() {
    const end = this.end ?? this.#newest();
    const begin = end - this.span;
    for (const [key, bar] of this.bars) if (bar.ended !== null && bar.ended < begin - 1) this.bars.delete(key);
    this.steps = this.steps.filter((step) => step.time >= begin - 1);
    const bars = [...this.bars.values()].filter(isInSlot);
    this.shownUntil = end;
    const waiting = this.bars.size - bars.length;
    const { occupancy, finished, cut } = this.picture.draw({ bars, slots: this.slots, steps: this.steps, begin, end });
    const rows = Object.values(this.slots).reduce((sum, count) => sum + count, 0);
    const shown = this.bars.size >= MAX_BARS ? ` The newest ${MAX_BARS} windows are shown.` : "";
    this.text.textContent = bars.length
      ? `${rows} slots from ${clock(begin)} to ${clock(end)}: ${finished} responses ended, ${cut} ${cut === 1 ? "window was" : "windows were"} cut, slots empty ${percent(1 - occupancy)} of the time${waiting ? `, ${waiting} windows waiting for a slot` : ""}.${shown}`
      : `No window between ${clock(begin)} and ${clock(end)}.`;
  }

  /**
   * @param {SlotBar | null} bar
   * @param {number} x
   * @param {number} y
   */
  #point(bar, x, y) {
    this.tip.hidden = !bar;
    if (!bar) return;
    this.tip.textContent = this.spoken.textContent = describe(bar, this.shownUntil);
    const width = this.picture.canvas.clientWidth;
    Object.assign(this.tip.style, { left: `${Math.max(0, Math.min(x + 12, width - 280))}px`, top: `${y + 14}px` });
  }

  /** @param {Bar} bar */
  #open(bar) {
    location.assign(this.context.link("rollouts", [bar.rollout]));
  }

  #list() {
    if (!this.isRead || !this.details.open) return;
    const newest = [...this.bars.values()].slice(-TABLE_ROWS).reverse();
    fill(this.listed, table("Windows, the newest first", [
      ["rollout", (bar) => h("a", { href: this.context.link("rollouts", [bar.rollout]) }, bar.rollout)],
      ["window", (bar) => String(bar.window), "number"],
      ["generator", (bar) => bar.generator],
      ["slot", (bar) => (bar.slot === null ? "" : String(bar.slot)), "number"],
      ["began", (bar) => clock(bar.started)],
      ["tokens", (bar) => String(bar.tokens), "number"],
      ["versions", (bar) => bar.versions.map(([version]) => version).join(", ")],
      ["end", ending],
      ["score", (bar) => (bar.score === null ? "" : short(bar.score)), "number"],
    ], newest));
  }
}

/** @type {ViewModule["show"]} */
export async function show(place, context) {
  const view = new View(place, context);
  await view.fetch();
  const timer = setInterval(() => view.isLive && view.end === null && view.draw(), 500);
  const resized = new ResizeObserver(() => view.isRead && view.draw());
  resized.observe(place);
  return {
    receive: view.receive,
    repaint: () => view.draw(),
    close: () => {
      clearInterval(timer);
      resized.disconnect();
    },
  };
}
