// @ts-check
// What happens in the run. The run that the dashboard follows comes by the event stream; of any other, and while the
// stream is away, the status is requested every few seconds.
import { address, get, RestError } from "/static/data/rest.js";

/** @import { Receive } from "/static/data/types.d.ts" */

const POLL_MILLISECONDS = 3000;
const EVENTS = /** @type {const} */ (["status", "steps", "evaluations", "windows", "events", "reset"]);

// Calls receive(kind, data) until it is closed.
export class Live {
  /**
   * @param {string} run
   * @param {boolean} isFollowed
   * @param {Receive} receive
   */
  constructor(run, isFollowed, receive) {
    this.run = run;
    this.receive = receive;
    this.isGone = false;
    this.isClosed = false;
    /** @type {number | undefined} */
    this.timer = undefined;
    this.source = isFollowed ? this.#stream() : null;
    this.#poll();
  }

  close() {
    this.source?.close();
    clearTimeout(this.timer);
    this.isClosed = true;
  }

  #stream() {
    const source = new EventSource(address("stream", { run: this.run }));
    for (const kind of EVENTS) {
      source.addEventListener(kind, (message) => {
        this.#heard();
        this.receive(kind, JSON.parse(message.data));
      });
    }
    source.onerror = () => this.#lost("the event stream broke off");
    return source;
  }

  async #poll() {
    if (this.source?.readyState === EventSource.CLOSED) this.source = this.#stream(); // it was refused
    const isStreaming = this.source?.readyState === EventSource.OPEN && !this.isGone;
    try {
      if (!isStreaming) {
        const status = await get("status", { run: this.run });
        this.#heard();
        if (!this.isClosed) this.receive("status", status);
      }
    } catch (error) {
      if (!(error instanceof RestError)) throw error;
      this.#lost(error.message);
    } finally {
      if (!this.isClosed) this.timer = setTimeout(() => this.#poll(), POLL_MILLISECONDS);
    }
  }

  #heard() {
    if (this.isGone && !this.isClosed) this.receive("back", {});
    this.isGone = false;
  }

  /** @param {string} reason */
  #lost(reason) {
    if (!this.isGone && !this.isClosed) this.receive("gone", { reason });
    this.isGone = true;
  }
}
