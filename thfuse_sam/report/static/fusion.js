"use strict";
// The report of fused images: the table of methods, the list of pairs, and the viewer.

const report = window.REPORT;
const PAGE = 50; // pairs in the list at once
const WORST = 10;
const NAME = "name";
const methodNames = report.methods.map((method) => method.name);
const compared = report.methods.length > 1;
// Metrics of ten and more, such as PSNR, with two decimals.
const decimals = report.metrics.map((_, metric) => (report.methods.some((method) => method.mean[metric] >= 10) ? 2 : 3));
const state = { sort: NAME, order: "worst", of: 0, which: "all", find: "", chosen: null, shown: [] };

/** Value of a pair by a metric of one method, null where undefined. */
function valueOf(pair, metric, method) {
  const row = report.pairs[pair].values[method];
  return row ? row[metric] : null;
}

/** Positive where `a` is the better value of a metric. */
function advantage(metric, a, b) {
  return report.metrics[metric].better === "higher" ? a - b : b - a;
}

/** Numbers of the methods with the best of `values`; none where there is nothing to choose from. */
function bestOf(metric, values) {
  const defined = values.filter((value) => value !== null);
  if (defined.length < 2) return [];
  const best = defined.reduce((one, other) => (advantage(metric, one, other) >= 0 ? one : other));
  return values.flatMap((value, index) => (value === best ? [index] : []));
}

/** Values of one metric with the same number of decimals. */
function formatMetric(metric, value) {
  return formatFixed(value, decimals[metric]);
}

function arrow(metric) {
  return metric.better === "higher" ? "↑" : "↓";
}

// Table of methods

function showSummary() {
  const pairs = report.pairs.length;
  const [own] = methodNames;
  const ranked = report.methods.filter((method) => method.meanRank !== null).sort((a, b) => a.meanRank - b.meanRank);
  document.title = `${own}: ${plural(pairs, "fused pair")}`;
  const verdict = byId("verdict");
  if (ranked.length > 1) {
    const [first, ...rest] = ranked;
    const tied = rest.filter((method) => method.meanRank === first.meanRank);
    const withRank = (method) => `${method.name} ${formatFixed(method.meanRank, 2)}`;
    const winner = tied.length ? ["No method is ahead: ", [[first, ...tied].map((method) => method.name).join(", ")], " share the best"]
      : [[first.name], ` is the best of ${ranked.length} methods by`];
    const others = rest.filter((method) => !tied.includes(method)).map(withRank);
    setText(verdict, [...winner, " mean rank: ", [formatFixed(first.meanRank, 2)], others.length ? `, before ${others.join(", ")}.` : "."]);
  } else {
    setText(verdict, [[own], ` fused ${plural(pairs, "pair")} of infrared and visible images. `,
      "To compare methods, run it again with --compare and the folders of their images."]);
  }
  byId("summary-hint").textContent = `${(report.caption || []).join(" ")} ↑ higher is better, ↓ lower is better` +
    (compared ? ". ★ marks the best method. Click a head to sort." : ".");
  const columns = [{ label: "Method", title: "Name", value: (row) => row.name, cell: (row) => methodCell(row) }];
  if (compared) {
    const rankOf = (row) => row.meanRank;
    columns.push({ label: "Mean rank ↓", title: "Mean over metrics of the mean rank over pairs, lower is better; 95 % interval",
      numeric: true, value: rankOf, cell: (row) => rankCell(row, ranked) });
    if (report.methods.some((method) => method.seconds)) {
      columns.push({ label: "s/pair ↓", title: "Seconds per pair, the program's start included", numeric: true,
        value: (row) => row.seconds, cell: (row) => formatFixed(row.seconds, 2) });
    }
    if (report.methods.some((method) => method.images < pairs)) {
      columns.push({ label: "Images", title: "Fused images found", numeric: true, value: (row) => row.images,
        cell: (row) => `${row.images} / ${pairs}` });
    }
  }
  report.metrics.forEach((metric, index) => {
    const best = bestOf(index, report.methods.map((method) => method.mean[index]));
    columns.push({ label: `${metric.key}${metric.note ? ` (${metric.note})` : ""} ${arrow(metric)}`, title: `${metric.title}, ${metric.better} is better`, numeric: true,
      ascending: metric.better === "lower", value: (row) => row.mean[index],
      cell: (row) => starred(formatMetric(index, row.mean[index]), best.includes(report.methods.indexOf(row))) });
  });
  const rows = compared ? report.methods.slice().sort((a, b) => compareValues(a.meanRank, b.meanRank, true)) : report.methods;
  showTable(byId("means"), columns, rows, "Mean metrics of each method");
  showTargets(rows);
  showItems(byId("failures"), report.failures.map(([name, reason]) => `${name}: ${reason}`),
    `${plural(report.failures.length, "pair")} not fused`);
  const leftOut = report.leftOut || [];
  showItems(byId("left-out"), leftOut.map(([name, reason]) => `${name}: ${reason}`),
    `${plural(leftOut.length, "pair")} left out of every row`);
}

