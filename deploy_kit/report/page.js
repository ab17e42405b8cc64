// The page's behaviour: views, filters, sorting, links to cells, and plots. All data is in the page; nothing is asked for.
"use strict";
(() => {
  const $ = (selector, root = document) => root.querySelector(selector);
  const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];
  const data = JSON.parse($("#view").textContent);
  const cells = new Map(data.cells.map((cell) => [cell.id, cell]));
  const views = $$(".view").map((view) => view.id);
  const filters = $("#filters");
  const NAMES = ["model", "target", "precision", "outcome", "device"];
  const state = { view: "overview", cell: "", q: "", setup: "" };
  for (const name of NAMES) state[name] = "";
  let visible = new Set(cells.keys());

  // What is shown is in the address: it survives a reload, and can be sent to somebody.
  const DEFAULTS = { ...state };
  const tidy = (text) => encodeURIComponent(text).replace(/%2F/g, "/").replace(/%40/g, "@").replace(/%3A/g, ":");

  function address() {
    const set = Object.keys(state).filter((key) => state[key] !== DEFAULTS[key]);
    const first = ["cell", "view"].filter((key) => set.includes(key));
    const rest = set.filter((key) => !first.includes(key));
    return "#" + [...first, ...rest].map((key) => `${key}=${tidy(state[key])}`).join("&");
  }

  function decoded(text) {
    try {
      return decodeURIComponent(text);
    } catch (error) {
      return text;
    }
  }

  function readAddress() {
    Object.assign(state, DEFAULTS);
    const text = location.hash.slice(1);
    if (views.includes(text)) state.view = text;
    for (const part of text.split("&")) {
      const [key, ...value] = part.split("=");
      if (Object.hasOwn(DEFAULTS, key) && value.length) state[key] = decoded(value.join("="));
    }
    if (!views.includes(state.view)) state.view = "overview";
    if (!data.setups.includes(state.setup)) state.setup = "";
    show();
  }

  let written = null;
  function write(replace = false) {
    const text = address();
    if (text === (location.hash || "#")) return;
    written = text;
    if (replace) location.replace(text);
    else location.hash = text;
  }
  addEventListener("hashchange", () => {
    if (written !== null && written === (location.hash || "#")) written = null;
    else readAddress();
  });

  // Of a cell and a setup: the p50, whether it is valid, the energy, whether it is of another file. Numbers in words, as the tables have them.
  const ms = (value) => (value >= 100 ? Math.round(value).toLocaleString("en") : value.toPrecision(3));
  const round = (text) => text.replace(/(\.\d*?)0+(?!\d)/, "$1").replace(/\.(?!\d)/, "");
  const size = (value) => (value >= 1e6 ? `${(value / 1e6).toLocaleString("en", { minimumFractionDigits: 1, maximumFractionDigits: 1 })} MB` : `${(value / 1e3).toFixed(1)} kB`);
  const sci = (value) => value.toExponential(1);
  const percent = (value) => `${(100 * value).toFixed(1)}%`;
  // The data has setups by their place; an address has them by name, as there may be more of them in a later page.
  const chosen = () => Math.max(data.setups.indexOf(state.setup), 0);
  const time = (cell) => cell.times[chosen()];

  // Filters.
  function options(select, values, all) {
    select.replaceChildren(new Option(all, ""), ...values.map((value) => new Option(value, value)));
  }
  for (const name of NAMES) {
    const all = data.cells.flatMap((cell) => (name === "device" ? cell.devices : [cell[name]]));
    options(filters.elements[name], [...new Set(all)].sort(), `Any ${name}`);
    filters.elements[name].closest("label").hidden = new Set(all).size === 0;
  }
  filters.elements.setup.replaceChildren(...data.setups.map((setup) => new Option(setup, setup)));
  filters.elements.setup.closest("label").hidden = data.setups.length < 2;

  function matches(cell) {
    if (state.q && !state.q.toLowerCase().split(/\s+/).every((word) => cell.text.includes(word))) return false;
    return NAMES.every((name) => {
      if (!state[name]) return true;
      return name === "device" ? cell.devices.includes(state.device) : cell[name] === state[name];
    });
  }

  function filter() {
    visible = new Set(data.cells.filter(matches).map((cell) => cell.id));
    const filtered = visible.size < cells.size;
    for (const row of $$("tr[data-cell]")) {
      const ours = cells.has(row.dataset.cell) ? visible.has(row.dataset.cell) : !filtered;
      row.hidden = !ours || Boolean(state.device && row.dataset.device && row.dataset.device !== state.device);
    }
    for (const link of $$("#matrix a")) link.hidden = !visible.has(link.dataset.cell);
    for (const row of $$("#matrix tbody tr")) row.hidden = !$("a:not([hidden])", row);
    columns();
    $("#count").textContent = filtered ? `${visible.size} of ${cells.size} cells` : `${cells.size} cells`;
    $(".none-left").hidden = visible.size > 0;
  }

  function columns() {
    const used = new Set();
    for (const id of visible) used.add(`${cells.get(id).target}\n${cells.get(id).precision}`);
    const key = (each) => `${each.dataset.target}\n${each.dataset.precision}`;
    for (const each of $$("#matrix [data-precision]")) each.hidden = !used.has(key(each));
    for (const head of $$("#matrix thead tr:first-child th[data-target]")) {
      const mine = $$("#matrix thead th[data-precision]:not([hidden])").filter((th) => th.dataset.target === head.dataset.target);
      head.hidden = mine.length === 0;
      if (mine.length) head.colSpan = mine.length;
    }
  }

  let typing = 0;
  function typed() {
    clearTimeout(typing);
    if (typing) write(true);
    typing = 0;
  }
  filters.addEventListener("input", (event) => {
    if (!event.target.name) return;
    state[event.target.name] = event.target.value;
    clearTimeout(typing);
    typing = setTimeout(typed, 250);
    show();
  });
  filters.addEventListener("submit", (event) => event.preventDefault());
  function reset() {
    for (const name of ["q", ...NAMES]) state[name] = "";
    write(true);
    show();
  }
  filters.addEventListener("reset", (event) => {
    event.preventDefault();
    reset();
  });
  $("[data-reset]").addEventListener("click", reset);
  if (matchMedia("(max-width: 720px)").matches) $(".more", filters).open = false;

  // The latency of the chosen setup, in the table and in the matrix.
  let shownSetup = 0;
  function setup() {
    for (const each of $$("[data-setup]")) each.textContent = data.setups[chosen()] || "";
    if (shownSetup === chosen()) return;
    shownSetup = chosen();
    for (const row of $$("#cell-table tbody tr")) {
      const found = time(cells.get(row.dataset.cell));
      $("[data-latency]", row).replaceChildren(...latency(found));
      const energy = found && found[2] !== null;
      $("[data-energy]", row).replaceChildren(span(energy && !found[1] ? "doubtful" : "", energy ? ms(found[2]) : "–"));
    }
    for (const link of $$("#matrix a")) {
      const found = time(cells.get(link.dataset.cell));
      $(".latency", link).replaceChildren(...latency(found), found ? " ms" : "");
    }
  }
  const span = (name, text) => Object.assign(document.createElement("span"), { className: name, textContent: text });
  function latency(found) {
    if (!found) return [span("absent", "–")];
    const figure = span(found[1] ? "figure" : "figure doubtful", ms(found[0]));
    if (!found[1]) return [figure, " ", span("flag", "invalid")];
    return found[3] ? [figure, " ", span("flag", "other file")] : [figure];
  }

  // Sorting: by a click on a column's name, again for the other way; what has no figure comes last.
  const VALUES = {
    bytes: (cell) => cell.bytes,
    error: (cell) => cell.error,
    accuracy: (cell) => cell.accuracy,
    findings: (cell) => -cell.findings,
    latency: (cell) => (time(cell) ? time(cell)[0] : null),
    energy: (cell) => (time(cell) ? time(cell)[2] : null),
  };
  function valueOf(row, index, key) {
    const cell = cells.get(row.dataset.cell);
    if (VALUES[key]) return VALUES[key](cell);
    const place = row.cells[index];
    if (place.dataset.value !== undefined) return place.dataset.value === "" ? null : Number(place.dataset.value);
    return place.textContent.trim();
  }
  function sort(table, head) {
    const key = head.dataset.key;
    const index = head.cellIndex;
    const direction = head.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
    for (const other of head.parentElement.cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", direction);
    const sign = direction === "ascending" ? 1 : -1;
    const rows = [...table.tBodies[0].rows].map((row) => [valueOf(row, index, key), row]);
    const text = new Intl.Collator("en", { numeric: true }).compare;
    rows.sort(([a], [b]) => {
      if (a === null || b === null) return (a === null) - (b === null);
      return sign * (typeof a === "number" && typeof b === "number" ? a - b : text(String(a), String(b)));
    });
    table.tBodies[0].append(...rows.map(([, row]) => row));
  }
  for (const table of $$("table[data-sortable]")) {
    for (const head of $$("thead th[data-key]", table)) {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => sort(table, head));
    }
  }

  // A cell in detail: its part of the page, in a drawer. Ids are those of links that work without a script.
  const details = new Map($$("[data-detail]").map((article) => [article.dataset.detail, article]));
  const drawer = $("#drawer");
  const body = $("#drawer-body");
  let homeOf = null;
  function putBack() {
    if (homeOf) homeOf.append(body.firstElementChild);
    homeOf = null;
  }
  function open() {
    const article = details.get(state.cell);
    if (!article) {
      if (drawer.open) drawer.close();
      return;
    }
    if (body.firstElementChild === article) return;
    putBack();
    homeOf = article.parentElement;
    body.append(article);
    for (const place of $$("[data-samples]", article)) samples(place);
    for (const block of $$("pre", article)) copyable(block);
    if (!drawer.open) drawer.showModal();
    drawer.scrollTop = 0;
    requestAnimationFrame(() => (drawer.scrollTop = 0));
    document.title = `${state.cell} · deploykit report`;
  }
  const title = document.title;
  drawer.addEventListener("close", () => {
    putBack();
    document.title = title;
    if (state.cell) {
      state.cell = "";
      write();
    }
  });
  drawer.addEventListener("click", (event) => {
    if (event.target === drawer) drawer.close();
  });
  $("#close").addEventListener("click", () => drawer.close());
  $("#copy-link").addEventListener("click", (event) => {
    copy(`${location.href.split("#")[0]}#cell=${tidy(state.cell)}`, event.currentTarget);
  });
  function copyable(block) {
    if ($(".copy", block)) return;
    const button = Object.assign(document.createElement("button"), { type: "button", className: "copy", textContent: "Copy" });
    button.addEventListener("click", () => copy($("code", block).textContent, button));
    block.append(button);
  }
  function copy(text, button) {
    const said = button.textContent;
    const say = (words) => {
      button.textContent = words;
      setTimeout(() => (button.textContent = said), 1200);
    };
    if (!navigator.clipboard) say("Copy it by hand");
    else navigator.clipboard.writeText(text).then(() => say("Copied"), () => say("Copy it by hand"));
  }

  document.addEventListener("click", (event) => {
    const link = event.target.closest("a[href^='#']");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
    const target = link.getAttribute("href").slice(1);
    if (target.startsWith("cell=")) {
      event.preventDefault();
      go({ cell: decoded(target.slice(5)) });
    } else if (views.includes(target)) {
      event.preventDefault();
      go({ view: target });
      scrollTo(0, 0);
    }
  });
  function go(change) {
    typed();
    Object.assign(state, change);
    write();
    show();
  }

  // Colours.
  const themes = ["auto", "light", "dark"];
  const theme = $("#theme");
  const current = () => document.documentElement.dataset.theme || "auto";
  const sayTheme = () => (theme.textContent = `Theme: ${current()}`);
  theme.addEventListener("click", () => {
    const next = themes[(themes.indexOf(current()) + 1) % themes.length];
    if (next === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = next;
    try {
      localStorage.setItem("deploykit-theme", next);
    } catch (error) {
      // kept for this visit alone
    }
    sayTheme();
  });
  sayTheme();

  for (const button of $$("#shows button")) {
    button.addEventListener("click", () => {
      $("#matrix").dataset.show = button.dataset.show;
      for (const each of $$("#shows button")) each.setAttribute("aria-pressed", String(each === button));
    });
  }

  // Plots.
  const SVG = "http://www.w3.org/2000/svg";
  function make(name, attributes = {}, text = null) {
    const element = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    if (text !== null) element.textContent = text;
    return element;
  }
  const colour = (index) => `var(--c${index % 8})`;
  const SHAPES = ["circle", "square", "triangle", "diamond", "down", "plus", "bar", "star"];
  function mark(shape, x, y, r, style) {
    const paths = {
      square: `M${x - r} ${y - r}h${2 * r}v${2 * r}h${-2 * r}z`,
      triangle: `M${x} ${y - 1.2 * r}L${x + 1.15 * r} ${y + r}H${x - 1.15 * r}z`,
      down: `M${x} ${y + 1.2 * r}L${x + 1.15 * r} ${y - r}H${x - 1.15 * r}z`,
      diamond: `M${x} ${y - 1.35 * r}L${x + 1.35 * r} ${y}L${x} ${y + 1.35 * r}L${x - 1.35 * r} ${y}z`,
      plus: `M${x - r} ${y - r / 3}h${r * 0.67}v${-r * 0.67}h${r * 0.67}v${r * 0.67}h${r * 0.67}v${r * 0.67}h${-r * 0.67}v${r * 0.67}h${-r * 0.67}v${-r * 0.67}h${-r * 0.67}z`,
      bar: `M${x - r * 0.5} ${y - 1.3 * r}h${r}v${2.6 * r}h${-r}z`,
      star: `M${x} ${y - 1.4 * r}L${x + 0.4 * r} ${y - 0.4 * r}L${x + 1.4 * r} ${y}L${x + 0.4 * r} ${y + 0.4 * r}L${x} ${y + 1.4 * r}L${x - 0.4 * r} ${y + 0.4 * r}L${x - 1.4 * r} ${y}L${x - 0.4 * r} ${y - 0.4 * r}z`,
    };
    return shape === "circle" ? make("circle", { cx: x, cy: y, r, ...style }) : make("path", { d: paths[shape], ...style });
  }
  const solid = (index) => ({ fill: colour(index), "fill-opacity": 0.75, stroke: colour(index), "stroke-width": 1 });
  const hollow = (index) => ({ fill: "none", stroke: colour(index), "stroke-width": 1.4, "stroke-dasharray": "2 2" });

  // Those values whose labels have room beside each other.
  function apart(ticks, at, room) {
    const kept = [];
    for (const tick of ticks) if (!kept.length || Math.abs(at(tick) - at(kept[kept.length - 1])) >= room) kept.push(tick);
    return kept;
  }

  function scale(values, low, high, logarithmic) {
    let first = Math.min(...values);
    let last = Math.max(...values);
    if (logarithmic) {
      first /= 1.25;
      last *= 1.25;
      const ticksAt = (steps) => {
        const powers = [];
        for (let power = Math.floor(Math.log10(first)); power <= Math.ceil(Math.log10(last)); power += 1) powers.push(power);
        return powers.flatMap((power) => steps.map((step) => step * 10 ** power)).filter((tick) => tick >= first && tick <= last);
      };
      const choices = [[1], [1, 2, 5], [1, 1.5, 2, 3, 4, 5, 6, 8], Array.from({ length: 90 }, (_, index) => 1 + index / 10)];
      const ticks = choices.map(ticksAt).find((found, index) => found.length >= 3 || index === 3);
      const at = (value) => low + ((Math.log(value) - Math.log(first)) / (Math.log(last) - Math.log(first))) * (high - low);
      return { at, ticks: apart(ticks, at, low < high ? 60 : 24) };
    }
    const room = (last - first || Math.abs(last) || 1) * 0.08;
    [first, last] = [first - room, last + room];
    const raw = (last - first) / 5;
    const power = 10 ** Math.floor(Math.log10(raw));
    const step = power * [1, 2, 5, 10].find((each) => each * power >= raw);
    const ticks = [];
    for (let tick = Math.ceil(first / step) * step; tick <= last; tick += step) ticks.push(Number(tick.toPrecision(12)));
    return { at: (value) => low + ((value - first) / (last - first)) * (high - low), ticks };
  }

  const tip = $("#tip");
  function explain(element, text, id) {
    element.classList.add("point");
    element.append(make("title", {}, text));
    element.addEventListener("pointerenter", (event) => {
      tip.textContent = text;
      tip.hidden = false;
      const width = tip.offsetWidth;
      tip.style.left = `${Math.max(8, Math.min(event.clientX + 14, innerWidth - width - 8))}px`;
      tip.style.top = `${Math.min(event.clientY + 16, innerHeight - tip.offsetHeight - 8)}px`;
    });
    element.addEventListener("pointerleave", () => (tip.hidden = true));
    if (id) element.addEventListener("click", () => ((tip.hidden = true), go({ cell: id })));
    return element;
  }

  function fill(figure, heading, note, parts) {
    const head = Object.assign(document.createElement("h3"), { textContent: heading });
    const text = Object.assign(document.createElement("p"), { textContent: note });
    figure.replaceChildren(head, text, ...parts);
  }
  function legend(items) {
    const list = Object.assign(document.createElement("ul"), { className: "legend" });
    for (const { shape, index, text, open: isOpen } of items) {
      const item = document.createElement("li");
      const svg = make("svg", { viewBox: "0 0 14 14", "aria-hidden": "true" });
      svg.append(mark(shape, 7, 7, 4.2, isOpen ? hollow(index) : solid(index)));
      item.append(svg, text);
      list.append(item);
    }
    return list;
  }
  const shownCells = () => data.cells.filter((cell) => visible.has(cell.id));
  const distinct = (key) => [...new Set(data.cells.map((cell) => cell[key]))].sort();
  const precisions = distinct("precision").sort((a, b) => "fp32fp16int8".indexOf(a) - "fp32fp16int8".indexOf(b));
  const targets = distinct("target");

  // A row a target, a mark a cell: what lies on top of each other is moved apart.
  function byTarget(figure, heading, note, nothing, valueOfCell, show, unit) {
    const points = [];
    for (const cell of shownCells()) {
      const found = valueOfCell(cell);
      if (found && found.value > 0) points.push({ cell, ...found });
    }
    if (!points.length) return fill(figure, heading, nothing, []);
    const rows = targets.filter((target) => points.some((point) => point.cell.target === target));
    const width = Math.max(figure.clientWidth - 40, 260);
    const left = Math.min(Math.max(...rows.map((row) => row.length)) * 7 + 16, width * 0.34);
    const axis = scale(points.map((point) => point.value), left + 8, width - 14, true);
    const laid = new Map(rows.map((row) => [row, []]));
    const heights = new Map();
    for (const row of rows) {
      const mine = points.filter((point) => point.cell.target === row).sort((a, b) => a.value - b.value);
      const lanes = [];
      for (const point of mine) {
        const x = axis.at(point.value);
        let lane = lanes.findIndex((last) => x - last >= 9);
        if (lane < 0 && lanes.length < 9) lane = lanes.push(-Infinity) - 1;
        if (lane < 0) lane = lanes.indexOf(Math.min(...lanes));
        lanes[lane] = x;
        laid.get(row).push({ ...point, x, lane });
      }
      heights.set(row, Math.max(lanes.length * 9 + 22, 38));
    }
    const bottom = [...heights.values()].reduce((sum, height) => sum + height, 6);
    const svg = make("svg", { viewBox: `0 0 ${width} ${bottom + 44}`, role: "img", "aria-label": `${heading}: ${points.length} cells; the tables have the figures` });
    for (const tick of axis.ticks) {
      svg.append(make("line", { x1: axis.at(tick), x2: axis.at(tick), y1: 0, y2: bottom, class: "grid" }));
      svg.append(make("text", { x: axis.at(tick), y: bottom + 17, "text-anchor": "middle" }, round(show(tick))));
    }
    svg.append(make("text", { x: (left + width) / 2, y: bottom + 38, "text-anchor": "middle", class: "strong" }, unit));
    let y = 6;
    for (const row of rows) {
      const height = heights.get(row);
      svg.append(make("line", { x1: 0, x2: width, y1: y + height, y2: y + height, class: "grid" }));
      const label = row.length * 7 > left ? `${row.slice(0, Math.floor(left / 7) - 1)}…` : row;
      svg.append(make("text", { x: 0, y: y + height / 2 + 4, class: "strong" }, label));
      for (const point of laid.get(row)) {
        const index = precisions.indexOf(point.cell.precision);
        const at = y + height / 2 + (point.lane % 2 ? 1 : -1) * Math.ceil(point.lane / 2) * 9;
        const style = point.invalid ? hollow(index) : solid(index);
        svg.append(explain(mark(SHAPES[index % 8], point.x, at, 4, style), `${point.cell.id}\n${show(point.value)}${point.invalid ? "\nnot valid" : ""}`, point.cell.id));
      }
      y += height;
    }
    const used = precisions.filter((name) => points.some((point) => point.cell.precision === name));
    const items = used.map((text) => ({ shape: SHAPES[precisions.indexOf(text) % 8], index: precisions.indexOf(text), text }));
    if (points.some((point) => point.invalid)) items.push({ shape: "circle", index: 7, text: "not valid: shown, and counts nowhere", open: true });
    return fill(figure, heading, note, [svg, legend(items)]);
  }

  // The points that nothing beats in both figures, from the left.
  function front(points) {
    const kept = [];
    for (const point of [...points].sort((a, b) => a.x - b.x || b.y - a.y)) {
      if (!kept.length || point.y > kept[kept.length - 1].y) kept.push(point);
    }
    return kept;
  }

  function pareto(figure, heading, nothing, column, unit) {
    const found = data.pareto[chosen()] || {};
    const points = [];
    for (const cell of shownCells()) {
      const figures = found[cell.id];
      if (figures && figures[column] > 0) points.push({ cell, x: figures[column], y: figures[0] });
    }
    if (!points.length) return fill(figure, heading, nothing, []);
    const width = Math.max(figure.clientWidth - 40, 260);
    const height = Math.max(Math.min(width * 0.62, 420), 240);
    const across = scale(points.map((point) => point.x), 56, width - 16, true);
    const up = scale(points.map((point) => 100 * point.y), height - 46, 10, false);
    const svg = make("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${heading}: ${points.length} cells; the table has the figures` });
    for (const tick of across.ticks) {
      svg.append(make("line", { x1: across.at(tick), x2: across.at(tick), y1: 10, y2: height - 46, class: "grid" }));
      svg.append(make("text", { x: across.at(tick), y: height - 28, "text-anchor": "middle" }, round(ms(tick))));
    }
    for (const tick of up.ticks) {
      svg.append(make("line", { x1: 56, x2: width - 16, y1: up.at(tick), y2: up.at(tick), class: "grid" }));
      svg.append(make("text", { x: 48, y: up.at(tick) + 4, "text-anchor": "end" }, String(tick)));
    }
    svg.append(make("text", { x: (56 + width) / 2, y: height - 6, "text-anchor": "middle", class: "strong" }, unit));
    svg.append(make("text", { transform: `translate(12 ${(height - 36) / 2}) rotate(-90)`, "text-anchor": "middle", class: "strong" }, "accuracy, %"));
    const best = front(points);
    const line = best.map((point) => `${across.at(point.x)},${up.at(100 * point.y)}`).join(" ");
    svg.append(make("polyline", { points: line, fill: "none", stroke: "var(--text)", "stroke-opacity": 0.6, "stroke-dasharray": "5 4" }));
    points.sort((a, b) => best.includes(a) - best.includes(b));
    for (const point of points) {
      const index = targets.indexOf(point.cell.target);
      const style = best.includes(point) ? { ...solid(index), "fill-opacity": 1, stroke: "var(--card)" } : { ...solid(index), "fill-opacity": 0.22, "stroke-opacity": 0.6 };
      const shape = mark(SHAPES[index % 8], across.at(point.x), up.at(100 * point.y), best.includes(point) ? 5.5 : 4, style);
      svg.append(explain(shape, `${point.cell.id}\n${percent(point.y)}, ${ms(point.x)} ${column === 1 ? "ms" : "mJ"}${best.includes(point) ? "\non the front" : ""}`, point.cell.id));
    }
    const taken = [];
    for (const point of best) {
      const x = across.at(point.x);
      const y = up.at(100 * point.y);
      const wide = point.cell.model.length * 6.8;
      const start = x - 10 - wide > 60 ? x - 9 - wide : x + 9;
      const box = [start - 12, y - 34, start + wide + 12, y + 18];
      if (start + wide > width || taken.some((other) => box[0] < other[2] && other[0] < box[2] && box[1] < other[3] && other[1] < box[3])) continue;
      taken.push(box);
      svg.append(make("text", { x: start, y: y - 6, class: "label" }, point.cell.model));
    }
    const used = targets.filter((name) => points.some((point) => point.cell.target === name));
    const items = used.map((text) => ({ shape: SHAPES[targets.indexOf(text) % 8], index: targets.indexOf(text), text }));
    const note = `${points.length} of ${visible.size} cells; the dashed line joins those that no other beats in both. On ${data.setups[chosen()]}.`;
    return fill(figure, heading, note, [svg, legend(items)]);
  }

  // How the cells of each run ended.
  function outcomes(figure) {
    const shown = data.runs.slice(-40);
    const width = Math.max(figure.clientWidth - 40, 260);
    const most = Math.max(...shown.map((run) => run.cells), 1);
    const wide = Math.min((width - 50) / shown.length, 120);
    const svg = make("svg", { viewBox: `0 0 ${width} 230`, role: "img", "aria-label": "Cells that work in each run; the table has the figures" });
    for (const part of most % 2 ? [0, 1] : [0, 0.5, 1]) {
      const y = 190 - 170 * part;
      svg.append(make("line", { x1: 40, x2: width, y1: y, y2: y, class: "grid" }));
      svg.append(make("text", { x: 34, y: y + 4, "text-anchor": "end" }, String(Math.round(most * part))));
    }
    shown.forEach((run, index) => {
      const x = 46 + index * wide;
      const tall = (count) => (170 * count) / most;
      const text = `${run.created} UTC, ${run.kind}\n${run.works} of ${run.cells} work`;
      const inner = Math.max(wide - 6, 2);
      const group = make("g");
      group.append(make("rect", { x, y: 190 - tall(run.works), width: inner, height: tall(run.works), rx: 3, fill: "var(--c2)", "fill-opacity": 0.8 }));
      const rest = run.cells - run.works;
      if (rest) group.append(make("rect", { x, y: 190 - tall(run.cells), width: inner, height: tall(rest), rx: 3, fill: "var(--bad-ground)", stroke: "var(--bad)" }));
      svg.append(explain(group, text));
      if (wide > 44) svg.append(make("text", { x: x + inner / 2, y: 207, "text-anchor": "middle" }, run.created.slice(5, 10)));
    });
    const note = `${data.runs.length > shown.length ? `The last ${shown.length} of ${data.runs.length} runs` : shown.length === 1 ? "One run" : `${shown.length} runs`}. Filled: cells that work; outlined: the others.`;
    svg.append(make("text", { x: width / 2, y: 226, "text-anchor": "middle", class: "strong" }, "runs, the oldest first"));
    fill(figure, "Cells that work, by run", note, [svg]);
  }

  // Figures of single cells over runs.
  const LINES = 8;
  let traced = "size";
  function lines(figure) {
    const kinds = { size: ["Size", (past) => past[1], size], error: ["Error", (past) => past[2], sci], latency: ["Latency", (past) => past[3][chosen()] && past[3][chosen()][0], (value) => `${ms(value)} ms`] };
    const [name, value, show] = kinds[traced];
    const all = shownCells().map((cell) => ({ cell, points: cell.past.map((past) => ({ x: past[0], y: value(past), valid: traced !== "latency" || (past[3][chosen()] || [])[1] === 1 })).filter((point) => point.y > 0) }));
    const drawn = all.filter((each) => each.points.length > 1);
    const spread = (each) => Math.max(...each.points.map((point) => point.y)) / Math.min(...each.points.map((point) => point.y));
    drawn.sort((a, b) => spread(b) - spread(a));
    const shown = drawn.slice(0, LINES);
    const select = document.createElement("select");
    select.setAttribute("aria-label", "Figure to follow");
    select.className = "quiet";
    select.append(...Object.keys(kinds).map((kind) => new Option(kinds[kind][0], kind, false, kind === traced)));
    select.addEventListener("change", () => {
      traced = select.value;
      lines(figure);
      $("select", figure).focus();
    });
    const heading = `${name} over runs`;
    if (!shown.length) {
      return fill(figure, heading, "No cell that the filters leave has this figure in two runs.", [select]);
    }
    const width = Math.max(figure.clientWidth - 40, 260);
    const marks = shown.flatMap((each) => each.points);
    const across = (index) => 82 + (data.runs.length > 1 ? (index / (data.runs.length - 1)) * (width - 112) : 0);
    const up = scale(marks.map((point) => point.y), 178, 12, true);
    const svg = make("svg", { viewBox: `0 0 ${width} 226`, role: "img", "aria-label": `${heading} of ${shown.length} cells` });
    for (const tick of up.ticks) {
      svg.append(make("line", { x1: 64, x2: width, y1: up.at(tick), y2: up.at(tick), class: "grid" }));
      svg.append(make("text", { x: 58, y: up.at(tick) + 4, "text-anchor": "end" }, round(show(tick))));
    }
    const every = Math.ceil((data.runs.length * 52) / (width - 64));
    data.runs.forEach((run, index) => {
      if (index % every === 0) svg.append(make("text", { x: across(index), y: 198, "text-anchor": "middle" }, run.created.slice(5, 10)));
    });
    svg.append(make("text", { x: (64 + width) / 2, y: 221, "text-anchor": "middle", class: "strong" }, "runs, the oldest first"));
    shown.forEach((each, index) => {
      svg.append(make("polyline", { points: each.points.map((point) => `${across(point.x)},${up.at(point.y)}`).join(" "), fill: "none", stroke: colour(index), "stroke-width": 1.6 }));
      for (const point of each.points) {
        const style = point.valid ? solid(index) : hollow(index);
        svg.append(explain(mark(SHAPES[index], across(point.x), up.at(point.y), 4, style), `${each.cell.id}\n${data.runs[point.x].created} UTC: ${show(point.y)}${point.valid ? "" : "\nnot valid"}`, each.cell.id));
      }
    });
    const note = drawn.length > shown.length ? `The ${shown.length} of ${drawn.length} cells that moved most; filter to see others.` : `${shown.length} cells.`;
    const judged = traced === "latency" ? " Conditions of runs differ: no verdict is drawn from this." : "";
    return fill(figure, heading, note + judged, [select, svg, legend(shown.map((each, index) => ({ shape: SHAPES[index], index, text: each.cell.id })))]);
  }

  // The inferences of a measurement, in time.
  function samples(place) {
    const values = place.dataset.samples.split(" ").map(Number).filter((value) => value > 0);
    if (values.length < 2 || place.firstChild) return;
    const [low, high] = [Math.min(...values), Math.max(...values)];
    const svg = make("svg", { viewBox: "0 0 600 54", preserveAspectRatio: "none", role: "img", "aria-label": `${values.length} inferences in time, from ${ms(low)} to ${ms(high)} ms` });
    const at = (value) => 48 - (42 * (value - low)) / (high - low || 1);
    values.forEach((value, index) => {
      const x = 4 + (592 * index) / (values.length - 1);
      svg.append(make("line", { x1: x, x2: x, y1: 54, y2: at(value), stroke: "var(--accent)", "stroke-width": 3, "stroke-opacity": 0.55 }));
    });
    const text = Object.assign(document.createElement("small"), { textContent: `${values.length} inferences in time; the bars go from ${ms(low)} to ${ms(high)} ms` });
    place.append(svg, text);
  }

  function plots() {
    if (state.view === "plots") {
      const on = data.setups[chosen()];
      byTarget($("#plot-latency"), "Latency by target", `p50 on ${on}, in milliseconds; each mark is a cell.`, "No cell that the filters leave has a latency.", (cell) => time(cell) && { value: time(cell)[0], invalid: !time(cell)[1] }, (value) => `${ms(value)} ms`, "latency, ms (logarithmic)");
      byTarget($("#plot-size"), "Size by target", "The runtime's files of an artifact; each mark is a cell.", "No cell that the filters leave has a size.", (cell) => ({ value: cell.bytes }), size, "size (logarithmic)");
      byTarget($("#plot-error"), "Error by target", "The largest relative error against the model in float64; each mark is a cell. One without any error has no place on this axis.", "No cell that the filters leave has an error.", (cell) => ({ value: cell.error }), sci, "largest relative error (logarithmic)");
    } else if (state.view === "pareto") {
      const missing = "Absent: no cell that the filters leave has both, measured and valid. The list below says why.";
      pareto($("#pareto-latency"), "Accuracy against latency", missing, 1, "latency, ms (logarithmic)");
      pareto($("#pareto-energy"), "Accuracy against energy", missing, 2, "energy of an inference, mJ (logarithmic)");
      for (const part of $$("[data-pareto]")) part.hidden = part.dataset.pareto !== data.setups[chosen()];
    } else if (state.view === "history" && data.runs.length) {
      outcomes($("#history-outcomes"));
      lines($("#history-lines"));
    }
  }
  let width = innerWidth;
  addEventListener("resize", () => {
    if (innerWidth !== width) plots();
    width = innerWidth;
  });

  let drawnFilters = null;
  function show() {
    for (const view of $$(".view")) view.classList.toggle("shown", view.id === state.view);
    for (const link of $$("nav a")) {
      if (link.getAttribute("href") === `#${state.view}`) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
    filters.elements.setup.value = data.setups[chosen()] || "";
    for (const name of ["q", ...NAMES]) {
      const field = filters.elements[name];
      if (field.value !== state[name]) field.value = state[name];
      field.classList.toggle("set", name !== "q" && state[name] !== "");
    }
    const key = JSON.stringify(["q", ...NAMES].map((name) => state[name]));
    if (key !== drawnFilters) filter();
    drawnFilters = key;
    setup();
    plots();
    open();
  }
  readAddress();
})();
