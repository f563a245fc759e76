// Small tables of figures: one shape for all views.

import { make } from "./words.js";

export function table(caption, head, rows) {
  // A cell carries its column's head, for pages too narrow for columns.
  const cells = (tag, values) => values.map((value, column) => {
    const element = make(tag, tag === "th" ? { scope: "col" } : { "data-head": head[column] });
    element.append(value);
    return element;
  });
  const body = rows.length ? rows : [["none", ...head.slice(1).map(() => "")]];
  return make(
    "table",
    {},
    make("caption", { text: caption }),
    make("thead", {}, make("tr", {}, ...cells("th", head))),
    make("tbody", {}, ...body.map((row) => make("tr", {}, ...cells("td", row)))),
  );
}
