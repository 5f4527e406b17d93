// @ts-check
// Each process: its state, speed, last error, and the end of its log.
import { RestError, seldom } from "/static/data/rest.js";
import { choice, facts, fill, h, labelled, table } from "/static/drawing/dom.js";
import { bytes, clock, date, fixed, percent, seconds, short, whole, words } from "/static/drawing/format.js";
import { ofTime, STRETCH_SECONDS, WorkShares } from "/static/views/work.js";

/** @import { CheckpointAnswer, GeneratorAnswer, RewardFunctionAnswer, RunEvent, ServiceStatus, Status } from "/static/data/answers.d.ts" */
/** @import { Context, ViewModule } from "/static/data/types.d.ts" */

export const title = "Services";

const LOG_LINES = 200;
const RENEW_MILLISECONDS = 3000;

/**
 * @param {string} rank
 * @param {{host: string, trains: string, activity: string, heartbeat_age_seconds: number, memory_bytes: number}} one
 */
const rankText = (rank, one) => `${rank} on ${one.host} (${one.trains}): ${one.activity}, ${bytes(one.memory_bytes)}, heartbeat ${seconds(one.heartbeat_age_seconds)} ago`;

/**
 * @param {ServiceStatus} service
 * @param {GeneratorAnswer[]} generators
 * @param {WorkShares} work
 * @param {Status["metrics"]} metrics of the newest training step
 */
function processCard(service, generators, work, metrics) {
  const { status } = service;
  const known = generators.find((one) => one.name === service.name);
  const { computing, speed } = work.of(service.name);
  const sent = known?.weights.policy_version;
  return h("section", { class: "card" },
    h("h3", {}, `${service.name} `, h("span", { class: `badge ${service.is_alive ? "good" : "bad"}` }, service.is_alive ? "alive" : `no heartbeat for ${seconds(service.seconds_since_seen)}`)),
    facts([
      ["kind", service.kind],
      ["address", service.address],
      ["policy version", status.policy_version === undefined ? "" : String(status.policy_version)],
      ["weights' digest", status.digest ? `${String(status.digest).slice(0, 16)}…` : ""],
      ["loading", status.loading ?? ""],
      ["waiting for", status.waiting_for ?? ""],
      ["ranks", Object.entries(status.ranks ?? {}).map(([rank, one]) => rankText(rank, one)).join("; ")],
      ["slots", known ? `${whole(status.num_active)} of ${whole(known.num_slots)} in use; ${percent(known.occupancy)} over the run` : ""],
      ["leases held", status.num_held === undefined ? "" : `${whole(status.num_held)}; lost so far ${whole(status.num_leases_lost)}`],
      ["KV cache in use", known?.kv_cache_use == null ? "" : percent(known.kv_cache_use)],
      ["prefill for each token sampled", known?.prefill_per_token == null ? "" : `${fixed(known.prefill_per_token)} tokens; ${percent(known.shared_prefix_share)} of the prefixes shared with siblings`],
      ["windows handed over", known?.num_cut == null ? "" : whole(known.num_cut)],
      ["tokens a second", speed === null ? "" : whole(speed)],
      ["computing", computing === null ? "" : ofTime(computing, `the last ${STRETCH_SECONDS} s`)],
      ["weights sent", sent === undefined ? "" : `version ${sent}${known?.weights.error ? `; the last transfer failed: ${known?.weights.error}` : ""}`],
      ["proof of the weights", status.proof ? `${status.proof}; largest difference ${short(status.probe_difference)} of ${short(status.probe_tolerance)} nats allowed` : ""],
      ["KL to the learner under the same weights", known ? `${short(metrics[`training/engine_kl/mean/${service.name}`])} nats; largest of a token ${short(metrics[`training/engine_kl/max/${service.name}`])}` : ""],
      ["page", status.url ?? ""],
      ["OpenAI-compatible endpoint", status.endpoint ? `${status.endpoint}; ${whole(status.num_guests)} completions in slots, ${whole(status.num_waiting_guests)} waiting` : ""],
      ["metrics for Prometheus", status.metrics_address ?? ""],
      ["last error", status.last_error || "none"],
    ]));
}

/**
 * @param {RewardFunctionAnswer[]} functions
 * @param {ServiceStatus[]} services
 */
