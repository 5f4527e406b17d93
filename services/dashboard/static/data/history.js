// The columns of metrics.jsonl in the browser: read once, then grown by the lines of the stream.
import { isNumber } from "/static/drawing/format.js";

const MAX_POINTS = 600;
const MAX_ROWS = 1500;

export class History {
  constructor(context, names, kind = "step") {
    Object.assign(this, { context, names, kind, columns: null });
  }

  async read() {
    const parameters = { kind: this.kind, names: this.names.join(","), max_points: MAX_POINTS };
    this.columns = (await this.context.get("metrics", parameters)).columns;
    return this;
  }

  // Lines of the stream.
  async add(lines) {
    if (this.columns.step.length > MAX_ROWS) return this.read();
    for (const [name, column] of Object.entries(this.columns))
      column.push(...lines.map((line) => (isNumber(line[name]) ? line[name] : null)));
    return this;
  }

  of(name) {
    return this.columns[name] ?? [];
  }

  last(name) {
    return this.of(name).findLast(isNumber);
  }

  first(name) {
    return this.of(name).find(isNumber);
  }

  get size() {
    return this.columns.step.length;
  }
}

// Growth of one column over growth of another, over a trailing stretch of at least so many seconds.
export function rates(history, above, below, stretch = 3) {
  const [numbers, others, moments] = [history.of(above), history.of(below), history.of("seconds_since_start")];
  let from = 0;
  return moments.map((moment, index) => {
    while (from + 1 < index && moment - moments[from + 1] >= stretch) from += 1;
    const [growth, time] = [numbers[index] - numbers[from], others[index] - others[from]];
    const isKnown = [numbers[index], numbers[from], others[index], others[from]].every(isNumber);
    return isKnown && time > 0 && growth >= 0 ? growth / time : null;
  });
}

export function combined(history, names, make) {
  const columns = names.map((name) => history.of(name));
  return columns[0].map((_, row) => {
    const values = columns.map((column) => column[row]);
    return values.every(isNumber) ? make(...values) : null;
  });
}
