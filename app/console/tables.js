// Tables of figures, in one form for all views.

import { make } from "./format.js";

export function table(caption, head, rows) {
  // Each cell has its column's head as an attribute, for narrow pages.
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
