// What may be asked of a run while it goes on. Each order is a record of the run's inbox, so that a replay sees it.
import { fill, h, labelled } from "/static/drawing/dom.js";
import { bytes, date, fixed } from "/static/drawing/format.js";
import { Orders, outcomes } from "/static/views/commands.js";

export const title = "Steer";

const SETTINGS = {
  "actor.lr": "learning rate of the policy",
  "critic.lr": "learning rate of the value model",
  "generation.temperature": "temperature of sampling",
  "run.max_policy_lag": "most steps of policy lag",
};

function button(text, act, kind = null) {
  return h("button", { type: "button", class: kind, onclick: act }, text);
}

function course(orders) {
  const step = h("input", { type: "number", min: 0, placeholder: "this one" });
  return h("section", { class: "card" },
    h("h3", {}, "Course"),
    h("div", { class: "line" },
      button("Pause", () => orders.send("pause")),
      button("Resume", () => orders.send("resume")),
      button("Checkpoint now", () => orders.send("checkpoint"))),
    h("div", { class: "line" },
      labelled("Stop after step", step),
      button("Stop", () => orders.send("stop-after-step", step.value ? { step: Number(step.value) } : undefined), "danger")));
}

function settings(orders, held) {
  return h("section", { class: "card" },
    h("h3", {}, "Settings, from the next step on"),
    Object.entries(SETTINGS).map(([key, text]) => {
      const field = h("input", { type: "number", step: "any", min: 0, value: held[key] ?? "", placeholder: "derived" });
      return h("div", { class: "line setting" }, labelled(`${key}: ${text}`, field), button("Set", () => field.value !== "" && orders.send("settings", { key, value: Number(field.value) })));
    }));
}

function rollBack(orders, checkpoints) {
  const rows = checkpoints.map((one) => h("div", { class: "line" },
    h("span", {}, `step ${one.step}, ${date(one.committed_at)}, ${bytes(one.num_bytes)}${one.is_best ? `, best: ${fixed(one.accuracy)}` : ""}`),
    button("Roll back", () => confirm(`Return to step ${one.step}? The steps behind it are put aside in the run's folder.`) && orders.send("roll-back", { version: one.step }), "danger")));
  return h("section", { class: "card" }, h("h3", {}, "Return to a checkpoint"), rows.length ? rows : h("p", { class: "soft" }, "None is kept yet."));
}

export async function show(place, context) {
  const [status, configuration, checkpoints] = await Promise.all([context.get("status"), context.get("configuration"), context.get("checkpoints")]);
  const orders = new Orders(context);
  if (!status.has_control) {
    fill(place, h("p", {}, "This run cannot be steered: it is over, or is not the one that this dashboard was started with, or Redis does not answer."));
    return { tell: (kind, data) => kind === "status" && data.has_control && context.reload() };
  }
  const configured = Object.fromEntries(Object.keys(SETTINGS).map((key) => {
    const [section, name] = key.split(".");
    return [key, configuration.sections[section]?.[name]];
  }));
  const told = h("section", { class: "card wide" });
  fill(place, orders.element, h("div", { class: "grid" },
    course(orders),
    settings(orders, { ...configured, ...(status.control?.settings ?? {}) }),
    rollBack(orders, checkpoints.items),
    told));
  let shown = "";
  const tell = (kind, data) => {
    if (kind !== "status" || !data.control) return;
    const text = JSON.stringify([data.control.paused, data.control.stop_after_step, data.control.commands]);
    if (text === shown) return;
    shown = text;
    const { paused, stop_after_step: last } = data.control;
    fill(told, h("p", {}, paused ? "The run is paused. " : "", last === null ? "" : `It stops after step ${last}.`), outcomes(data.control.commands));
  };
  tell("status", status);
  return { tell };
}