function methodCell(method) {
  const index = report.methods.indexOf(method);
  return [el("span", { class: `swatch ${seriesClass(index)}`, "aria-hidden": "true" }), method.name];
}

function rankCell(row, ranked) {
  const [low, high] = row.interval || [null, null];
  const text = formatFixed(row.meanRank, 2) + (low === null ? "" : ` [${formatFixed(low, 2)} to ${formatFixed(high, 2)}]`);
  return starred(text, ranked.length > 1 && row.meanRank === ranked[0].meanRank);
}

/** How labelled objects stand out: a row for each method, class and size. */
function showTargets(methods) {
  const rows = methods.flatMap((method) => (method.targets || []).map((target) => ({ method, ...target })));
  byId("targets").hidden = !rows.length;
  if (!rows.length) return;
  const number = (label, key, title, digits) => ({ label, title, numeric: true, value: (row) => row[key],
    cell: (row) => (digits === undefined ? row[key] : formatFixed(row[key], digits)) });
  const ofMasks = [
    number("Boxes", "boxes", "Boxes that masks were asked for"),
    number("Found ↑", "found", "Share of boxes that a mask's box covers with an intersection over union of 0.5", 2),
  ];
  showTable(byId("target-table"), [
    { label: "Method", title: "Name", value: (row) => row.method.name, cell: (row) => methodCell(row.method) },
    { label: "Class", title: "Class of the labels", value: (row) => row.category, cell: (row) => row.category },
    { label: "Size", title: "Large: a box of more than 1,500 pixels", value: (row) => row.size, cell: (row) => row.size },
    number("Targets", "targets", "Targets whose contrast was measured"),
    number("Contrast kept ↑", "contrast_kept", "Contrast relative to that in the infrared image, mean", 3),
    number("At least 80 % ↑", "well_kept", "Share of targets that keep at least 80 % of their contrast", 2),
    number("Below 40 % ↓", "badly_kept", "Share of targets that keep less than 40 % of their contrast", 2),
    ...(rows.some((row) => row.boxes) ? ofMasks : []),
  ], rows, "Target measures of each method");
}

function starred(text, best) {
  return best ? [el("strong", { class: "best" }, text, el("span", { "aria-label": "best" }, " ★"))] : [text];
}

// Strips, drawn when they are first looked at

let strips = null;

function showStrips() {
  if (strips) return;
  strips = report.metrics.flatMap((metric, index) => {
    const rows = methodNames.map((_, method) => report.pairs.map((_, pair) => valueOf(pair, index, method)));
    const plot = stripPlot(metric, methodNames, rows, report.methods.map((method) => method.mean[index]), choose);
    return plot ? [plot] : [];
  });
  byId("strips").replaceChildren(...strips.map((strip) => strip.figure));
  if (compared) {
    const legend = el("p", { class: "legend" });
    showLegend(legend, methodNames);
    byId("strips").before(legend);
  }
  if (state.chosen !== null) strips.forEach((strip) => strip.mark(state.chosen));
}

// List of pairs

