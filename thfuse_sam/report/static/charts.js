"use strict";
// Small charts as SVG: strips of dots, lines over epochs, histograms. Colours are the classes c0, c1, ... of report.css.

const SERIES_COLOURS = 8;

function seriesClass(index) {
  return `c${index % SERIES_COLOURS}`;
}

/** Round tick values that cover [low, high], each with a label of as many decimals as tell it from its neighbours. */
function ticks(low, high, wanted) {
  const step0 = (high - low || Math.abs(high) || 1) / wanted;
  const power = 10 ** Math.floor(Math.log10(step0));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((value) => value >= step0);
  const found = [];
  for (let count = Math.ceil(low / step); count * step <= high + step * 1e-6; count++) {
    found.push(count * step);  // a sum of steps would miss whole numbers
  }
  const digits = (value) => Math.floor(Math.log10(value) + 1e-9);
  const decimals = Math.max(0, -digits(step));
  const largest = Math.max(...found.map(Math.abs), step);
  const label = (value) => (largest < 0.001 || largest >= 100000) && value !== 0
    ? value.toExponential(Math.max(0, digits(Math.abs(value)) - digits(step))) : value.toFixed(decimals);
  return found.map((value) => [value, label(value)]);
}

/**
 * One metric of all pairs: a row of dots for each method.
 * `rows`: values of each method (null: none), `mean`: of each method, `choose(pair index)` is called after a click.
 * Returns {figure, mark(pair index)}.
 */
function stripPlot(metric, names, rows, means, choose) {
  const width = 290, left = 8, right = 8, rowHeight = 24, top = 4;
  const height = top + rowHeight * rows.length + 18;
  const present = rows.flat().filter((value) => value !== null);
  if (!present.length) return null;
  let low = Math.min(...minMax(present)), high = Math.max(...minMax(present));
  if (low === high) { low -= Math.abs(low) * 0.05 || 1; high += Math.abs(high) * 0.05 || 1; }
  const x = (value) => left + ((value - low) / (high - low)) * (width - left - right);
  const drawing = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", class: "chart pointed",
    "aria-label": `${metric.key} of every pair, ${metric.better} is better: ${names.map((name, i) => `${name} mean ${formatNumber(means[i])}`).join(", ")}` });
  for (const [value, label] of ticks(low, high, 4)) {
    drawing.append(svg("line", { class: "grid", x1: x(value), x2: x(value), y1: 0, y2: height - 14 }));
    drawing.append(svg("text", { class: "tick", x: Math.min(Math.max(x(value), 14), width - 14), y: height - 3,
      "text-anchor": "middle" }, label));
  }
  rows.forEach((values, row) => {
    const middle = top + rowHeight * (row + 0.5);
    // One path for all dots: thousands of them must not be thousands of elements.
    const dots = values.map((value, pair) => (value === null ? "" :
      `M${x(value).toFixed(1)} ${(middle + spread(pair) * rowHeight * 0.28).toFixed(1)}h0`)).join("");
    drawing.append(svg("path", { class: `dots ${seriesClass(row)}`, d: dots }));
    if (means[row] !== null) {
      drawing.append(svg("line", { class: `mean ${seriesClass(row)}`, x1: x(means[row]), x2: x(means[row]),
        y1: middle - rowHeight * 0.46, y2: middle + rowHeight * 0.46 }));
    }
  });
  const rings = rows.map((_, row) => svg("circle", { class: `ring ${seriesClass(row)}`, r: 5, visibility: "hidden" }));
  drawing.append(...rings);
  const position = (row, pair) => [x(rows[row][pair]), top + rowHeight * (row + 0.5) + spread(pair) * rowHeight * 0.28];
  drawing.addEventListener("click", (event) => {
    const box = drawing.getBoundingClientRect();
    const at = [((event.clientX - box.left) / box.width) * width, ((event.clientY - box.top) / box.height) * height];
    let best = null, distance = Infinity;
    rows.forEach((values, row) => values.forEach((value, pair) => {
      if (value === null) return;
      const [px, py] = position(row, pair);
      const there = (px - at[0]) ** 2 + (py - at[1]) ** 2;
      if (there < distance) { distance = there; best = pair; }
    }));
    if (best !== null) choose(best);
  });
  const arrow = metric.better === "higher" ? "↑" : "↓";
  const figure = el("figure", { class: "strip" },
    el("figcaption", {}, el("strong", {}, `${metric.key} ${arrow}`), ` ${metric.title}`), drawing);
  return {
    figure,
    mark(pair) {
      rings.forEach((ring, row) => {
        const there = rows[row][pair] !== null;
        ring.setAttribute("visibility", there ? "visible" : "hidden");
        if (there) setAttributes(ring, { cx: position(row, pair)[0], cy: position(row, pair)[1] });
      });
    },
  };
}

/** A fixed scatter in [-1, 1], so that equal values do not hide each other. */
function spread(index) {
  return (((index * 0.6180339887) % 1) - 0.5) * 2;
}

// Math.min(...values) fails on very long lists.
function minMax(values) {
  return values.reduce(([low, high], value) => [Math.min(low, value), Math.max(high, value)], [Infinity, -Infinity]);
}

