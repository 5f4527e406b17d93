// Elements of the page. Whatever comes from a run is set as text, never as HTML.

// An element: properties are attributes, listeners ("onclick") or "class"; children are texts, elements, or nothing.
export function h(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else made.setAttribute(key, value === true ? "" : String(value));
  }
  made.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== ""));
  return made;
}

export function fill(place, ...children) {
  place.replaceChildren(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== ""));
}

export function card(title, ...children) {
  return h("section", { class: "card" }, h("h3", {}, title), ...children);
}

export function facts(pairs) {
  return h("dl", { class: "facts" }, pairs.filter(([, value]) => value !== "").map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]));
}

// A table; columns are [title, cell of a row, "number" for numbers].
export function table(caption, columns, rows, whenEmpty = "none") {
  if (!rows.length) return h("p", { class: "soft" }, caption ? `${caption}: ${whenEmpty}.` : `${whenEmpty}.`);
  const head = columns.map(([title, , kind]) => h("th", { scope: "col", class: kind }, title));
  const body = rows.map((row) => h("tr", {}, columns.map(([, cell, kind]) => h("td", { class: kind }, cell(row)))));
  return h(
    "div",
    { class: "scroll", tabindex: 0, role: "region", "aria-label": caption || "Table" },
    h("table", {}, caption ? h("caption", {}, caption) : "", h("thead", {}, h("tr", {}, head)), h("tbody", {}, body)),
  );
}

export function labelled(text, field) {
  return h("label", { class: "stacked" }, text, field);
}

export function choice(options, chosen, onchange) {
  const made = h("select", { onchange: () => onchange(made.value) });
  made.append(...options.map(([value, text]) => h("option", { value, selected: value === chosen }, text)));
  return made;
}

export function theme(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}