function filterAndSort() {
  const wanted = state.find.trim().toLowerCase();
  const metric = report.metrics.findIndex((one) => one.key === state.sort);
  const kept = {
    all: () => true,
    worst: () => true,
    misaligned: (pair) => report.pairs[pair].offset,
    unmasked: (pair) => !report.pairs[pair].irMask || !report.pairs[pair].viMask,
    beaten: (pair) => metric >= 0 && !bestOf(metric, methodNames.map((_, method) => valueOf(pair, metric, method))).includes(0),
  }[state.which];
  let shown = report.pairs.map((_, index) => index)
    .filter((pair) => report.pairs[pair].name.toLowerCase().includes(wanted) && kept(pair));
  if (metric >= 0) {
    const lowFirst = (report.metrics[metric].better === "higher") === (state.order === "worst");
    shown.sort((a, b) => compareValues(valueOf(a, metric, state.of), valueOf(b, metric, state.of), lowFirst) || a - b);
  }
  if (state.which === "worst") shown = shown.slice(0, WORST);
  state.shown = shown;
}

function listItem(pair) {
  const { name, thumbnail, width, height, offset } = report.pairs[pair];
  const metric = report.metrics.findIndex((one) => one.key === state.sort);
  const value = metric < 0 ? "" : `${state.sort} ${formatMetric(metric, valueOf(pair, metric, state.of))}`;
  const note = [value, offset ? `out of register by ${formatFixed(100 * offset, 1)} %` : ""].filter(Boolean).join("; ");
  const button = el("button", { type: "button", "data-pair": pair, "aria-current": pair === state.chosen ? "true" : null },
    el("img", { src: thumbnail, alt: "", loading: "lazy", decoding: "async", width: 84, height: Math.max(1, Math.round((84 * height) / width)) }),
    el("span", { class: "item-text" }, el("span", { class: "item-name" }, name), el("span", { class: "item-note" }, note)));
  button.addEventListener("click", () => choose(pair));
  return el("li", {}, button);
}

const pages = pager(PAGE, () => state.shown.length, (first, last) => {
  byId("list").replaceChildren(...state.shown.slice(first, last).map(listItem));
}, "pair");

function refresh() {
  byId("order").disabled = state.sort === NAME;
  if (byId("of")) byId("of").disabled = state.sort === NAME;
  filterAndSort();
  pages.reset();
}

function showControls() {
  const sort = byId("sort");
  sort.append(el("option", { value: NAME }, "name"), ...report.metrics.map((metric) =>
    el("option", { value: metric.key, title: metric.title }, `${metric.key} ${arrow(metric)} ${metric.title}`)));
  byId("of").append(...methodNames.map((name, index) => el("option", { value: index }, name)));
  byId("of").closest("label").hidden = !compared;
  byId("which").append(el("option", { value: "all" }, "all pairs"), el("option", { value: "worst" }, "first ten only"),
    el("option", { value: "unmasked" }, "a mask is missing"));
  if (report.pairs.some((pair) => pair.offset)) byId("which").append(el("option", { value: "misaligned" }, "out of register"));
  if (compared) byId("which").append(el("option", { value: "beaten" }, `${methodNames[0]} is not best`));
  const fields = { sort: "change", order: "change", of: "change", which: "change", find: "input" };
  for (const [key, event] of Object.entries(fields)) {
    byId(key).value = key === "find" ? "" : String(state[key]);
    byId(key).addEventListener(event, () => {
      state[key] = key === "of" ? Number(byId(key).value) : byId(key).value;
      // Being beaten is by some metric.
      if (key === "which" && state.which === "beaten" && state.sort === NAME) state.sort = sort.value = report.metrics[0].key;
      refresh();
    });
  }
}

// One pair

const viewer = new Viewer(byId("viewer"), ["infrared", "visible", ...methodNames.map((name, index) => (index || compared ? name : "fused"))]);

function choose(pair) {
  state.chosen = pair;
  viewer.show(report.pairs[pair]);
  showValues(pair);
  showAlignment(pair);
  const at = state.shown.indexOf(pair);
  if (at >= 0 && !byId("list").querySelector(`[data-pair="${pair}"]`)) pages.goTo(at);
  for (const button of byId("list").querySelectorAll("button")) {
    if (Number(button.dataset.pair) === pair) {
      button.setAttribute("aria-current", "true");
      scrollInside(byId("list"), button);
    } else button.removeAttribute("aria-current");
  }
  if (strips) strips.forEach((strip) => strip.mark(pair));
  // The address names the pair, so that it can be passed on.
  window.history.replaceState(null, "", `#pair=${pair + 1}`);
}

