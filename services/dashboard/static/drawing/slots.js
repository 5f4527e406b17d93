// @ts-check
// The drawing of the slots, with a bar to choose by mouse or by arrow keys.
import { gradient, viridis } from "/static/drawing/colours.js";
import { h, theme } from "/static/drawing/dom.js";
import { isNumber } from "/static/drawing/format.js";

/** @import { Bar, StepMark } from "/static/data/answers.d.ts" */

/**
 * The window of a slot.
 * @typedef {Bar & { slot: number, started: number }} SlotBar
 */
/** @typedef {{ bars: SlotBar[], slots: Record<string, number>, steps: StepMark[], begin: number, end: number }} Scene */
/** @typedef {{ bar: SlotBar, left: number, right: number, top: number, height: number }} Box */

const [LEAST_ROW_PIXELS, MOST_ROW_PIXELS, HEIGHT_PIXELS] = [4, 16, 560];
const LABEL_PIXELS = 14;
const END_PIXELS = 2.5;

/**
 * @param {Record<string, number>} slots
 * @param {SlotBar[]} bars
 */
function slotRows(slots, bars) {
  const known = new Map(Object.entries(slots));
  for (const bar of bars) known.set(bar.generator, Math.max(known.get(bar.generator) ?? 0, bar.slot + 1));
  const rows = new Map();
  for (const generator of [...known.keys()].sort())
    for (let slot = 0; slot < (known.get(generator) ?? 0); slot += 1) rows.set(`${generator}/${slot}`, rows.size);
  return rows;
}

/** @param {Bar} bar */
function newestVersion(bar) {
  return bar.versions.at(-1)?.[0] ?? null;
}

export class SlotPicture {
  /**
   * @param {object} options
   * @param {string} options.label
   * @param {(bar: SlotBar | null, x: number, y: number) => void} options.choose
   * @param {(bar: SlotBar) => void} options.open
   */
  constructor({ label, choose, open }) {
    this.choose = choose;
    this.open = open;
    this.explained = "";
    /** @type {Box[]} */
    this.boxes = [];
    /** @type {SlotBar | null} */
    this.chosen = null;
    this.canvas = h("canvas", {
      tabindex: 0, role: "img", "aria-labelledby": label, "aria-roledescription": "picture of slots; arrow keys go from window to window, Enter opens the rollout",
      onpointermove: (event) => this.#hover(event),
      onpointerleave: () => this.choose(null, 0, 0),
      onclick: (event) => this.#click(event),
      onkeydown: (event) => this.#key(event),
      onblur: () => this.choose(null, 0, 0),
    });
    this.legend = h("ul", { class: "legend" });
  }

  /**
   * Returns the share of the slots in use, and how many windows ended how.
   * @param {Scene} scene
   */
  draw(scene) {
    const rows = slotRows(scene.slots, scene.bars);
    const height = Math.max(LEAST_ROW_PIXELS, Math.min(MOST_ROW_PIXELS, Math.floor(HEIGHT_PIXELS / Math.max(1, rows.size))));
    const brush = this.#cleared(rows.size * height + LABEL_PIXELS);
    const width = this.canvas.clientWidth;
    const across = (/** @type {number} */ time) => ((time - scene.begin) / (scene.end - scene.begin)) * width;
    const versions = scene.bars.map(newestVersion).filter(isNumber);
    const [oldest, newest] = versions.length ? [Math.min(...versions), Math.max(...versions)] : [0, 0];
    brush.fillStyle = theme("--empty");
    brush.fillRect(0, 0, width, rows.size * height);
    this.boxes = [];
    let busy = 0;
    for (const bar of scene.bars) {
      const row = rows.get(`${bar.generator}/${bar.slot}`) ?? 0;
      const left = Math.max(0, across(bar.started));
      const right = Math.min(width, across(bar.ended ?? scene.end));
      if (right < 0 || left > width) continue;
      busy += Math.max(0, right - left);
      const box = { bar, left, right: Math.max(right, left + 1), top: row * height, height };
      this.boxes.push(box);
      this.#bar(brush, box, ((newestVersion(bar) ?? oldest) - oldest) / Math.max(1, newest - oldest));
    }
    this.#steps(brush, scene, across, rows.size * height);
    this.#explainColours(oldest, newest);
    this.#frame(brush);
    const inside = scene.bars.filter((bar) => bar.ended !== null && bar.ended >= scene.begin);
    const finished = inside.filter((bar) => bar.is_finished).length;
    return { occupancy: busy / Math.max(1, width * rows.size), finished, cut: inside.length - finished };
  }

