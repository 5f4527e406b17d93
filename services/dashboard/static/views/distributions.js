// @ts-check
// Lengths and scores of the responses of the steps that the charts show: all, a range, or the chosen one.
import { whileAnswered } from "/static/data/rest.js";
import { choice, fill, h, labelled } from "/static/drawing/dom.js";
import { whole } from "/static/drawing/format.js";
import { Histogram } from "/static/drawing/histogram.js";

/** @import { Distributions } from "/static/data/answers.d.ts" */
/** @import { Context } from "/static/data/types.d.ts" */
/** @import { ChartGroup } from "/static/drawing/chart_group.js" */

const NUM_BINS = 20;
const KINDS = [["false", "training"], ["true", "evaluation"]];

export class DistributionCard {
  /**
   * @param {Context} context
   * @param {ChartGroup} group whose range and chosen step are counted
   */
  constructor(context, group) {
    this.context = context;
    this.group = group;
    group.changed = () => whileAnswered(this.read());
    this.evaluation = "false";
    this.numRead = 0;
    this.histograms = {
      length: new Histogram("Response length, tokens", { unit: "tokens", areWhole: true }),
      score: new Histogram("Score", { unit: "", areWhole: false }),
    };
    this.about = h("p", { class: "soft", role: "status" });
    const kind = choice(KINDS, this.evaluation, (value) => {
      this.evaluation = value;
      this.read();
    });
    this.element = h("section", { class: "card wide" },
      h("h3", {}, "Responses that ended, by length and score"),
      h("div", { class: "line" }, labelled("Responses of", kind), this.about),
      h("div", { class: "grid pair" }, this.histograms.length.element, this.histograms.score.element));
  }

  get steps() {
    const { chosen, zoom } = this.group;
    if (chosen !== null) return { from_step: chosen, to_step: chosen };
    return { from_step: zoom?.min && Math.ceil(zoom.min), to_step: zoom?.max && Math.floor(zoom.max) };
  }

  async read() {
    const number = ++this.numRead; // of several that overlap, the newest counts
    const found = await this.context.get("metrics/distributions", { evaluation: this.evaluation, bins: NUM_BINS, ...this.steps });
    if (number === this.numRead) this.#show(found);
  }

  /** @param {Distributions} found */
  #show(found) {
    const { from_step: first, to_step: last } = found;
    const steps = first === last ? `Step ${first}` : `Steps ${first} to ${last}`;
    const which = this.group.chosen === null && !this.group.zoom ? " Zoom in, or choose a step in a chart, to count fewer." : "";
    fill(this.about, first === null ? "" : `${steps}: ${whole(found.num_responses)} responses, ${whole(found.num_scored)} with a score.${which}`);
    this.histograms.length.show(found.length, `No ${this.evaluation === "true" ? "response of an evaluation" : "trained response"} ended in these steps, as far as the journal is kept.`);
    this.histograms.score.show(found.score, "None of these responses has a score.");
  }

  repaint() {
    Object.values(this.histograms).forEach((one) => one.repaint());
  }
}
