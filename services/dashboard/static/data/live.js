// What happens in the run. The run that the dashboard follows comes by the event stream; of any other, and while the
// stream is away, the status is requested every few seconds.
import { address, get } from "/static/data/rest.js";

const POLL_MILLISECONDS = 3000;
const EVENTS = ["status", "steps", "evaluations", "windows", "events", "reset"];

// Calls receive(kind, data) until it is closed; kinds are those of the stream, and "gone" (with a reason) and "back".
export class Live {
  constructor(run, isFollowed, receive) {
    this.run = run;
    this.receive = receive;
    this.isGone = false;
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
    if (this.source?.readyState === EventSource.CLOSED) this.source = this.#stream(); // it was refused for good
    const isStreaming = this.source?.readyState === EventSource.OPEN && !this.isGone;
    try {
      if (!isStreaming) {
        const status = await get("status", { run: this.run });
        this.#heard();
        if (!this.isClosed) this.receive("status", status);
      }
    } catch (error) {
      this.#lost(error.message);
    }
    if (!this.isClosed) this.timer = setTimeout(() => this.#poll(), POLL_MILLISECONDS);
  }

  #heard() {
    if (this.isGone && !this.isClosed) this.receive("back", {});
    this.isGone = false;
  }

  #lost(reason) {
    if (!this.isGone && !this.isClosed) this.receive("gone", { reason });
    this.isGone = true;
  }
}
