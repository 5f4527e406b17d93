// @ts-check
// What an operator may request of a running run. Each command is a record of the run's inbox, so that a replay applies it.
import { fill, h, labelled } from "/static/drawing/dom.js";
import { bytes, date, fixed } from "/static/drawing/format.js";
import { Commands, outcomes } from "/static/views/commands.js";

/** @import { CheckpointAnswer } from "/static/data/answers.d.ts" */
/** @import { Receive, ViewModule } from "/static/data/types.d.ts" */

export const title = "Steer";

const SETTINGS = {
  "actor.lr": "learning rate of the policy",
  "critic.lr": "learning rate of the value model",
  "generation.temperature": "temperature of sampling",
  "run.max_policy_lag": "most steps of policy lag",
};

/**
 * @param {string} text
 * @param {() => unknown} act
 * @param {string} [kind]
 */
function button(text, act, kind) {
  return h("button", { type: "button", class: kind, onclick: act }, text);
}

/** @param {Commands} commands */
function steps(commands) {
  const step = h("input", { type: "number", min: 0, placeholder: "current" });
  return h("section", { class: "card" },
    h("h3", {}, "Training steps"),
    h("div", { class: "line" },
      button("Pause", () => commands.send("pause")),
      button("Resume", () => commands.send("resume")),
      button("Checkpoint now", () => commands.send("checkpoint"))),
    h("div", { class: "line" },
      labelled("Stop after step", step),
      button("Stop", () => commands.send("stop-after-step", step.value ? { step: Number(step.value) } : undefined), "danger")));
}

/**
 * @param {Commands} commands
 * @param {Record<string, unknown>} held the values in force
 */
function settings(commands, held) {
  return h("section", { class: "card" },
    h("h3", {}, "Settings, from the next training step on"),
    Object.entries(SETTINGS).map(([key, text]) => {
      const field = h("input", { type: "number", step: "any", min: 0, value: held[key] ?? "", placeholder: "derived" });
      return h("div", { class: "line setting" }, labelled(`${key}: ${text}`, field), button("Set", () => field.value !== "" && commands.send("settings", { key, value: Number(field.value) })));
    }));
}

/**
 * @param {Commands} commands
 * @param {CheckpointAnswer[]} checkpoints
 */
function rollBack(commands, checkpoints) {
  const rows = checkpoints.map((one) => h("div", { class: "line" },
    h("span", {}, `step ${one.step}, ${date(one.committed_at)}, ${bytes(one.num_bytes)}${one.is_best ? `, best: ${fixed(one.accuracy)}` : ""}`),
    button("Roll back", () => confirm(`Roll back to step ${one.step}? Later steps move to rolled_back/ in the run's folder.`) && commands.send("roll-back", { version: one.step }), "danger")));
  return h("section", { class: "card" }, h("h3", {}, "Roll back to a checkpoint"), rows.length ? rows : h("p", { class: "soft" }, "There is no checkpoint yet."));
}

/** @type {ViewModule["show"]} */
export async function show(place, context) {
  const [status, configuration, checkpoints] = await Promise.all([context.get("status"), context.get("configuration"), context.get("checkpoints")]);
  const commands = new Commands(context);
  if (!status.has_control) {
    fill(place, h("p", {}, "This run cannot be steered: it has ended, or this dashboard was started for another run, or Redis does not answer."));
    return { receive: (kind, data) => kind === "status" && data.has_control && context.reload() };
  }
  const configured = Object.fromEntries(Object.keys(SETTINGS).map((key) => {
    const [section, name] = key.split(".");
    return [key, configuration.sections[section]?.[name]];
  }));
  const state = h("section", { class: "card wide" });
  fill(place, commands.element, h("div", { class: "grid" },
    steps(commands),
    settings(commands, { ...configured, ...(status.control?.settings ?? {}) }),
    rollBack(commands, checkpoints.items),
    state));
  let shown = "";
  /** @type {Receive} */
  const receive = (kind, data) => {
    if (kind !== "status" || !data.control) return;
    const text = JSON.stringify([data.control.paused, data.control.stop_after_step, data.control.commands]);
    if (text === shown) return;
    shown = text;
    const { paused, stop_after_step: last } = data.control;
    fill(state, h("p", {}, paused ? "Paused by operator. " : "", last === null ? "" : `Stops after training step ${last}.`), outcomes(data.control.commands));
  };
  receive("status", status);
  return { receive };
}
