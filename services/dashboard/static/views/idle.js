// The share of the last seconds in which each service was idle, from the busy time in its heartbeats.
import { table } from "/static/drawing/dom.js";
import { isNumber, percent, short } from "/static/drawing/format.js";

const STRETCH_SECONDS = 10;

export class IdleShares {
  constructor() {
    this.heartbeats = new Map();
  }

  add(status) {
    this.status = status;
    const now = Date.now() / 1000;
    for (const service of status.services) {
      const moment = now - service.seconds_since_seen;
      const tokens = service.status.num_tokens_generated ?? null;
      const kept = (this.heartbeats.get(service.name) ?? []).filter((one) => one.moment > now - STRETCH_SECONDS);
      if (isNumber(service.status.busy_seconds)) kept.push({ moment, busy: service.status.busy_seconds, tokens });
      this.heartbeats.set(service.name, kept);
    }
  }

  // Share of the time, and tokens a second; null before the second heartbeat.
  of(name) {
    const heartbeats = this.heartbeats.get(name) ?? [];
    const [first, last] = [heartbeats[0], heartbeats.at(-1)];
    const time = heartbeats.length > 1 ? last.moment - first.moment : 0;
    if (time < 0.5 || last.busy < first.busy) return { idle: null, speed: null };
    const speed = last.tokens === null ? null : (last.tokens - first.tokens) / time;
    return { idle: Math.min(1, Math.max(0, 1 - (last.busy - first.busy) / time)), speed };
  }

  #idleOf(service) {
    if (service.kind !== "learner") return this.of(service.name).idle;
    const { "timing_s/wait": wait, "timing_s/step": step } = this.status.metrics;
    return isNumber(wait) && step > 0 ? wait / step : null;
  }

  table() {
    const working = this.status.services.filter((service) => service.kind !== "dashboard");
    const now = (service) => (service.is_alive && this.status.state === "running" ? percent(this.#idleOf(service)) : "–");
    return table("Services now", [
      ["service", (service) => service.name],
      ["idle", now, "number"],
      ["tokens a second", (service) => short(this.of(service.name).speed), "number"],
    ], working, "no process is registered");
  }
}
