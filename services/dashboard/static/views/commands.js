// @ts-check
// Commands to the run: sent with the token, and their outcomes.
import { keepToken, knownToken, post, RestError } from "/static/data/rest.js";
import { h, labelled, table } from "/static/drawing/dom.js";
import { clock, words } from "/static/drawing/format.js";

/** @import { CommandStatus, Status } from "/static/data/answers.d.ts" */
/** @import { Context, TableColumn } from "/static/data/types.d.ts" */

export class Commands {
  /** @param {Context} context */
  constructor(context) {
    this.context = context;
    this.areEnabled = context.status()?.has_control ?? false;
    this.answer = h("p", { role: "status", "aria-live": "polite" });
    /** @type {HTMLInputElement} */
    this.token = h("input", { type: "password", autocomplete: "off", onchange: () => keepToken(this.token.value) });
    this.tokenField = h("div", { hidden: true }, labelled("Token that steers (in runs/NAME/dashboard.token, or TPPO_TOKEN)", this.token));
    this.element = h("div", {}, this.tokenField, this.answer);
  }

  /** @param {Status} status */
  receiveStatus(status) {
    this.areEnabled = status.has_control;
  }

  /**
   * Whether it was accepted.
   * @param {string} name
   * @param {object} [body]
   */
  async send(name, body = undefined) {
    try {
      await post(`control/${name}`, { run: this.context.run }, body);
      this.answer.textContent = `${words(name.replaceAll("-", "_"))}: sent.`;
      this.tokenField.hidden = true;
      return true;
    } catch (error) {
      if (!(error instanceof RestError)) throw error;
      const isUnauthorized = error.status === 401;
      this.tokenField.hidden = !isUnauthorized;
      this.answer.textContent = isUnauthorized && !knownToken() ? "Steering needs the token. Enter it and retry." : `Refused: ${error.message}.`;
      return false;
    }
  }
}

/**
 * Whether the reader says yes; Escape and Cancel say no.
 * @param {string} question
 * @param {string} verb of the button that says yes
 * @returns {Promise<boolean>}
 */
export function confirmed(question, verb) {
  return new Promise((resolve) => {
    const button = (/** @type {string} */ text, /** @type {string} */ answer, /** @type {string | null} */ kind) =>
      h("button", { type: "button", class: kind, onclick: () => dialog.close(answer) }, text);
    /** @type {HTMLDialogElement} */
    const dialog = h("dialog", { "aria-label": "Confirm", onclose: () => {
      resolve(dialog.returnValue === "yes");
      dialog.remove();
    } }, h("p", {}, question), h("div", { class: "line" }, button(verb, "yes", "danger"), button("Cancel", "no", null)));
    document.body.append(dialog);
    dialog.showModal();
  });
}

/** @type {Array<TableColumn<CommandStatus>>} */
const COLUMNS = [
  ["sent", (one) => clock(one.issued_at)],
  ["command", (one) => words(one.action)],
  ["arguments", (one) => Object.entries(one.arguments).map(([name, value]) => `${name} = ${JSON.stringify(value)}`).join(", ")],
  ["outcome", (one) => one.outcome],
  ["", (one) => one.text],
];

/** @param {CommandStatus[]} commands */
export function outcomes(commands) {
  return table("The last commands", COLUMNS, [...commands].reverse(), "none yet");
}
