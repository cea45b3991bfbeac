"use strict";

/* The list of rows: filtered, sorted, and drawn only where it is seen. */
const dmtList = (() => {
  const { manifest, columns, counted, element, shown, verdict } = dmtReport;
  const byId = (id) => document.getElementById(id);
  const grid = byId("grid");
  const canvas = byId("rows");
  const head = byId("head");
  const extraRows = 4;
  const usual = ["strength", "ssim_to_input", "lpips_to_input", "psnr_to_input"];
  const labels = new Map(manifest.figures);
  const present = manifest.figures.map(([name]) => name).filter((name) => manifest.present.includes(name));
  const collator = new Intl.Collator("en", { numeric: true });
  let chosen = present.filter((name) => usual.includes(name) && (name !== "strength" || manifest.steps > 1));
  let order = [];
  let active = 0;
  let sortBy = "";
  let direction = 1;
  let drawn = new Map();
  let thumbnailsDue = 0;

  const keys = () => ["id", "status", "verdict", ...present];
  const label = (key) => ({ id: "Photo", status: "Status", verdict: "Verdict" })[key] || labels.get(key);

  function valueOf(key, row) {
    return key === "verdict" ? verdict(row) || null : columns[key][row];
  }

  function compare(a, b) {
    const first = valueOf(sortBy, a);
    const second = valueOf(sortBy, b);
    if (first === null || second === null) {
      // Rows without the figure come last in either order.
      if (first === second) return a - b;
      return first === null ? 1 : -1;
    }
    const sign = typeof first === "string" ? collator.compare(first, second) : first - second;
    return sign * direction || a - b;
  }

  function ranges() {
    return [...byId("ranges").children].map((field) => {
      const [figure, least, most] = field.querySelectorAll("select, input");
      return {
        figure: figure.value,
        least: least.value === "" ? -Infinity : Number(least.value),
        most: most.value === "" ? Infinity : Number(most.value),
      };
    }).filter((range) => range.least > -Infinity || range.most < Infinity);
  }

  function refresh() {
    const text = byId("search").value.toLowerCase();
    const status = byId("status").value;
    const wanted = byId("verdict").value;
    const errorType = byId("error-type").value;
    const limits = ranges();
    order = [];
    for (let row = 0; row < manifest.rows; row += 1) {
      if (text && !columns.id[row].toLowerCase().includes(text)) continue;
      if (status === "warning" ? columns.warning[row] === null : status && columns.status[row] !== status) continue;
      if (wanted && (verdict(row) || "none") !== wanted) continue;
      if (errorType && columns.error_type[row] !== errorType) continue;
      const inside = limits.every(({ figure, least, most }) => {
        const value = columns[figure][row];
        return value !== null && value >= least && value <= most;
      });
      if (inside) order.push(row);
    }
    if (sortBy) order.sort(compare);
    byId("count").textContent = `${order.length.toLocaleString("en")} of ${counted(manifest.rows, "row")}`;
    grid.setAttribute("aria-rowcount", order.length + 1);
    active = 0;
    grid.scrollTop = 0;
    redraw();
  }

  function redraw() {
    drawn.forEach((drawing) => drawing.remove());
    drawn = new Map();
    draw();
  }

  function rowHeight() {
    return matchMedia("(max-width: 760px)").matches ? 132 : 100;
  }

  function draw() {
    const height = rowHeight();
    canvas.style.height = `${order.length * height}px`;
    const first = Math.max(0, Math.floor(grid.scrollTop / height) - extraRows);
    const last = Math.min(order.length, Math.ceil((grid.scrollTop + grid.clientHeight) / height) + extraRows);
    drawn.forEach((drawing, place) => {
      if (place < first || place >= last) {
        drawing.remove();
        drawn.delete(place);
      }
    });
    for (let place = first; place < last; place += 1) {
      if (!drawn.has(place)) {
        const drawing = drawRow(place);
        drawing.style.transform = `translateY(${place * height}px)`;
        drawn.set(place, drawing);
        canvas.append(drawing);
      }
    }
    mark();
    clearTimeout(thumbnailsDue);
    thumbnailsDue = setTimeout(drawThumbnails, 50);
  }

  function cell(className, ...children) {
    const made = element("div", { className }, ...children);
    made.setAttribute("role", "gridcell");
    return made;
  }

  function drawRow(place) {
    const row = order[place];
    const failed = columns.status[row] === "error";
    const pair = cell("pair", element("span"), element("span"));
    const name = element("div", { className: "name" }, element("bdi", { textContent: columns.id[row] }));
    const note = failed ? columns.error[row] : columns.warning[row];
    const names = cell("names", name);
    if (note) names.append(element("div", { className: "detail", textContent: note }));
    const word = failed ? columns.error_type[row] : columns.warning[row] === null ? "ok" : "ok, warning";
    const status = cell("status", element("span", { className: failed ? "badge bad" : "badge", textContent: word }));
    const said = verdict(row);
    const judged = cell("verdict");
    if (said) {
      judged.append(element("span", { className: said === "flipped" ? "badge good" : "badge", textContent: said }));
    }
    const figures = chosen.map((figure) => cell("figure", shown(columns[figure][row])));
    if (columns.strength[row] !== null && manifest.steps > 1) {
      status.append(element("span", { className: "narrow", textContent: `strength ${shown(columns.strength[row])}` }));
    }
    const cells = [pair, names, status, ...(hasVerdicts() ? [judged] : []), ...figures];
    const made = element("div", { id: `row-${place}` }, ...cells);
    made.setAttribute("role", "row");
    made.setAttribute("aria-rowindex", place + 2);
    made.addEventListener("click", () => {
      active = place;
      mark();
      dmtPhoto.open(place);
    });
    return made;
  }

  function drawThumbnails() {
    drawn.forEach((drawing, place) => {
      const row = order[place];
      if (drawing.dataset.thumbnails) return;
      drawing.dataset.thumbnails = "asked";
      dmtReport.thumbnails(row).then((pictures) => {
        const pair = drawing.querySelector(".pair");
        pair.replaceChildren(picture(pictures.before, "no input"), picture(pictures.after, "no result"));
      }, () => {
        drawing.querySelector(".pair span").textContent = "not loaded";
        delete drawing.dataset.thumbnails;
      });
    });
  }

  function picture(source, without) {
    return source ? element("img", { src: source, alt: "" }) : element("span", { textContent: without });
  }

  function mark() {
    drawn.forEach((drawing, place) => drawing.setAttribute("aria-selected", String(place === active)));
    if (drawn.has(active)) grid.setAttribute("aria-activedescendant", `row-${active}`);
    else grid.removeAttribute("aria-activedescendant");
  }

  function moveTo(place) {
    active = Math.max(0, Math.min(order.length - 1, place));
    const height = rowHeight();
    const visible = grid.clientHeight - head.parentElement.offsetHeight;
    if (active * height < grid.scrollTop) grid.scrollTop = active * height;
    if ((active + 1) * height > grid.scrollTop + visible) grid.scrollTop = (active + 1) * height - visible;
    draw();
  }

  function onKey(event) {
    if (event.target !== grid || !order.length) return;
    const page = Math.max(1, Math.floor(grid.clientHeight / rowHeight()) - 1);
    const places = {
      ArrowDown: active + 1,
      ArrowUp: active - 1,
      PageDown: active + page,
      PageUp: active - page,
      Home: 0,
      End: order.length - 1,
    };
    if (event.key in places) moveTo(places[event.key]);
    else if (event.key === "Enter" || event.key === " ") dmtPhoto.open(active);
    else return;
    event.preventDefault();
  }

  function hasVerdicts() {
    return manifest.present.includes("verdict_after");
  }

  function drawHead() {
    const shownKeys = ["", "id", "status", ...(hasVerdicts() ? ["verdict"] : []), ...chosen];
    head.replaceChildren(...shownKeys.map((key) => {
      const made = element("div", { className: chosen.includes(key) ? "figure" : "" });
      made.setAttribute("role", "columnheader");
      if (!key) {
        made.textContent = "Input, result";
        return made;
      }
      const sorted = key !== sortBy ? "none" : direction > 0 ? "ascending" : "descending";
      made.setAttribute("aria-sort", sorted);
      const button = element("button", { type: "button", textContent: label(key) });
      button.addEventListener("click", () => {
        sort(key, key === sortBy ? -direction : 1);
        [...head.querySelectorAll("button")].find((other) => other.textContent === label(key)).focus();
      });
      made.append(button);
      return made;
    }));
    grid.setAttribute("aria-colcount", shownKeys.length);
    // The head and each row are grids of their own: the same widths for all.
    const fixed = [116, ...(hasVerdicts() ? [176] : []), ...chosen.map(() => 104)];
    const sum = fixed.reduce((total, width) => total + width + 12, 174 + 12 + 220 + 28);
    grid.style.setProperty("--columns", `174px minmax(220px, 1fr) ${fixed.map((width) => `${width}px`).join(" ")}`);
    grid.style.setProperty("--width", `${sum}px`);
  }

  function sort(key, sense) {
    sortBy = key;
    direction = sense;
    byId("sort").value = key;
    byId("direction").value = String(sense);
    drawHead();
    refresh();
  }

  function options(select, values, text = (value) => value) {
    select.append(...values.map((value) => element("option", { value, textContent: text(value) })));
  }

  function showAll() {
    for (const id of ["search", "status", "verdict", "error-type"]) byId(id).value = "";
    byId("ranges").replaceChildren();
    sort("", 1);
  }

  function addRange() {
    const figure = element("select");
    options(figure, present, label);
    const least = element("input", { type: "number", step: "any" });
    const most = element("input", { type: "number", step: "any" });
    const remove = element("button", { type: "button", textContent: "Remove" });
    const field = element(
      "fieldset", {}, element("legend", { textContent: "Figure between" }),
      element("label", { textContent: "Figure" }, figure), element("label", { textContent: "Least" }, least),
      element("label", { textContent: "Most" }, most), remove,
    );
    remove.addEventListener("click", () => {
      field.remove();
      byId("add-range").focus();
      refresh();
    });
    byId("ranges").append(field);
    figure.focus();
  }

  function chooseColumns() {
    byId("columns").querySelector(".choices").append(...present.map((name) => {
      const box = element("input", { type: "checkbox", checked: chosen.includes(name) });
      box.addEventListener("change", () => {
        chosen = present.filter((other) => (other === name ? box.checked : chosen.includes(other)));
        drawHead();
        redraw();
      });
      return element("label", {}, box, label(name));
    }));
  }

  function prepare() {
    const verdicts = [...new Set(columns.id.map((_, row) => verdict(row) || "none"))].sort();
    options(byId("verdict"), verdicts, (value) => (value === "none" ? "none" : value));
    byId("verdict").parentElement.hidden = !hasVerdicts();
    options(byId("error-type"), Object.keys(manifest.remedies));
    byId("error-type").parentElement.hidden = !Object.keys(manifest.remedies).length;
    byId("sort").append(element("option", { value: "", textContent: "the plan's order" }));
    options(byId("sort"), keys().filter((key) => key !== "verdict" || hasVerdicts()), label);
    chooseColumns();
    byId("filters").addEventListener("submit", (event) => event.preventDefault());
    byId("reset").addEventListener("click", showAll);
    for (const id of ["search", "ranges"]) byId(id).addEventListener("input", refresh);
    for (const id of ["status", "verdict", "error-type"]) byId(id).addEventListener("change", refresh);
    for (const id of ["sort", "direction"]) {
      byId(id).addEventListener("change", () => sort(byId("sort").value, Number(byId("direction").value)));
    }
    byId("add-range").addEventListener("click", addRange);
    grid.addEventListener("scroll", () => requestAnimationFrame(draw));
    grid.addEventListener("keydown", onKey);
    new ResizeObserver(redraw).observe(grid);
    document.querySelectorAll(".show-errors").forEach((button) => {
      button.hidden = false;
      button.addEventListener("click", () => {
        showAll();
        byId("error-type").value = button.dataset.errorType;
        refresh();
        byId("pictures").scrollIntoView();
        grid.focus({ preventScroll: true });
      });
    });
    byId("filters").hidden = grid.hidden = false;
    sort("", 1);
  }

  dmtReport.loadRows().then(prepare, (error) => {
    byId("count").textContent = `${error.message} Is the page complete? Copy the whole folder.`;
  });

  return { rowAt: (place) => order[place], length: () => order.length, moveTo, label, present };
})();
