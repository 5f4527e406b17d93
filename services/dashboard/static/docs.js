// @ts-check
// Shows /openapi.json for people: each address with its parameters, its body and the fields of its answer.
// Every text goes in as text, never as HTML.

/**
 * Of an OpenAPI document, the parts that are shown.
 * @typedef {{
 *   $ref?: string, type?: string, enum?: string[], const?: unknown, anyOf?: Schema[], oneOf?: Schema[], items?: Schema,
 *   prefixItems?: Schema[], additionalProperties?: Schema | boolean, properties?: Record<string, Schema>, description?: string,
 *   minimum?: number, maximum?: number, default?: unknown,
 * }} Schema
 */
/** @typedef {Record<string, { schema?: Schema }>} Content */
/**
 * @typedef {{
 *   description?: string,
 *   parameters?: Array<{ name: string, schema: Schema, description?: string }>,
 *   requestBody?: { content?: Content },
 *   responses: Record<string, { description: string, content?: Content }>,
 * }} Operation
 */
/** @typedef {{ info: { description: string }, paths: Record<string, Record<string, Operation>> }} OpenApi */

const token = new URLSearchParams(location.hash.slice(1)).get("token") ?? sessionStorage.getItem("tppo-token");
/** @type {Record<string, string>} */
const headers = token ? { Authorization: `Bearer ${token}` } : {};

/**
 * @param {string} name
 * @param {string} text
 * @param {Array<Node | string>} children
 */
function element(name, text = "", ...children) {
  const made = document.createElement(name);
  made.textContent = text;
  made.append(...children);
  return made;
}

/**
 * @param {OpenApi} document_
 * @param {Schema} schema
 * @returns {Schema}
 */
function resolved(document_, schema = {}) {
  return schema.$ref ? schema.$ref.split("/").slice(1).reduce((part, key) => part[key], /** @type {any} */ (document_)) : schema;
}

/**
 * @param {Schema} [schema]
 * @returns {string}
 */
function typeName(schema = {}) {
  if (schema.$ref) return schema.$ref.slice(schema.$ref.lastIndexOf("/") + 1);
  if (schema.enum) return schema.enum.join(" | ");
  if (schema.const !== undefined) return String(schema.const);
  const choices = schema.anyOf ?? schema.oneOf;
  if (choices) return choices.map(typeName).join(" or ");
  if (schema.type === "array") return `list of ${schema.prefixItems ? schema.prefixItems.map(typeName).join(", ") : typeName(schema.items)}`;
  if (schema.additionalProperties instanceof Object) return `table of ${typeName(schema.additionalProperties)}`;
  return schema.type ?? "anything";
}

/** @param {Schema} [schema] */
function bounds(schema = {}) {
  const part = schema.anyOf?.find((choice) => choice.type !== "null") ?? schema;
  const words = [];
  if (part.minimum !== undefined) words.push(`at least ${part.minimum}`);
  if (part.maximum !== undefined) words.push(`at most ${part.maximum}`);
  if (schema.default !== undefined && schema.default !== null && schema.default !== "") words.push(`default ${schema.default}`);
  return words.join(", ");
}

/**
 * @param {string} caption
 * @param {string[][]} rows
 */
function table(caption, rows) {
  if (!rows.length) return "";
  const made = element("table");
  made.append(element("caption", caption));
  const head = element("tr");
  for (const title of ["name", "type", "meaning"]) {
    const cell = element("th", title);
    cell.setAttribute("scope", "col");
    head.append(cell);
  }
  made.append(element("thead", "", head));
  const body = element("tbody");
  for (const [name, type, meaning] of rows) {
    body.append(element("tr", "", element("td", "", element("code", name)), element("td", type), element("td", meaning)));
  }
  made.append(body);
  return made;
}

/**
 * @param {OpenApi} document_
 * @param {Schema} schema
 */
function fields(document_, schema) {
  const properties = resolved(document_, schema).properties ?? {};
  return Object.entries(properties).map(([name, one]) => [name, typeName(one), one.description ?? bounds(one)]);
}

/**
 * The tables of a schema and of all schemas that it names.
 * @param {OpenApi} document_
 * @param {Schema} schema
 * @param {string} caption
 * @param {Set<string>} seen
 * @returns {Array<HTMLElement | string>}
 */
function tables(document_, schema, caption, seen = new Set()) {
  const references = JSON.stringify(resolved(document_, schema)).matchAll(/"#\/components\/schemas\/([^"]+)"/g);
  const made = [table(caption, fields(document_, schema))];
  for (const [, name] of references) {
    if (seen.has(name)) continue;
    seen.add(name);
    made.push(...tables(document_, { $ref: `#/components/schemas/${name}` }, name, seen));
  }
  return made;
}

/**
 * @param {OpenApi} document_
 * @param {string} method
 * @param {string} path
 * @param {Operation} described
 */
function operation(document_, method, path, described) {
  const summary = element("summary");
  const [name, address] = [element("span", `${method.toUpperCase()} `), element("span", path)];
  [name.className, address.className] = ["method", "path"];
  summary.append(name, address);
  const parameters = (described.parameters ?? []).map((one) => [
    one.name,
    typeName(one.schema),
    [one.description, bounds(one.schema)].filter(Boolean).join(" "),
  ]);
  const body = described.requestBody?.content?.["application/json"]?.schema;
  const bodySchema = body?.anyOf?.find((choice) => choice.$ref) ?? body;
  const success = Object.entries(described.responses).find(([status]) => status.startsWith("2"));
  const answer = success?.[1].content?.["application/json"]?.schema;
  return element(
    "details", "", summary, element("p", described.description ?? ""),
    table("Parameters", parameters),
    ...(bodySchema ? tables(document_, bodySchema, "Body") : []),
    ...(answer ? tables(document_, answer, "Answer") : []),
    table("Problems", Object.entries(described.responses).filter(([status]) => status >= "4").map(([status, one]) => [status, "Problem", one.description])),
  );
}

async function show() {
  const about = /** @type {HTMLElement} */ (document.getElementById("about"));
  const answer = await fetch("/openapi.json", { headers });
  if (!answer.ok) {
    about.textContent = `The OpenAPI document cannot be read: the answer is ${answer.status}.`;
    return;
  }
  /** @type {OpenApi} */
  const found = await answer.json();
  about.textContent = `${found.info.description} `;
  const link = element("a", "The OpenAPI document");
  link.setAttribute("href", "/openapi.json");
  about.append(link);
  const made = Object.entries(found.paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, described]) => operation(found, method, path, described)));
  document.getElementById("operations")?.append(...made);
}

show();
