"use strict";
// The report of a fine-tuning run: figures before and after by prompt, masks, curves.

const report = window.REPORT;

function show() {
  document.title = `Fine-tuning: ${plural(report.rows.length, "epoch")}`;
  const of = (kind) => report.figures.find((row) => row.kind === kind && row.figure === "IoU");
  const text = [`${plural(report.rows.length, "epoch")}. `];
  for (const row of report.kinds.map(of).filter(Boolean)) {
    const [before, after] = [row.before, row.after].map((value) => formatFixed(value, 3));
    const way = before === after ? "stays at" : `${row.after > row.before ? "rises" : "falls"} from ${before} to`;
    text.push(`By ${row.kind}, mean IoU ${way} `, [after], ". ");
  }
  setText(byId("verdict"), text);
  showFigures();
  showSamples();
  showLegend(byId("legend"), ["training", ...report.kinds.map((kind) => `validation, ${kind}`)]);
  byId("curves").append(...report.charts.map((chart) => lineChart(chart.title, chart.series, "epoch")));
  showLog(report);
}

function showFigures() {
  if (!report.figures.length) return;
  byId("figures-section").hidden = false;
  const change = (row) => (row.before === null || row.after === null ? null : row.after - row.before);
  const signed = (value) => (value === null ? "–" : `${value >= 0.0005 ? "+" : ""}${value.toFixed(3)}`);
  const number = (label, value, cell) => ({ label, title: label, numeric: true, value, cell });
  const columns = [
    { label: "prompt", title: "prompt", value: (row) => row.kind, cell: (row) => row.kind },
    { label: "figure", title: "figure", value: (row) => row.figure, cell: (row) => row.figure },
    number("objects", (row) => row.objects, (row) => String(row.objects)),
    number("zero-shot", (row) => row.before, (row) => formatFixed(row.before, 3)),
    number("fine-tuned", (row) => row.after, (row) => formatFixed(row.after, 3)),
    number("change", change, (row) => el("span", { class: change(row) >= 0.0005 ? "best" : null }, signed(change(row)))),
  ];
  showTable(byId("figures"), columns, report.figures, "Figures before and after fine-tuning");
}

function showSamples() {
  if (!report.samples.length) return;
  byId("samples-section").hidden = false;
  const picture = (address, description, note) => el("td", {},
    el("a", { href: address }, el("img", { src: address, alt: description, loading: "lazy" })), note);
  const states = [["before", "zero-shot"], ["after", "fine-tuned"]];
  const heads = ["Image", "", "labelled", ...report.kinds.flatMap((kind) => states.map(([, name]) => `by ${kind}, ${name}`))];
  byId("sample-table").append(
    el("caption", { class: "hidden" }, "Masks before and after fine-tuning"),
    el("thead", {}, el("tr", {}, ...heads.map((text) => el("th", { scope: "col" }, text)))),
    el("tbody", {}, ...report.samples.map((sample) => el("tr", {},
      el("th", { scope: "row" }, sample.name, el("span", { class: "item-note" }, plural(sample.objects, "object"))),
      picture(sample.image, sample.name),
      picture(sample.truth, `${sample.name}, labelled`),
      ...report.kinds.flatMap((kind) => states.map(([key, name]) => {
        const found = sample[key][kind];
        const note = el("span", { class: "item-note" }, `IoU ${formatFixed(found.iou, 3)}`);
        return picture(found.picture, `${sample.name} by ${kind}, ${name}`, note);
      }))))),
  );
}

showTop(report);
show();
