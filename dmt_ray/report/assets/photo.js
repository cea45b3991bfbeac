"use strict";

/* A look at one photo: input and result under a slider, its strengths side by side, and the way between. */
const dmtPhoto = (() => {
  const { manifest, columns, element, shown, verdict } = dmtReport;
  const byId = (id) => document.getElementById(id);
  const dialog = byId("photo");
  const stage = byId("stage");
  let place = 0;
  let row = 0;
  let frames = [];
  let playing = 0;

  async function open(at) {
    place = at;
    row = dmtList.rowAt(at);
    if (!dialog.open) dialog.showModal();
    dialog.scrollTop = 0;
    const asked = row;
    byId("photo-title").firstElementChild.textContent = columns.id[row];
    byId("previous").disabled = place === 0;
    byId("next").disabled = place === dmtList.length() - 1;
    facts();
    figures();
    let views = {};
    let failure = null;
    try {
      views = await dmtReport.views(row);
    } catch (error) {
      failure = error.message;
    }
    if (asked !== row) return;
    pictures(views);
    const said = [];
    if (failure) said.push(failure);
    else if (columns.missing[row]) said.push(`There is no picture of the input: ${columns.missing[row]}`);
    if (!failure && columns.status[row] === "ok" && !views[row]?.after) said.push("There is no picture of the result.");
    note(said.join(" "));
    if (!dialog.dataset.row) byId(byId("slider").hidden ? "close" : "slider").focus();
    dialog.dataset.row = String(row);
  }

  function note(text) {
    byId("photo-note").hidden = !text;
    byId("photo-note").textContent = text || "";
  }

  function pictures(views) {
    const rows = dmtReport.rowsOf(row);
    const before = views[rows[0]]?.before;
    const after = views[row]?.after;
    show(byId("before"), before, `Input: ${columns.id[row]}`);
    show(byId("after"), after, `Result: ${columns.id[row]}`);
    byId("compare").hidden = !before && !after;
    const both = Boolean(before && after);
    byId("slider").hidden = byId("divider").hidden = !both;
    byId("compare").querySelector(".ends").hidden = !both;
    byId("slider").value = "50";
    slide(both ? 50 : 100);
    const size = byId(after ? "after" : "before");
    size.decode().catch(() => {}).then(() => {
      const ratio = size.naturalWidth / size.naturalHeight || 1;
      byId("compare").style.setProperty("--ratio", String(ratio));
    });
    strengths(rows, views, before);
    frames = views[row]?.frames || [];
    stop();
    byId("way").hidden = !frames.length;
    byId("frame-at").max = String(frames.length - 1);
    showFrame(0);
  }

  function show(image, source, alt) {
    image.hidden = !source;
    image.alt = source ? alt : "";
    if (source) image.src = source;
    else image.removeAttribute("src");
  }

  function slide(share) {
    stage.style.setProperty("--share", `${share}%`);
    byId("slider").setAttribute("aria-valuetext", `${share} % input, ${100 - share} % result`);
  }

  function strengths(rows, views, before) {
    const strip = byId("strengths");
    strip.hidden = rows.length < 2 || !rows.some((other) => views[other]?.after);
    const input = before
      ? [element("figure", {}, element("img", { src: before, alt: "" }), "Input")]
      : [];
    strip.replaceChildren(...input, ...rows.map((other) => {
      const source = views[other]?.after;
      const picture = source ? element("img", { src: source, alt: "" }) : element("span", { className: "none" });
      const button = element("button", { type: "button" }, picture, strengthOf(other));
      button.setAttribute("aria-pressed", String(other === row));
      button.addEventListener("click", () => {
        row = other;
        pictures(views);
        facts();
        [...strip.querySelectorAll("button")][rows.indexOf(other)].focus();
      });
      return button;
    }));
  }

  function strengthOf(other) {
    return columns.strength[other] === null ? `Step ${columns.step[other]}` : `Strength ${shown(columns.strength[other])}`;
  }

  function showFrame(number) {
    const source = frames[number];
    show(byId("frame"), source, source ? `Step ${number + 1} of ${frames.length}` : "");
    byId("frame-at").value = String(number);
    byId("frame-number").textContent = frames.length ? `Step ${number + 1} of ${frames.length}` : "";
  }

  function stop() {
    clearInterval(playing);
    playing = 0;
    byId("play").textContent = "Play";
  }

  function play() {
    if (playing) {
      stop();
      return;
    }
    byId("play").textContent = "Pause";
    playing = setInterval(() => showFrame((Number(byId("frame-at").value) + 1) % frames.length), 350);
  }

  function facts() {
    const failed = columns.status[row] === "error";
    const [meaning, remedy] = (failed && manifest.remedies[columns.error_type[row]]) || [null, null];
    const pairs = [
      ["Read from", columns.uri[row]],
      ["Status", columns.status[row]],
      ["Verdict", verdict(row)],
      ["Error", failed && `${columns.error_type[row]}: ${meaning}`],
      ["Message", columns.error[row]],
      ["What to do", remedy],
      ["Warning", columns.warning[row]],
    ];
    byId("facts").replaceChildren(...pairs.filter(([, value]) => value).map(([name, value]) => element(
      "div", {}, element("dt", { textContent: name }), element("dd", {}, element("bdi", { textContent: value })),
    )));
  }

  function figures() {
    const rows = dmtReport.rowsOf(row);
    const known = dmtList.present.filter((name) => name !== "strength" && rows.some((other) => columns[name][other] !== null));
    const heads = ["Figure", ...rows.map(strengthOf)];
    const headRow = element("tr", {}, ...heads.map((text) => element("th", { scope: "col", textContent: text })));
    const body = known.map((name) => element(
      "tr", {}, element("th", { scope: "row", textContent: dmtList.label(name) }),
      ...rows.map((other) => element("td", { textContent: shown(columns[name][other]) })),
    ));
    byId("figures").replaceChildren(element("table", {}, element("thead", {}, headRow), element("tbody", {}, ...body)));
  }

  /* The next row in the list of another photo. */
  function step(sense) {
    let at = place + sense;
    while (at > 0 && at < dmtList.length() - 1 && columns.photo[dmtList.rowAt(at)] === columns.photo[row]) at += sense;
    if (at < 0 || at >= dmtList.length()) return;
    dmtList.moveTo(at);
    open(at);
  }

  byId("slider").addEventListener("input", (event) => slide(Number(event.target.value)));
  byId("frame-at").addEventListener("input", (event) => {
    stop();
    showFrame(Number(event.target.value));
  });
  byId("play").addEventListener("click", play);
  byId("previous").addEventListener("click", () => step(-1));
  byId("next").addEventListener("click", () => step(1));
  byId("close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("close", () => {
    stop();
    delete dialog.dataset.row;
    byId("grid").focus({ preventScroll: true });
  });
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close();
  });

  return { open };
})();
