"use strict";
// The pictures of one pair: a stage with a divider between any two of them, and all of them side by side below.
// Zoom and pan are three custom properties on the root, so that every picture follows them at once.

class Viewer {
  /** `names`: of the pictures, infrared and visible first, then one for each method. */
  constructor(root, names) {
    this.root = root;
    this.names = names;
    this.solo = null; // number of the picture that has the stage for itself
    this.sides = [0, 2]; // pictures left and right of the divider
    this.split = 50; // percent
    this.zoom = { z: 1, x: 0, y: 0 }; // x, y: shift as a share of the picture's size
    this.pair = null;
    this.masks = { ir: false, vi: false };
    this.build();
    this.setSplit(50);
    this.setZoom(1, 0, 0);
  }

  /** Show a pair of the report. */
  show(pair) {
    this.pair = pair;
    this.root.style.setProperty("--ratio", String(pair.width / pair.height));
    this.title.textContent = pair.name;
    this.size.textContent = `${pair.width} × ${pair.height} px`;
    this.setZoom(1, 0, 0);
    for (const key of ["ir", "vi"]) {
      this.maskBoxes[key].disabled = !this.layerOf(key);
      this.maskNotes[key].textContent = this.layerOf(key) ? "" : " (none)";
    }
    this.draw();
  }

  /** Address of the picture with this number; null where the method has none of this pair. */
  address(index) {
    return index === 0 ? this.pair.ir : index === 1 ? this.pair.vi : this.pair.fused[index - 2];
  }

  layerOf(key) {
    return key === "ir" ? this.pair.irMask : this.pair.viMask;
  }

  build() {
    const option = (name, index) => el("option", { value: index }, name);
    this.title = el("h3", { class: "pair-name" });
    this.size = el("span", { class: "hint" });
    this.selects = ["Left", "Right"].map((label, side) => {
      const select = el("select", { id: `side-${label.toLowerCase()}` }, ...this.names.map(option));
      select.value = String(this.sides[side]);
      select.addEventListener("change", () => { this.sides[side] = Number(select.value); this.solo = null; this.draw(); });
      return el("label", {}, `${label} `, select);
    });
    this.maskBoxes = {};
    this.maskNotes = {};
    const masks = [["ir", "Infrared masks"], ["vi", "Visible masks"]].map(([key, label]) => {
      const box = el("input", { type: "checkbox", id: `masks-${key}` });
      box.addEventListener("change", () => { this.masks[key] = box.checked; this.draw(); });
      this.maskBoxes[key] = box;
      this.maskNotes[key] = el("span", {});
      return el("label", { class: "check" }, box, ` ${label}`, this.maskNotes[key]);
    });
    const button = (text, label, work) => {
      const one = el("button", { type: "button", "aria-label": label, title: label }, text);
      one.addEventListener("click", work);
      return one;
    };
    this.zoomText = el("span", { class: "zoom-text" });
    const zoom = el("span", { class: "zoom", role: "group", "aria-label": "Zoom" },
      button("−", "Zoom out (-)", () => this.zoomAt(0.5, 0.5, 1 / 1.5)), this.zoomText,
      button("+", "Zoom in (+)", () => this.zoomAt(0.5, 0.5, 1.5)),
      button("Reset", "Whole picture (0)", () => this.setZoom(1, 0, 0)));

    this.halves = [0, 1].map((side) => this.makePort(`half ${side ? "over" : "under"}`));
    this.tags = ["left", "right"].map((side) => el("span", { class: `tag ${side}` }));
    this.divider = el("div", { class: "divider", role: "slider", tabindex: 0, "aria-label": "Divider between the two pictures",
      "aria-orientation": "horizontal", "aria-valuemin": 0, "aria-valuemax": 100 }, el("span", { class: "grip", "aria-hidden": "true" }, "⇔"));
    this.stage = el("div", { class: "stage" }, ...this.halves.map((port) => port.element), ...this.tags, this.divider);
    this.listenDivider();
    this.listenPan(this.stage);

    this.panes = this.names.map((name, index) => {
      const port = this.makePort("port");
      this.listenPan(port.element);
      const title = el("button", { type: "button", class: "pane-title", "aria-pressed": "false",
        title: "Show this picture alone on the stage" }, el("kbd", {}, String(index + 1)), ` ${name}`);
      title.addEventListener("click", () => this.toggleSolo(index));
      return { element: el("figure", { class: "pane" }, el("figcaption", {}, title), port.element), port, title };
    });
    this.root.append(
      el("div", { class: "pair-title" }, this.title, this.size, zoom),
      el("div", { class: "controls" }, ...this.selects, ...masks),
      this.stage,
      el("p", { class: "hint keys" }, "Drag the divider. Zoom: Ctrl + wheel or double click, then drag. Keys: ",
        el("kbd", {}, "←"), " ", el("kbd", {}, "→"), " pairs, ", el("kbd", {}, "1"), " ", el("kbd", {}, "2"), " ",
        el("kbd", {}, "3"), " one picture alone, ", el("kbd", {}, "m"), " masks, ", el("kbd", {}, "+"), " ",
        el("kbd", {}, "-"), " ", el("kbd", {}, "0"), " zoom"),
      el("div", { class: "panes" }, ...this.panes.map((pane) => pane.element)),
    );
  }

