// The API documentation page, rendered from the OpenAPI document without external resources.

import { table } from "./tables.js";
import { make } from "./format.js";

const METHODS = ["get", "post", "put", "patch", "delete"];

function kind(schema) {
  if (!schema) return "";
  if (schema.enum) return schema.enum.join(" | ");
  const arms = schema.anyOf ?? schema.oneOf;
  if (arms) return arms.map(kind).join(" or ");
  if (schema.$ref) return schema.$ref.split("/").pop();
  if (schema.type === "array") return `array of ${kind(schema.items) || "anything"}`;
  return schema.type ?? "anything";
}

function fields(schema, document) {
  const named = schema?.$ref?.split("/").pop();
  const found = named ? document.components?.schemas?.[named] : schema;
  const required = new Set(found?.required ?? []);
  return Object.entries(found?.properties ?? {}).map(([name, each]) => [
    name, kind(each), required.has(name) ? "yes" : "", each.description ?? "",
  ]);
}

function operation(path, method, told, document) {
  const parts = [];
  if (told.description) parts.push(make("p", { text: told.description }));
  const parameters = (told.parameters ?? []).map((each) => [
    each.name, each.in, kind(each.schema), each.description ?? each.schema?.description ?? "",
  ]);
  if (parameters.length) {
    parts.push(table("Parameters", ["name", "in", "is", "what it says"], parameters));
  }
  for (const [type, body] of Object.entries(told.requestBody?.content ?? {})) {
    const rows = fields(body.schema, document);
    parts.push(table(`Body: ${type}`, ["field", "is", "required", "what it says"], rows));
  }
  const answers = Object.entries(told.responses ?? {}).map(([status, answer]) => [
    status, Object.keys(answer.content ?? {}).join(", "), answer.description ?? "",
  ]);
  parts.push(table("Answers", ["status", "type", "when"], answers));
  const title = make("summary", {}, make("code", { text: `${method.toUpperCase()} ${path}` }));
  title.append(` ${told.summary ?? ""}`);
  return make("details", { id: `${method}${path}` }, title, ...parts);
}

function shown(document) {
  const byTag = new Map();
  for (const [path, methods] of Object.entries(document.paths)) {
    for (const method of METHODS.filter((each) => methods[each])) {
      const told = methods[method];
      const tag = told.tags?.[0] ?? "other";
      byTag.set(tag, [...(byTag.get(tag) ?? []), operation(path, method, told, document)]);
    }
  }
  const first = [...byTag].sort(([one], [other]) => (other === "inference") - (one === "inference"));
  return first.map(([tag, operations]) => make(
    "section", {}, make("h2", { text: tag }), ...operations,
  ));
}

const state = document.getElementById("state");
try {
  const answer = await fetch("openapi.json");
  if (!answer.ok) throw new Error(`the gateway answered ${answer.status}`);
  document.getElementById("endpoints").replaceChildren(...shown(await answer.json()));
} catch (error) {
  state.textContent = `openapi.json could not be read: ${error.message}`;
}