/** Bring `item` into view without moving the page. */
function scrollInside(list, item) {
  const [outer, inner] = [list.getBoundingClientRect(), item.getBoundingClientRect()];
  if (inner.top < outer.top) list.scrollTop -= outer.top - inner.top;
  else if (inner.bottom > outer.bottom) list.scrollTop += inner.bottom - outer.bottom;
}

function step(by) {
  if (!state.shown.length) return;
  const at = state.shown.indexOf(state.chosen);
  choose(state.shown[at < 0 ? 0 : Math.min(Math.max(at + by, 0), state.shown.length - 1)]);
}

/** Place of a value among those of all pairs, 1 is best. */
function placeOf(metric, value) {
  const values = report.pairs.map((_, pair) => valueOf(pair, metric, 0)).filter((other) => other !== null);
  return [1 + values.filter((other) => advantage(metric, other, value) > 0).length, values.length];
}

function showValues(pair) {
  const several = report.pairs.length > 1;
  const head = [el("th", { scope: "col" }, "Metric"), ...methodNames.map((name, index) =>
    el("th", { scope: "col", class: "number" }, compared ? methodCell(report.methods[index])[0] : null, compared ? name : "Value"))];
  if (several) head.push(el("th", { scope: "col", class: "number place" }, "Place"));
  const rows = report.metrics.map((metric, index) => {
    const values = methodNames.map((_, method) => valueOf(pair, index, method));
    const best = bestOf(index, values);
    const cells = values.map((value, method) => {
      const cell = el("td", { class: "number" });
      cell.append(...starred(formatMetric(index, value), best.includes(method)));
      return cell;
    });
    if (several) {
      const [place, count] = values[0] === null ? [null, 0] : placeOf(index, values[0]);
      cells.push(el("td", { class: "number place" }, place === null ? "–" : `${place}/${count}`));
    }
    return el("tr", {}, el("th", { scope: "row", title: metric.title }, `${metric.key} ${arrow(metric)}`), ...cells);
  });
  byId("values").replaceChildren(el("caption", { class: "hidden" }, `Metrics of ${report.pairs[pair].name}`),
    el("thead", {}, el("tr", {}, ...head)), el("tbody", {}, ...rows));
  byId("values-hint").textContent = several ? `Place: where ${compared ? methodNames[0] : "this value"} stands among all pairs, 1 is best.` : "";
}

/** How the pair was aligned, or that it should be. */
function showAlignment(pair) {
  const { alignment, offset, name } = report.pairs[pair];
  const text = alignment ? alignment.text : offset ? `The pair is out of register by ${formatFixed(100 * offset, 1)} % of its width; --align similarity mends it.` : "";
  byId("alignment").hidden = !text;
  byId("alignment").replaceChildren(el("h3", {}, "Alignment"), el("p", { class: "hint" }, text),
    ...["before", "after"].filter((when) => alignment && alignment[when]).map((when) => el("figure", {},
      el("a", { href: alignment[when] }, el("img", { src: alignment[when], alt: `edges of the infrared image over the visible one, ${when} aligning ${name}`, loading: "lazy" })),
      el("figcaption", { class: "hint" }, `${when}: infrared edges in orange`))));
}

document.addEventListener("keydown", (event) => {
  if (isTyping(event) || state.chosen === null) return;
  const work = {
    ArrowLeft: () => step(-1), ArrowUp: () => step(-1), ArrowRight: () => step(1), ArrowDown: () => step(1),
    m: () => viewer.toggleMasks(), "+": () => viewer.zoomAt(0.5, 0.5, 1.5), "-": () => viewer.zoomAt(0.5, 0.5, 1 / 1.5),
    0: () => viewer.setZoom(1, 0, 0), Escape: () => viewer.solo !== null && viewer.toggleSolo(viewer.solo),
  }[event.key] || (/^[1-9]$/.test(event.key) ? () => viewer.toggleSolo(Number(event.key) - 1) : null);
  if (!work) return;
  event.preventDefault();
  work();
});

showTop(report);
showSummary();
showControls();
refresh();
byId("spread").addEventListener("toggle", () => { if (byId("spread").open) showStrips(); });
if (report.pairs.length) {
  const asked = Number((/^#pair=(\d+)$/.exec(window.location.hash) || [])[1]) - 1;
  choose(report.pairs[asked] ? asked : state.shown[0]);
} else byId("pairs").hidden = true;