  get #brush() {
    return /** @type {CanvasRenderingContext2D} */ (this.canvas.getContext("2d"));
  }

  /** @param {number} height */
  #cleared(height) {
    const scale = window.devicePixelRatio || 1;
    this.canvas.style.height = `${height}px`;
    [this.canvas.width, this.canvas.height] = [this.canvas.clientWidth * scale, height * scale];
    const brush = this.#brush;
    brush.scale(scale, scale);
    return brush;
  }

  /**
   * @param {CanvasRenderingContext2D} brush
   * @param {Box} box
   * @param {number} share of the way from the oldest to the newest version
   */
  #bar(brush, { bar, left, right, top, height }, share) {
    const gap = height > 6 ? 1 : 0.5;
    brush.globalAlpha = bar.ended === null ? 0.45 : 1;
    brush.fillStyle = bar.versions.length ? viridis(share) : theme("--s5");
    brush.fillRect(left, top + gap, right - left, height - 2 * gap);
    brush.globalAlpha = 1;
    if (bar.ended === null) return;
    const thickness = Math.min(END_PIXELS, (right - left) / 2);
    brush.fillStyle = bar.is_finished ? ((bar.score ?? 0) > 0 ? "#ffffff" : "#14171a") : theme("--cut");
    brush.fillRect(right - thickness, top + gap, thickness, height - 2 * gap);
  }

  /**
   * @param {CanvasRenderingContext2D} brush
   * @param {Scene} scene
   * @param {(time: number) => number} across
   * @param {number} height
   */
  #steps(brush, scene, across, height) {
    brush.fillStyle = theme("--step");
    for (const step of scene.steps) if (step.time >= scene.begin && step.time <= scene.end) brush.fillRect(across(step.time), 0, 1, height + 3);
    brush.fillStyle = theme("--soft");
    brush.font = "10px system-ui";
    let free = 0;
    for (const step of scene.steps) {
      const x = across(step.time);
      if (x < free || x > this.canvas.clientWidth - 24) continue;
      brush.fillText(String(step.step), x, height + LABEL_PIXELS - 2);
      free = x + 42;
    }
  }

  /** @param {CanvasRenderingContext2D} brush */
  #frame(brush) {
    const box = this.#chosenBox();
    if (!box) return;
    brush.strokeStyle = theme("--ink");
    brush.lineWidth = 2;
    brush.strokeRect(box.left, box.top, box.right - box.left, box.height);
  }

  /**
   * @param {number} oldest
   * @param {number} newest
   */
  #explainColours(oldest, newest) {
    const text = `${oldest}-${newest}-${document.documentElement.dataset.theme}`;
    if (this.explained === text) return;
    this.explained = text;
    const swatch = (/** @type {string} */ colour) => h("span", { class: "swatch", style: `background:${colour}` });
    this.legend.replaceChildren(
      h("li", {}, "policy version ", String(oldest), h("span", { class: "scale", style: `background:${gradient()}` }), String(newest)),
      h("li", {}, swatch("#ffffff"), "ended, score above 0"),
      h("li", {}, swatch("#14171a"), "ended, score 0 or none yet"),
      h("li", {}, swatch(theme("--cut")), "cut, goes on"),
      h("li", {}, swatch(theme("--empty")), "slot empty"),
      h("li", {}, "vertical lines: training steps"),
    );
  }

  /** @param {MouseEvent} event */
  #at(event) {
    const frame = this.canvas.getBoundingClientRect();
    const [x, y] = [event.clientX - frame.left, event.clientY - frame.top];
    const box = this.boxes.findLast((one) => x >= one.left - 1 && x <= one.right + 1 && y >= one.top && y < one.top + one.height);
    return { box, x, y };
  }

  /** @param {MouseEvent} event */
  #hover(event) {
    const { box, x, y } = this.#at(event);
    this.canvas.style.cursor = box ? "pointer" : "default";
    this.choose(box?.bar ?? null, x, y);
  }

  /** @param {MouseEvent} event */
  #click(event) {
    const { box } = this.#at(event);
    if (box) this.open(box.bar);
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    if (event.key === "Enter" && this.chosen) {
      this.open(this.chosen);
      return;
    }
    const next = this.#neighbour(event.key);
    if (!next) return;
    event.preventDefault();
    this.chosen = next.bar;
    this.choose(next.bar, next.right, next.top);
    this.#frame(this.#brush);
  }

  #chosenBox() {
    return this.boxes.find((one) => one.bar.rollout === this.chosen?.rollout && one.bar.window === this.chosen?.window);
  }

  /**
   * The window before or behind in its slot, or the one above or below.
   * @param {string} key
   */
  #neighbour(key) {
    if (!key.startsWith("Arrow")) return null;
    const now = this.#chosenBox();
    if (!now) return this.boxes[0];
    const isAcross = key === "ArrowLeft" || key === "ArrowRight";
    const forward = key === "ArrowRight" || key === "ArrowDown";
    const side = this.boxes.filter((one) => (isAcross ? one.top === now.top && (forward ? one.left > now.left : one.left < now.left) : forward ? one.top > now.top : one.top < now.top));
    const distance = (/** @type {Box} */ one) => (isAcross ? Math.abs(one.left - now.left) : Math.abs(one.top - now.top) * 1e4 + Math.abs(one.left - now.left));
    return side.sort((a, b) => distance(a) - distance(b))[0] ?? now;
  }
}
