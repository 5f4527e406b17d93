// @ts-check
// A response as its tokens, coloured by what training knew about each; window borders are marked.
import { gradient, pale, signed } from "/static/drawing/colours.js";
import { choice, facts, fill, h, labelled } from "/static/drawing/dom.js";
import { fixed, isNumber, short, visible } from "/static/drawing/format.js";

/** @import { RolloutDetail, TokenColumns } from "/static/data/answers.d.ts" */
/** @import { Column } from "/static/data/types.d.ts" */

const MAX_TOKENS = 4000; // at once

/**
 * name -> [text, values of the columns, whether they have a sign, centre]
 * @type {Record<string, [text: string, of: ((tokens: TokenColumns) => Column) | null, hasSign: boolean, centre: number]>}
 */
const QUANTITIES = {
  advantage: ["advantage (whitened)", (tokens) => tokens.advantage, true, 0],
  raw_advantage: ["advantage", (tokens) => tokens.raw_advantage, true, 0],
  value: ["value", (tokens) => tokens.value, false, 0],
  ratio: ["ratio", (tokens) => tokens.ratio, true, 1],
  age: ["age at choice: steps between its weights and its training", null, false, 0],
  rollout_logprob: ["log-probability when sampled", (tokens) => tokens.rollout_logprob.map((one) => (isNumber(one) ? -one : null)), false, 0],
};

export class TokenText {
  /**
   * @param {TokenColumns} tokens
   * @param {RolloutDetail["windows"]} windows
   */
  constructor(tokens, windows) {
    this.tokens = tokens;
    this.windows = windows;
    this.quantity = "advantage";
    this.first = 0;
    this.chosen = -1;
    /** @type {HTMLElement[]} */
    this.spans = [];
    this.text = h("div", {
      class: "tokens", tabindex: 0, role: "application", "aria-label": "Tokens of the response; arrow keys go from token to token",
      onpointerover: ({ target }) => this.#choose(target instanceof HTMLElement ? Number(target.dataset.index ?? -1) : -1),
      onkeydown: (event) => this.#key(event),
    });
    this.details = h("div", { "aria-live": "polite" });
    this.scale = h("p", { class: "legend" });
    this.pages = h("div", { class: "line" });
    const colour = choice(Object.entries(QUANTITIES).map(([name, [text]]) => [name, text]), this.quantity, (value) => {
      this.quantity = value;
      this.paint();
    });
    this.element = h("div", {}, h("div", { class: "line" }, labelled("Colour", colour), this.scale), this.pages, this.text, this.details);
    this.#write();
  }

  #values() {
    const [, of] = QUANTITIES[this.quantity];
    return of ? of(this.tokens) : this.tokens.policy_version.map((version, index) => this.#age(version, index));
  }

  /**
   * The window was trained with the weights that the step before made.
   * @param {number} version
   * @param {number} index
   */
  #age(version, index) {
    const step = this.windows.find((one) => one.window === this.tokens.window[index])?.step;
    return isNumber(step) ? step - 1 - version : null;
  }

  #write() {
    const last = Math.min(this.tokens.text.length, this.first + MAX_TOKENS);
    const borders = new Set(this.windows.filter((one) => one.start > 0).map((one) => one.start));
    this.spans = [];
    for (let index = this.first; index < last; index += 1) {
      const text = visible(this.tokens.text[index]) || "·";
      const border = borders.has(this.tokens.position[index]);
      this.spans.push(h("span", { "data-index": index, class: border ? "border" : null }, text.replaceAll("\n", "⏎\n")));
    }
    fill(this.text, this.spans);
    const turn = (/** @type {string} */ name, /** @type {number} */ first) => h("button", { type: "button", disabled: first < 0 || first >= this.tokens.text.length, onclick: () => {
      this.first = first;
      this.#write();
    } }, name);
    fill(this.pages, this.tokens.text.length > MAX_TOKENS ? [h("span", { class: "soft" }, `tokens ${this.first} to ${last} of ${this.tokens.text.length}`), turn("Before", this.first - MAX_TOKENS), turn("Next", this.first + MAX_TOKENS)] : "");
    this.paint();
  }

  paint() {
    const [name, , hasSign, centre] = QUANTITIES[this.quantity];
    const values = this.#values();
    const known = values.filter(isNumber);
    const reach = hasSign ? Math.max(1e-9, ...known.map((one) => Math.abs(one - centre))) : Math.max(1e-9, ...known.map(Math.abs));
    for (const span of this.spans) {
      const value = values[Number(span.dataset.index)];
      span.style.background = isNumber(value) ? (hasSign ? signed((value - centre) / reach) : pale(Math.abs(value) / reach)) : "#d0d4d8";
    }
    const [low, high] = hasSign ? [centre - reach, centre + reach] : [0, this.quantity === "rollout_logprob" ? -reach : reach];
    fill(this.scale, name, ": ", short(low), h("span", { class: "scale", style: `background:${hasSign ? gradient(signed, -1, 1) : gradient(pale)}` }), short(high), known.length < values.length ? "; grey: not defined" : "", "; red bar: a window begins");
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    const by = new Map([["ArrowRight", 1], ["ArrowLeft", -1], ["ArrowDown", 20], ["ArrowUp", -20]]).get(event.key);
    if (!by) return;
    event.preventDefault();
    const last = this.first + this.spans.length - 1;
    this.#choose(Math.min(last, Math.max(this.first, (this.chosen < 0 ? this.first - by : this.chosen) + by)));
    this.spans[this.chosen - this.first]?.scrollIntoView({ block: "nearest" });
  }

  /** @param {number} index */
  #choose(index) {
    if (index < 0) return;
    this.spans[this.chosen - this.first]?.classList.remove("chosen");
    this.chosen = index;
    this.spans[index - this.first]?.classList.add("chosen");
    const at = (/** @type {keyof TokenColumns} */ name) => fixed(this.tokens[name][index], 4);
    const isMasked = !this.tokens.policy_mask[index];
    fill(this.details, facts([
      ["token", `${JSON.stringify(visible(this.tokens.text[index]))}, id ${this.tokens.token_id[index]}, place ${this.tokens.position[index]}, window ${this.tokens.window[index] ?? "–"}`],
      ["policy version", `${this.tokens.policy_version[index]}; age at choice ${this.#age(this.tokens.policy_version[index], index) ?? "–"}`],
      ["log-probability", `${at("rollout_logprob")} when sampled, ${at("old_logprob")} before its step; ratio ${at("ratio")}${this.tokens.is_clipped[index] ? ", clipped" : ""}`],
      ["value", `${at("value")}; return ${at("return")}${this.tokens.is_sampled[index] ? "" : "; not sampled by the policy, trains nothing"}`],
      ["advantage", `${at("raw_advantage")}; whitened ${at("advantage")}${isMasked ? "; not in the policy's mask" : ""}`],
    ]));
  }
}