function functionTable(functions, services) {
  const latency = Object.assign({}, ...services.map((one) => one.status.functions ?? {}));
  return table("Reward functions", [
    ["function", (one) => one.function],
    ["scored", (one) => whole(one.num_scored), "number"],
    ["no score", (one) => whole(one.num_failed), "number"],
    ["mean", (one) => fixed(one.mean_score), "number"],
    ["spread", (one) => fixed(latency[one.function]?.std), "number"],
    ["p50", (one) => seconds(latency[one.function]?.p50_seconds ?? one.mean_seconds), "number"],
    ["p99", (one) => seconds(latency[one.function]?.p99_seconds ?? one.max_seconds), "number"],
    ["last error", (one) => one.last_error || "–"],
  ], functions, "nothing was scored yet");
}

/** @param {CheckpointAnswer[]} items */
function checkpointTable(items) {
  return table("Checkpoints", [
    ["step", (one) => String(one.step), "number"],
    ["committed", (one) => date(one.committed_at)],
    ["size", (one) => bytes(one.num_bytes), "number"],
    ["", (one) => [one.is_latest ? "newest" : "", one.is_best ? `best, ${short(one.accuracy)}` : ""].filter(Boolean).join("; ")],
    ["folder", (one) => h("code", {}, one.path)],
  ], items, "none yet");
}

/** @param {RunEvent[]} items */
function eventTable(items) {
  return table("What happened", [
    ["time", (one) => clock(one.time)],
    ["step", (one) => (one.step === null ? "–" : String(one.step)), "number"],
    ["event", (one) => words(one.event)],
    ["", (one) => one.text],
  ], [...items].reverse(), "nothing yet");
}

const ORDER = ["learner", "generation", "reward", "dashboard"];
const inOrder = (/** @type {ServiceStatus[]} */ services) => [...services].sort((a, b) => ORDER.indexOf(a.kind) - ORDER.indexOf(b.kind));

class LogTail {
  /** @param {Context} context */
  constructor(context) {
    this.context = context;
    this.text = h("pre", { class: "log", tabindex: 0, "aria-label": "End of the log" });
    this.chosen = h("div", {});
    this.element = h("section", { class: "card" }, h("h3", {}, "Log"), this.chosen, this.text);
    this.service = "learner";
    this.offered = "";
  }

  async read() {
    try {
      const found = await this.context.get(`logs/${encodeURIComponent(this.service)}`, { lines: LOG_LINES });
      const isAtEnd = this.text.scrollTop + this.text.clientHeight >= this.text.scrollHeight - 8;
      this.text.textContent = found.lines.join("\n") || "The log is empty.";
      if (isAtEnd) this.text.scrollTop = this.text.scrollHeight;
      this.#offer(found.services);
    } catch (error) {
      if (!(error instanceof RestError)) throw error;
      this.text.textContent = `${error.message}.`;
      this.#offer(/expected one of (.+)$/.exec(error.message)?.[1].split(", ") ?? []);
    }
  }

  /** @param {string[]} names */
  #offer(names) {
    if (this.offered === names.join() || !names.length) return;
    this.offered = names.join();
    fill(this.chosen, labelled("Process", choice(names.map((name) => [name, name]), this.service, (value) => {
      this.service = value;
      this.read();
    })));
  }
}

/** @type {ViewModule["show"]} */
export async function show(place, context) {
  const work = new WorkShares();
  const processes = h("div", { class: "grid" });
  const rest = h("div", { class: "below" });
  const log = new LogTail(context);
  fill(place, processes, log.element, rest);
  /** @type {GeneratorAnswer[]} */
  let generators = [];
  const read = async () => {
    const [known, functions, checkpoints, events] = await Promise.all([
      context.get("generators"), context.get("reward-functions"), context.get("checkpoints"), context.get("events", { limit: 100 }), log.read()]);
    generators = known.items;
    fill(rest, [functionTable(functions.items, functions.services), checkpointTable(checkpoints.items), eventTable(events.items)].map((one) => h("section", { class: "card" }, one)));
  };
  await read();
  const renew = seldom(RENEW_MILLISECONDS, read);
  return {
    receive(kind, data) {
      if (kind !== "status") return;
      work.add(data);
      fill(processes, data.services.length ? inOrder(data.services).map((service) => processCard(service, generators, work, data.metrics)) : h("p", { class: "soft" }, "No process is registered: the run has ended, or this dashboard has no Redis."));
      if (!rest.contains(document.activeElement)) renew();
    },
  };
}