  /** A frame with one picture and the layers of both modalities' masks. */
  makePort(className) {
    const image = el("img", { draggable: "false", decoding: "async", alt: "" });
    const layers = { ir: el("img", { class: "mask", draggable: "false", alt: "" }), vi: el("img", { class: "mask", draggable: "false", alt: "" }) };
    const missing = el("span", { class: "missing" }, "no picture");
    const element = el("div", { class: className }, el("div", { class: "layer" }, image, layers.ir, layers.vi), missing);
    return { element, image, layers, missing };
  }

  fill(port, index) {
    const address = this.address(index);
    const name = this.names[index];
    port.missing.hidden = address !== null;
    setPicture(port.image, address, `${name} picture of ${this.pair.name}`);
    for (const key of ["ir", "vi"]) {
      // Masks lie over their own image and over fused ones.
      const own = index === (key === "ir" ? 0 : 1);
      const shown = this.masks[key] && (own || index > 1) && address !== null && this.layerOf(key);
      setPicture(port.layers[key], shown ? this.layerOf(key) : null, `${key === "ir" ? "infrared" : "visible"} masks over it`);
    }
  }

  draw() {
    const alone = this.solo !== null;
    const shown = alone ? [this.solo, this.solo] : this.sides;
    // Left of the divider the upper half is clipped away.
    this.halves.forEach((port, side) => this.fill(port, shown[side]));
    this.halves[1].element.hidden = this.divider.hidden = this.tags[1].hidden = alone;
    this.tags.forEach((tag, side) => { tag.textContent = this.names[shown[side]]; });
    this.divider.setAttribute("aria-valuetext", `${Math.round(this.split)} % ${this.names[shown[0]]}, the rest ${this.names[shown[1]]}`);
    this.selects.forEach((label, side) => { label.querySelector("select").value = String(this.sides[side]); });
    this.panes.forEach((pane, index) => {
      this.fill(pane.port, index);
      pane.title.setAttribute("aria-pressed", String(this.solo === index));
    });
    for (const key of ["ir", "vi"]) this.maskBoxes[key].checked = this.masks[key];
  }

  toggleSolo(index) {
    if (index >= this.names.length) return;
    this.solo = this.solo === index ? null : index;
    this.draw();
  }

  toggleMasks() {
    const on = !(this.masks.ir || this.masks.vi);
    this.masks = { ir: on, vi: on };
    this.draw();
  }

  setSplit(percent) {
    this.split = Math.min(100, Math.max(0, percent));
    this.stage.style.setProperty("--split", `${this.split}%`);
    this.divider.setAttribute("aria-valuenow", String(Math.round(this.split)));
    if (this.pair) this.divider.setAttribute("aria-valuetext",
      `${Math.round(this.split)} % ${this.names[this.sides[0]]}, the rest ${this.names[this.sides[1]]}`);
  }

