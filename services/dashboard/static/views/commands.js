// Commands to the run: sent with the token, and their outcomes.
import { keepToken, knownToken, post } from "/static/data/rest.js";
import { fill, h, labelled, table } from "/static/drawing/dom.js";
import { clock, words } from "/static/drawing/format.js";

export class Commands {
  constructor(context) {
    this.context = context;
    this.areEnabled = context.status()?.has_control ?? false;
    this.answer = h("p", { role: "status", "aria-live": "polite" });
    this.token = h("input", { type: "password", autocomplete: "off", onchange: () => keepToken(this.token.value) });
    this.asked = h("div", { hidden: true }, labelled("Token that steers (in runs/NAME/dashboard.token, or TPPO_TOKEN)", this.token));
    this.element = h("div", {}, this.asked, this.answer);
  }

  receiveStatus(status) {
    this.areEnabled = status.has_control;
  }

  // Whether it was accepted.
  async send(name, body = undefined) {
    try {
      await post(`control/${name}`, { run: this.context.run }, body);
      this.answer.textContent = `${words(name.replaceAll("-", "_"))}: sent.`;
      this.asked.hidden = true;
      return true;
    } catch (error) {
      this.asked.hidden = error.status !== 401;
      this.answer.textContent = error.status === 401 && !knownToken() ? "Steering needs the token. Enter it and retry." : `Refused: ${error.message}.`;
      return false;
    }
  }
}

export function outcomes(commands) {
  const argumentsOf = (one) => Object.entries(one.arguments).map(([name, value]) => `${name} = ${JSON.stringify(value)}`).join(", ");
  const place = h("div", {});
  fill(place, table("The last commands", [
    ["sent", (one) => clock(one.issued_at)],
    ["command", (one) => words(one.action)],
    ["arguments", argumentsOf],
    ["outcome", (one) => one.outcome],
    ["", (one) => one.text],
  ], [...commands].reverse(), "none yet"));
  return place;
}
