// @ts-check
// The share of the last seconds in which each process computed, from the busy time in its heartbeats.
import { table } from "/static/drawing/dom.js";
import { isNumber, percent, short } from "/static/drawing/format.js";

/** @import { ServiceStatus, Status } from "/static/data/answers.d.ts" */

export const STRETCH_SECONDS = 10;

/**
 * @param {number | null} share
 * @param {string} time
 */
export function ofTime(share, time) {
  return share === null ? "–" : `${percent(share)} of ${time}`;
}

export class WorkShares {
  constructor() {
    /** @type {Map<string, Array<{ moment: number, busy: number, tokens: number | null }>>} */
    this.heartbeats = new Map();
  }

  /** @param {Status} status */
  add(status) {
    const now = Date.now() / 1000;
    for (const service of status.services) {
      const moment = now - service.seconds_since_seen;
      const tokens = service.status.num_tokens_generated ?? null;
      const kept = (this.heartbeats.get(service.name) ?? []).filter((one) => one.moment > now - STRETCH_SECONDS);
      if (isNumber(service.status.busy_seconds)) kept.push({ moment, busy: service.status.busy_seconds, tokens });
      this.heartbeats.set(service.name, kept);
    }
  }

  /**
   * Share of the time, and tokens a second; null before the second heartbeat.
   * @param {string} name
   */
  of(name) {
    const heartbeats = this.heartbeats.get(name) ?? [];
    const [first, last] = [heartbeats[0], heartbeats.at(-1)];
    const time = last ? last.moment - first.moment : 0;
    if (!last || time < 0.5 || last.busy < first.busy) return { computing: null, speed: null };
    const speed = last.tokens === null || first.tokens === null ? null : (last.tokens - first.tokens) / time;
    return { computing: Math.min(1, Math.max(0, (last.busy - first.busy) / time)), speed };
  }

  /**
   * The learner reports no busy time, but what it waited for in its last step.
   * @param {ServiceStatus} service
   * @param {Status} status
   */
  #does(service, status) {
    if (!service.is_alive || status.state !== "running") return "–";
    if (service.kind !== "learner") return ofTime(this.of(service.name).computing, `the last ${STRETCH_SECONDS} s`);
    const { "timing_s/wait": wait, "timing_s/step": step } = status.metrics;
    return isNumber(wait) && step > 0 ? ofTime(1 - wait / step, "its last step") : "–";
  }

  /** @param {Status} status */
  table(status) {
    const working = status.services.filter((service) => service.kind !== "dashboard");
    return table("Services now", [
      ["service", (service) => service.name],
      ["computing", (service) => this.#does(service, status)],
      ["tokens a second", (service) => short(this.of(service.name).speed), "number"],
    ], working, "no process is registered");
  }
}
