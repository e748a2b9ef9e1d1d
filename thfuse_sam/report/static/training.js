"use strict";
// The report of a training run: one chart for each column of its log, and samples by epoch.

const report = window.REPORT;

/** Columns of the log that belong into one chart: "train/ssim" and "val/ssim" together. */
function groups() {
  const found = new Map();
  // Losses first; the number of steps is no curve to look at.
  const isLoss = (column) => /^(train|val)\//.test(column);
  const columns = report.columns.filter((column) => column !== "step");
  for (const column of [...columns.filter(isLoss), ...columns.filter((name) => !isLoss(name))]) {
    const [part, ...rest] = column.split("/");
    const isPart = rest.length > 0 && (part === "train" || part === "val");
    const title = isPart ? rest.join("/") : column;
    if (!found.has(title)) found.set(title, []);
    found.get(title).push({ column, name: isPart ? (part === "train" ? "training" : "validation") : "" });
  }
  return found;
}

function show() {
  const last = report.rows[report.rows.length - 1];
  const total = report.columns.includes("val/total") ? "val/total" : "train/total";
  const scored = report.rows.filter((row) => row[total] !== null && row[total] !== undefined);
  document.title = `Training: ${plural(report.rows.length, "epoch")}`;
  const verdict = byId("verdict");
  if (scored.length) {
    const best = scored.reduce((one, other) => (other[total] < one[total] ? other : one));
    const kind = total === "val/total" ? "validation" : "training";
    setText(verdict, [`${plural(last.epoch, "epoch")}. Lowest ${kind} loss `, [formatNumber(best[total])], ` in epoch ${best.epoch}, `,
      `at the end ${formatNumber(scored[scored.length - 1][total])}. Lower is better.`]);
  } else setText(verdict, [plural(report.rows.length, "epoch")]);
  showLegend(byId("legend"), ["training", "validation"]);
  for (const [title, columns] of groups()) {
    const series = columns.map(({ column, name }) => ({
      name,
      colour: name === "validation" ? 1 : 0,
      points: report.rows.flatMap((row) => (typeof row[column] === "number" ? [[row.epoch, row[column]]] : [])),
    })).filter((line) => line.points.length);
    if (series.length) byId("curves").append(lineChart(report.titles[title] || title, series, "epoch"));
  }
  showLog(report);
  showSamples();
}

function showSamples() {
  if (!report.samples.length) return;
  byId("samples").hidden = false;
  const picture = (address, description) => el("td", {}, el("img", { src: address, alt: description, loading: "lazy" }));
  const heads = ["Pair", "infrared", "visible", ...report.sampleEpochs.map((epoch) => `epoch ${epoch}`)];
  byId("sample-table").append(
    el("caption", { class: "hidden" }, "Fused images by epoch"),
    el("thead", {}, el("tr", {}, ...heads.map((text) => el("th", { scope: "col" }, text)))),
    el("tbody", {}, ...report.samples.map((sample) => el("tr", {}, el("th", { scope: "row" }, sample.name),
      picture(sample.ir, `infrared picture of ${sample.name}`), picture(sample.vi, `visible picture of ${sample.name}`),
      ...sample.fused.map((address, index) => picture(address, `${sample.name} fused after epoch ${report.sampleEpochs[index]}`))))),
  );
}

showTop(report);
show();
