// @ts-check
// Elements of the page. Whatever comes from a run is set as text, never as HTML.

/** @import { Child, Properties, TableColumn } from "/static/data/types.d.ts" */

const LONG_TEXT = 24;

/** @param {Child[]} children */
function present(children) {
  const flat = /** @type {unknown[]} */ (children).flat(Infinity);
  return /** @type {Array<Node | string>} */ (flat.filter((child) => child !== null && child !== undefined && child !== ""));
}

/**
 * An element: properties are attributes, listeners ("onclick") or "class"; children are texts, elements, or nothing.
 * @template {keyof HTMLElementTagNameMap} Name
 * @param {Name} name
 * @param {Properties} properties
 * @param {Child[]} children
 */
export function h(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) made.addEventListener(key.slice(2), /** @type {EventListener} */ (value));
    else made.setAttribute(key, value === true ? "" : String(value));
  }
  made.append(...present(children));
  return made;
}

/**
 * @param {Element} place
 * @param {Child[]} children
 */
export function fill(place, ...children) {
  place.replaceChildren(...present(children));
}

/** @param {Array<[name: string, value: Child]>} pairs */
export function facts(pairs) {
  return h("dl", { class: "facts" }, pairs.filter(([, value]) => value !== "").map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]));
}

/**
 * @template Row
 * @param {string} caption
 * @param {Array<TableColumn<Row>>} columns
 * @param {Row[]} rows
 */
export function table(caption, columns, rows, whenEmpty = "none") {
  if (!rows.length) return h("p", { class: "soft" }, caption ? `${caption}: ${whenEmpty}.` : `${whenEmpty}.`);
  const head = columns.map(([title, , kind]) => h("th", { scope: "col", class: kind }, title));
  const body = rows.map((row) => h("tr", {}, columns.map(([, cell, kind]) => tableCell(cell(row), kind))));
  return h(
    "div",
    { class: "scroll", tabindex: 0, role: "region", "aria-label": caption || "Table" },
    h("table", {}, caption ? h("caption", {}, caption) : "", h("thead", {}, h("tr", {}, head)), h("tbody", {}, body)),
  );
}

/**
 * A sentence is set in several lines, all else in one.
 * @param {Child} content
 * @param {string} [kind]
 */
function tableCell(content, kind) {
  const isLong = typeof content === "string" && content.length > LONG_TEXT;
  return h("td", { class: kind ?? (isLong ? "text" : null) }, content);
}

/**
 * @param {string} text
 * @param {HTMLElement} field
 */
export function labelled(text, field) {
  return h("label", { class: "stacked" }, text, field);
}

/**
 * @param {string[][]} options value and text of each
 * @param {string} chosen
 * @param {(value: string) => unknown} onchange
 */
export function choice(options, chosen, onchange) {
  /** @type {HTMLSelectElement} */
  const made = h("select", { onchange: () => onchange(made.value) });
  made.append(...options.map(([value, text]) => h("option", { value, selected: value === chosen }, text)));
  return made;
}

/**
 * Hand a text to the reader as a file.
 * @param {string} name
 * @param {string} text
 */
export function save(name, text) {
  const href = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
  h("a", { href, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(href), 0);
}

/** @param {string} name of a colour in style.css */
export function theme(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}
