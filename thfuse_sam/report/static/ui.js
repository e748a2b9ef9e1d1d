"use strict";
// What all reports share. Text from the data reaches the page through `textContent` and attributes only, never as HTML.

/** An element with attributes (null or false: left out, true: empty) and children (elements or text). */
function el(tag, attributes, ...children) {
  const element = document.createElement(tag);
  setAttributes(element, attributes);
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** The same for SVG. */
function svg(tag, attributes, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  setAttributes(element, attributes);
  element.append(...children);
  return element;
}

function setAttributes(element, attributes) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value !== null && value !== undefined && value !== false) {
      element.setAttribute(name, value === true ? "" : String(value));
    }
  }
}

function byId(id) {
  return document.getElementById(id);
}

/** A number for a table: four significant digits; a dash where it is undefined. */
function formatNumber(value) {
  if (value === null || value === undefined) return "–";
  if (value !== 0 && (Math.abs(value) < 0.001 || Math.abs(value) >= 100000)) return value.toExponential(2);
  return Number(value.toPrecision(4)).toLocaleString("en", { maximumFractionDigits: 4, useGrouping: false });
}

/** The same with a fixed number of decimals, for columns. */
function formatFixed(value, decimals) {
  return value === null || value === undefined ? "–" : value.toFixed(decimals);
}

function plural(count, noun) {
  return `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;
}

/** Text for a paragraph in which `**words**` are strong. */
function setText(element, text) {
  element.replaceChildren(...text.map((part) => (Array.isArray(part) ? el("strong", {}, part[0]) : part)));
}

/** Facts, theme button: the top of every page. */
function showTop(report) {
  const facts = byId("facts");
  for (const [label, value] of report.facts) {
    const shown = label === "command" ? el("code", {}, value) : value;
    facts.querySelector("dl").append(el("dt", {}, label), el("dd", {}, shown));
  }
  // The headline stays in view, the rest opens.
  const headline = report.headline.length ? `: ${report.headline.join(" · ")}` : "";
  facts.querySelector("summary").textContent = `How this was made${headline}`;
  const button = byId("theme");
  const prefersDark = window.matchMedia("(prefers-color-scheme: dark)");
  let theme = recall("theme") || (prefersDark.matches ? "dark" : "light");
  const apply = () => {
    document.documentElement.dataset.theme = theme;
    button.textContent = theme === "dark" ? "Light" : "Dark";
    button.setAttribute("aria-label", `Switch to ${theme === "dark" ? "light" : "dark"} colours`);
  };
  button.addEventListener("click", () => {
    theme = theme === "dark" ? "light" : "dark";
    remember("theme", theme);
    apply();
  });
  apply();
}

// Some browsers have no storage for pages on the disk.
function recall(key) {
  try {
    return window.localStorage.getItem(`thfuse-report-${key}`);
  } catch {
    return null;
  }
}

function remember(key, value) {
  try {
    window.localStorage.setItem(`thfuse-report-${key}`, value);
  } catch {
    // The choice then lasts as long as the page.
  }
}

/** A table's head whose buttons sort its rows. `columns`: {label, title, numeric, value(row), cell(row)}. */
function showTable(table, columns, rows, caption) {
  let sorted = null;
  let ascending = true;
  const body = el("tbody", {});
  const heads = columns.map((column, index) => {
    const button = el("button", { type: "button", title: column.title }, column.label);
    const head = el("th", { scope: "col", class: column.numeric ? "number" : null }, button);
    button.addEventListener("click", () => {
      ascending = sorted === index ? !ascending : column.ascending !== false;
      sorted = index;
      fill();
    });
    return head;
  });
  const fill = () => {
    const shown = rows.slice();
    if (sorted !== null) {
      const key = columns[sorted].value;
      shown.sort((a, b) => compareValues(key(a), key(b), ascending));
    }
    heads.forEach((head, index) => {
      if (index === sorted) head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
      else head.removeAttribute("aria-sort");
    });
    body.replaceChildren(
      ...shown.map((row) =>
        el("tr", {}, ...columns.map((column, index) => {
          const tag = index === 0 ? "th" : "td";
          const cell = el(tag, { scope: index === 0 ? "row" : null, class: column.numeric ? "number" : null });
          cell.append(...[column.cell(row)].flat());
          return cell;
        })),
      ),
    );
  };
  fill();
  table.replaceChildren(el("caption", { class: "hidden" }, caption), el("thead", {}, el("tr", {}, ...heads)), body);
}

/** Order of two values; undefined ones come last either way. */
function compareValues(a, b, ascending) {
  const missing = (value) => value === null || value === undefined;
  if (missing(a) || missing(b)) return missing(a) - missing(b);
  const order = typeof a === "string" ? a.localeCompare(b, "en", { numeric: true }) : a - b;
  return ascending ? order : -order;
}

/** Fill a closed list such as the failures; it stays hidden where there are none. */
function showItems(details, items, title) {
  if (!items.length) return;
  details.hidden = false;
  details.querySelector("summary").textContent = title;
  const list = details.querySelector("ul");
  const most = 500;
  list.replaceChildren(...items.slice(0, most).map((text) => el("li", {}, text)));
  if (items.length > most) list.append(el("li", {}, `and ${items.length - most} more`));
}

/** Buttons that turn the pages of a list; `show(first, last)` draws one. Returns {reset, goTo}. */
function pager(size, length, show, noun) {
  let page = 0;
  const draw = () => {
    const total = length();
    const pages = Math.max(1, Math.ceil(total / size));
    page = Math.min(Math.max(page, 0), pages - 1);
    const first = page * size;
    const last = Math.min(first + size, total);
    byId("page-text").textContent = total ? `${first + 1}–${last} of ${plural(total, noun)}` : `no ${noun}`;
    byId("page-back").disabled = page === 0;
    byId("page-on").disabled = page === pages - 1;
    show(first, last);
  };
  byId("page-back").addEventListener("click", () => { page -= 1; draw(); });
  byId("page-on").addEventListener("click", () => { page += 1; draw(); });
  return {
    reset() { page = 0; draw(); },
    goTo(index) { page = Math.floor(index / size); draw(); },
  };
}

/** Whether a key press belongs to a field and not to the page. */
function isTyping(event) {
  const field = event.target.closest && event.target.closest("input:not([type=checkbox]), select, textarea");
  return Boolean(field) || event.ctrlKey || event.metaKey || event.altKey;
}