/** Curves over epochs. `series`: {name, points: [[x, y], ...], colour}. */
function lineChart(title, series, xLabel) {
  const width = 380, height = 210, left = 52, right = 12, top = 10, bottom = 34;
  const points = series.flatMap((line) => line.points);
  const [xLow, xHigh] = minMax(points.map((point) => point[0]));
  let [yLow, yHigh] = minMax(points.map((point) => point[1]));
  if (yLow === yHigh) { yLow -= Math.abs(yLow) * 0.1 || 1; yHigh += Math.abs(yHigh) * 0.1 || 1; }
  const x = (value) => left + (xHigh === xLow ? 0.5 : (value - xLow) / (xHigh - xLow)) * (width - left - right);
  const y = (value) => top + (1 - (value - yLow) / (yHigh - yLow)) * (height - top - bottom);
  const summary = series.map((line) => `${line.name} ends at ${formatNumber(line.points[line.points.length - 1][1])}`.trim());
  const drawing = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", class: "chart",
    "aria-label": `${title} by ${xLabel}: ${summary.join(", ")}` });
  for (const [value, label] of ticks(yLow, yHigh, 4)) {
    drawing.append(svg("line", { class: "grid", x1: left, x2: width - right, y1: y(value), y2: y(value) }));
    drawing.append(svg("text", { class: "tick", x: left - 6, y: y(value) + 4, "text-anchor": "end" }, label));
  }
  const whole = ticks(xLow, xHigh, 6).filter(([value]) => Number.isInteger(value));
  for (const [value] of whole) {
    drawing.append(svg("text", { class: "tick", x: x(value), y: height - 18, "text-anchor": "middle" }, String(value)));
  }
  drawing.append(svg("text", { class: "tick", x: (left + width - right) / 2, y: height - 3, "text-anchor": "middle" }, xLabel));
  for (const line of series) {
    const path = line.points.map(([px, py], index) => `${index ? "L" : "M"}${x(px).toFixed(1)} ${y(py).toFixed(1)}`).join("");
    drawing.append(svg("path", { class: `line ${seriesClass(line.colour)}${line.dashed ? " dashed" : ""}`, d: path }));
    if (line.points.length < 60) {
      const dots = line.points.map(([px, py]) => `M${x(px).toFixed(1)} ${y(py).toFixed(1)}h0`).join("");
      drawing.append(svg("path", { class: `dots ${seriesClass(line.colour)}`, d: dots }));
    }
  }
  return el("figure", { class: "plot" }, el("figcaption", {}, el("strong", {}, title), ` ${summary.join(", ")}`), drawing);
}

/** Bars of several series over shared bins. `edges`: bin limits (one more than bins); `labels`: of the edges. */
function histogram(title, note, labels, series, yLabel) {
  const width = 380, height = 200, left = 44, right = 12, top = 10, bottom = 34;
  const bins = labels.length - 1;
  const highest = Math.max(1, ...series.flatMap((one) => one.counts));
  const step = (width - left - right) / bins;
  const bar = Math.max(1, (step - 2) / series.length);
  const y = (value) => top + (1 - value / highest) * (height - top - bottom);
  const drawing = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", class: "chart",
    "aria-label": `Histogram, ${title}. ${note}` });
  for (const [value] of ticks(0, highest, 4).filter(([tick]) => Number.isInteger(tick))) {
    drawing.append(svg("line", { class: "grid", x1: left, x2: width - right, y1: y(value), y2: y(value) }));
    drawing.append(svg("text", { class: "tick", x: left - 6, y: y(value) + 4, "text-anchor": "end" }, formatNumber(value)));
  }
  const every = Math.ceil(labels.length / 7);
  labels.forEach((label, index) => {
    if (index % every) return;
    drawing.append(svg("text", { class: "tick", x: left + index * step, y: height - 18, "text-anchor": "middle" }, label));
  });
  drawing.append(svg("text", { class: "tick", x: (left + width - right) / 2, y: height - 3, "text-anchor": "middle" }, yLabel));
  series.forEach((one, which) => one.counts.forEach((count, bin) => {
    if (!count) return;
    const rectangle = svg("rect", { class: `bar ${seriesClass(one.colour)}`, x: left + bin * step + 1 + which * bar,
      y: y(count), width: bar, height: height - bottom - y(count) });
    rectangle.append(svg("title", {}, `${one.name}, ${labels[bin]} to ${labels[bin + 1]}: ${count}`));
    drawing.append(rectangle);
  }));
  return el("figure", { class: "plot" }, el("figcaption", {}, el("strong", {}, title), ` ${note}`), drawing);
}

/** A line of colour samples with names. */
function showLegend(element, names) {
  element.replaceChildren(...names.map((name, index) => el("span", { class: "key" },
    el("span", { class: `swatch ${seriesClass(index)}`, "aria-hidden": "true" }), name)));
}

/** All numbers of a training log. */
function showLog(report) {
  const columns = ["epoch", ...report.columns].map((name) => ({
    label: name, title: name, numeric: true, value: (row) => row[name], cell: (row) => formatNumber(row[name]),
  }));
  showTable(byId("rows"), columns, report.rows, "The training log");
}
