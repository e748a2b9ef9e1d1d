"use strict";
// The report of a mask tree: counts, histograms, images to look at, and a contact sheet.

const report = window.REPORT;
const PAGE = 24; // cards at once

function percent(share) {
  return share === null ? "–" : `${(share * 100).toFixed(share < 0.1 ? 1 : 0)} %`;
}

function show() {
  const images = report.modalities.reduce((sum, one) => sum + one.images, 0);
  const masks = report.modalities.reduce((sum, one) => sum + one.masks, 0);
  const complete = images === masks;
  document.title = `Masks of ${plural(images, "image")}`;
  setText(byId("verdict"), [[complete ? `All ${plural(images, "image")} have masks` : `${masks.toLocaleString("en")} of ${plural(images, "image")} have masks`],
    ...report.modalities.filter((one) => one.masks).map((one) =>
      `; ${one.title} images: ${formatNumber(one.medianSegments)} segments, ${percent(one.medianCoverage)} covered (medians)`), "."]);
  const column = (label, title, key, format = formatNumber) => ({ label, title, numeric: true, value: (row) => row[key], cell: (row) => format(row[key]) });
  showTable(byId("counts"), [
    { label: "Modality", title: "Kind of image", value: (row) => row.title, cell: (row) => row.title },
    column("Images", "Images of the data set", "images"),
    column("Masks", "Images with a readable mask", "masks"),
    column("Without segments", "Masks in which nothing was found", "empty"),
    column("Segments, median", "Segments in an image", "medianSegments"),
    column("Segments, most", "Segments in an image", "mostSegments"),
    column("Coverage, median", "Share of an image that lies in a segment", "medianCoverage", percent),
    column("Segment size, median", "Share of its image that a segment covers", "medianSize", (value) => (value === null ? "–" : `${(value * 100).toFixed(2)} %`)),
  ], report.modalities, "Masks by modality");
  showLegend(byId("legend"), report.modalities.map((one) => one.title));
  for (const chart of report.histograms) {
    byId("histograms").append(histogram(chart.title, chart.note, chart.labels,
      chart.counts.map((counts, index) => ({ name: report.modalities[index].title, counts, colour: index })), chart.axis));
  }
  const { failed, missing, unreadable, empty } = report.problems;
  showItems(byId("failed"), failed, `${plural(failed.length, "image")} failed`);
  showItems(byId("missing"), missing, `${plural(missing.length, "image")} without a mask`);
  showItems(byId("unreadable"), unreadable, `${plural(unreadable.length, "unreadable mask")}`);
  showItems(byId("empty"), empty, `${plural(empty.length, "mask")} without a segment`);
  byId("no-problem").hidden = failed.length + missing.length + unreadable.length + empty.length > 0;
  byId("failed").open = true;
}

function card(entry) {
  const frame = el("div", { class: "frame" }, el("img", { src: entry.picture, alt: `${entry.title} image ${entry.name}`, loading: "lazy" }),
    el("img", { class: "mask", src: entry.mask, alt: `masks of ${entry.name}`, loading: "lazy" }));
  return el("li", {}, frame, el("p", { class: "item-name" }, `${entry.title}: ${entry.name}`),
    el("p", { class: "item-note" }, entry.segments ? `${plural(entry.segments, "segment")}, ${percent(entry.coverage)} covered` : "no segment"));
}

function setMasks(on) {
  byId("masks").checked = on;
  byId("cards").classList.toggle("bare", !on);
}

showTop(report);
show();
if (report.cards.length) {
  byId("sheet-hint").textContent = `${plural(report.cards.length, "image")}, spread evenly over the data set.`;
  pager(PAGE, () => report.cards.length, (first, last) => {
    byId("cards").replaceChildren(...report.cards.slice(first, last).map(card));
  }, "image").reset();
  byId("masks").addEventListener("change", () => setMasks(byId("masks").checked));
  document.addEventListener("keydown", (event) => {
    if (!isTyping(event) && event.key === "m") setMasks(!byId("masks").checked);
  });
  setMasks(true);
} else byId("sheet").hidden = true;