  setZoom(z, x, y) {
    z = Math.min(16, Math.max(1, z));
    const limit = (value) => Math.min(0, Math.max(1 - z, value));
    this.zoom = { z, x: limit(x), y: limit(y) };
    for (const [key, value] of Object.entries(this.zoom)) this.root.style.setProperty(`--${key}`, String(value));
    this.root.classList.toggle("zoomed", z > 1);
    this.root.classList.toggle("pixels", z >= 4);
    this.zoomText.textContent = `${z.toFixed(1)}×`;
  }

  /** Zoom by `factor` such that the point (px, py), shares of the frame, stays where it is. */
  zoomAt(px, py, factor) {
    const { z, x, y } = this.zoom;
    const next = Math.min(16, Math.max(1, z * factor));
    this.setZoom(next, px - (px - x) * (next / z), py - (py - y) * (next / z));
  }

  listenDivider() {
    const move = (event) => {
      const box = this.stage.getBoundingClientRect();
      this.setSplit(((event.clientX - box.left) / box.width) * 100);
    };
    this.divider.addEventListener("pointerdown", (event) => {
      event.stopPropagation(); // not a pan
      event.preventDefault();
      this.divider.focus({ preventScroll: true });
      this.divider.setPointerCapture(event.pointerId);
    });
    this.divider.addEventListener("pointermove", (event) => {
      if (this.divider.hasPointerCapture(event.pointerId)) move(event);
    });
    this.divider.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -2, ArrowRight: 2, PageDown: -10, PageUp: 10, Home: -100, End: 100 }[event.key];
      if (step === undefined) return;
      event.preventDefault();
      event.stopPropagation(); // not the next pair
      this.setSplit(this.split + step);
    });
  }

  /** Drag, pinch, Ctrl + wheel and double click on one frame; all frames follow. */
  listenPan(frame) {
    const fingers = new Map(); // pointer id -> last position
    const share = (event) => {
      const box = frame.getBoundingClientRect();
      return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
    };
    const spanOf = () => {
      const [a, b] = [...fingers.values()];
      return Math.hypot(a[0] - b[0], a[1] - b[1]);
    };
    frame.addEventListener("pointerdown", (event) => {
      fingers.set(event.pointerId, share(event));
      if (this.zoom.z > 1 || fingers.size > 1) frame.setPointerCapture(event.pointerId);
    });
    frame.addEventListener("pointermove", (event) => {
      const before = fingers.get(event.pointerId);
      if (!before) return;
      const at = share(event);
      if (fingers.size === 2) {
        const span = spanOf();
        fingers.set(event.pointerId, at);
        const [a, b] = [...fingers.values()];
        this.zoomAt((a[0] + b[0]) / 2, (a[1] + b[1]) / 2, spanOf() / Math.max(span, 1e-6));
      } else {
        fingers.set(event.pointerId, at);
        this.setZoom(this.zoom.z, this.zoom.x + at[0] - before[0], this.zoom.y + at[1] - before[1]);
      }
    });
    for (const name of ["pointerup", "pointercancel", "pointerleave"]) {
      frame.addEventListener(name, (event) => fingers.delete(event.pointerId));
    }
    frame.addEventListener("wheel", (event) => {
      if (!event.ctrlKey && !event.metaKey) return; // the page scrolls
      event.preventDefault();
      this.zoomAt(...share(event), Math.exp(-event.deltaY * 0.005));
    }, { passive: false });
    frame.addEventListener("dblclick", (event) => {
      if (this.zoom.z > 1) this.setZoom(1, 0, 0);
      else this.zoomAt(...share(event), 3);
    });
  }
}

function setPicture(image, address, description) {
  image.hidden = !address;
  image.alt = address ? description : "";
  if (!address) image.removeAttribute("src");
  else if (image.getAttribute("src") !== address) image.setAttribute("src", address);
}
