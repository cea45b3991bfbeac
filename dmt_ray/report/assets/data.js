"use strict";

/* What lies beside the page: rows, thumbnails and larger pictures, in scripts that are loaded when they are needed.
   A page that is opened from a disk may load scripts, but may not fetch. */
const dmtReport = (() => {
  const manifest = JSON.parse(document.getElementById("manifest").textContent);
  const kept = { rows: Infinity, thumbs: 64, views: 6 };
  const stores = { rows: new Map(), thumbs: new Map(), views: new Map() };
  const receivers = new Map();
  const columns = Object.fromEntries(manifest.columns.map((name) => [name, []]));

  function receive(kind, number, content) {
    const receiver = receivers.get(`${kind}-${number}`);
    if (receiver) receiver(content);
  }

  function load(kind, number) {
    const store = stores[kind];
    let promise = store.get(number);
    if (promise) {
      store.delete(number);
    } else {
      promise = loadScript(kind, number);
      promise.catch(() => store.delete(number));
    }
    store.set(number, promise);
    while (store.size > kept[kind]) store.delete(store.keys().next().value);
    return promise;
  }

  function loadScript(kind, number) {
    return new Promise((resolve, reject) => {
      const key = `${kind}-${number}`;
      const script = document.createElement("script");
      let content;
      const end = () => {
        script.remove();
        receivers.delete(key);
        if (content === undefined) reject(new Error(`${script.src} cannot be loaded.`));
        else resolve(content);
      };
      receivers.set(key, (received) => { content = received; });
      script.addEventListener("load", end);
      script.addEventListener("error", end);
      script.src = `${kind}-${manifest.digest}-${String(number).padStart(4, "0")}.js`;
      document.head.append(script);
    });
  }

  async function loadRows() {
    const files = Math.ceil(manifest.rows / manifest.rowsPerFile);
    for (let number = 0; number < files; number += 1) {
      const part = await load("rows", number);
      stores.rows.delete(number);
      for (const [name, values] of Object.entries(part)) {
        for (const value of values) columns[name].push(value);
      }
    }
  }

  /* The small pictures of a row: {before, after}, each a data: URI or null. */
  async function thumbnails(row) {
    const number = Math.floor(row / manifest.thumbnailsPerFile);
    const part = await load("thumbs", number);
    const place = row - number * manifest.thumbnailsPerFile;
    const before = part.before[place];
    return { before: typeof before === "number" ? part.before[before] : before, after: part.after[place] };
  }

  /* The larger pictures of the rows of a photo, by row: {before, after, frames}. */
  function views(row) {
    return load("views", columns.view[row]);
  }

  function rowsOf(row) {
    const first = columns.photo[row];
    let end = first;
    while (end < manifest.rows && columns.photo[end] === first) end += 1;
    return Array.from({ length: end - first }, (_, index) => first + index);
  }

  function verdict(row) {
    if (columns.flipped[row] === true) return "flipped";
    if (columns.flipped[row] === false) return "not flipped";
    return columns.verdict_before[row] > 0 ? "target class already" : "";
  }

  function shown(value) {
    if (value === null || value === undefined) return "–";
    if (typeof value !== "number") return String(value);
    return Number.isInteger(value) ? value.toLocaleString("en") : String(Number(value.toPrecision(4)));
  }

  function counted(count, noun) {
    return `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;
  }

  function element(tag, properties = {}, ...children) {
    const made = Object.assign(document.createElement(tag), properties);
    made.append(...children);
    return made;
  }

  return { manifest, columns, receive, loadRows, thumbnails, views, rowsOf, verdict, shown, counted, element };
})();

/* Light or dark, as the system has it or as it was chosen here. */
(() => {
  const select = document.getElementById("theme");
  const apply = () => {
    if (select.value) document.documentElement.dataset.theme = select.value;
    else delete document.documentElement.dataset.theme;
  };
  try {
    select.value = localStorage.getItem("dmt-report-theme") || "";
  } catch { /* a browser that keeps nothing for pages from a disk */ }
  apply();
  select.addEventListener("change", () => {
    apply();
    try {
      localStorage.setItem("dmt-report-theme", select.value);
    } catch { /* as above */ }
  });
})();
