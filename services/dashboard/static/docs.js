// Shows /openapi.json for people: each address with its parameters, its body and the fields of its answer.
// Every text goes in as text, never as HTML.

const token = new URLSearchParams(location.hash.slice(1)).get("token") ?? sessionStorage.getItem("tppo-token");
const headers = token ? { Authorization: `Bearer ${token}` } : {};

function element(name, text = "", ...children) {
  const made = document.createElement(name);
  made.textContent = text;
  made.append(...children);
  return made;
}

function resolved(document_, schema = {}) {
  return schema.$ref ? schema.$ref.split("/").slice(1).reduce((part, key) => part[key], document_) : schema;
}

function typeName(schema = {}) {
  if (schema.$ref) return schema.$ref.split("/").at(-1);
  if (schema.enum) return schema.enum.join(" | ");
  if (schema.const !== undefined) return String(schema.const);
  const choices = schema.anyOf ?? schema.oneOf;
  if (choices) return choices.map(typeName).join(" or ");
  if (schema.type === "array") return `list of ${schema.prefixItems ? schema.prefixItems.map(typeName) : typeName(schema.items)}`;
  if (schema.additionalProperties instanceof Object) return `table of ${typeName(schema.additionalProperties)}`;
  return schema.type ?? "anything";
}

function bounds(schema = {}) {
  const part = schema.anyOf?.find((choice) => choice.type !== "null") ?? schema;
  const words = [];
  if (part.minimum !== undefined) words.push(`at least ${part.minimum}`);
  if (part.maximum !== undefined) words.push(`at most ${part.maximum}`);
  if (schema.default !== undefined && schema.default !== null && schema.default !== "") words.push(`default ${schema.default}`);
  return words.join(", ");
}

function table(caption, rows) {
  if (!rows.length) return "";
  const made = element("table");
  made.append(element("caption", caption));
  const head = element("tr");
  for (const title of ["name", "type", "meaning"]) {
    const cell = element("th", title);
    cell.scope = "col";
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

function fields(document_, schema) {
  const properties = resolved(document_, schema).properties ?? {};
  return Object.entries(properties).map(([name, one]) => [name, typeName(one), one.description ?? bounds(one)]);
}

// The tables of a schema and of all schemas that it names.
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

function operation(document_, method, path, described) {
  const summary = element("summary");
  summary.append(element("span", `${method.toUpperCase()} `), element("span", path));
  summary.firstChild.className = "method";
  summary.lastChild.className = "path";
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
  const about = document.getElementById("about");
  const answer = await fetch("/openapi.json", { headers });
  if (!answer.ok) {
    about.textContent = `The OpenAPI document cannot be read: the answer is ${answer.status}.`;
    return;
  }
  const found = await answer.json();
  about.textContent = `${found.info.description} `;
  const link = element("a", "The OpenAPI document");
  link.href = "/openapi.json";
  about.append(link);
  const made = Object.entries(found.paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, described]) => operation(found, method, path, described)));
  document.getElementById("operations").append(...made);
}

show();
