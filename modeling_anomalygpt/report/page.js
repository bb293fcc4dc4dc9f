"use strict";
const {words, rows} = JSON.parse(document.getElementById("data").textContent);
const state = {filter: "all", sort: "worst", up: false, search: "", view: "cards", page: 0};
const sizes = {cards: 20, table: 50, print: 200};
const kinds = {anomalous: 0, uncertain: 1, unknown: 2, error: 3, normal: 4};
const missing = -Infinity;
const orders = {
  worst: (a, b) => kinds[a.verdict] - kinds[b.verdict] || by("score")(b, a) || by("odds")(b, a),
  score: (a, b) => by("score")(b, a),
  log_odds: (a, b) => by("odds")(b, a),
  area: (a, b) => b.area - a.area,
  name: (a, b) => a.name.localeCompare(b.name, undefined, {numeric: true}),
  order: (a, b) => a.index - b.index,
};
function by(key) {
  return (a, b) => { const x = a[key] ?? missing, y = b[key] ?? missing; return x < y ? -1 : +(x > y); };
}

function make(tag, options = {}, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(options)) {
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (key === "text") node.textContent = value;
    else if (value !== false && value != null) node.setAttribute(key, value);
  }
  node.append(...children.filter((child) => child != null));
  return node;
}
function draw(tag, options, text) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [key, value] of Object.entries(options)) node.setAttribute(key, value);
  if (text != null) node.textContent = text;
  return node;
}
function fill(sentence, values) { return sentence.replace(/\{(\w+)\}/g, (_, key) => values[key]); }
function path(row, tag) {  // a long path may break after a slash
  const parts = row.name.split(/(?<=[\/\\])/).flatMap((part) => [part, make("wbr")]);
  return make(tag, {title: row.path}, ...parts);
}
function fixed(value, digits) { return value == null ? "\u2013" : value.toFixed(digits); }

function outlines(row) {
  const [width, height] = row.size, unit = Math.max(width, height) / 100;
  const sheet = draw("svg", {viewBox: `0 0 ${width} ${height}`});
  for (const under of ["under", ""])
    for (const region of row.regions) sheet.append(draw("polygon", {points: region.line, class: under}));
  row.regions.forEach((region, index) => {
    const radius = 3.4 * unit;
    const inside = (value, end) => Math.min(Math.max(value, radius + unit / 2), end - radius - unit / 2);
    const x = inside(region.box[0], width), y = inside(region.box[1], height);
    sheet.append(draw("circle", {cx: x, cy: y, r: radius}));
    sheet.append(draw("text", {x, y, "font-size": 1.25 * radius * (index > 8 ? 0.8 : 1)}, index + 1));
  });
  return sheet;
}
function frame(row, withMap, height, wide) {
  const ratio = row.size[0] / row.size[1];
  const image = (address, kind) => make("img", {src: address, alt: kind === "heat" ? "" : row.name, class: kind});
  const parts = [image(row.picture, "photo")];
  if (withMap) parts.push(...(row.map ? [image(row.map, "heat")] : []), outlines(row));
  const node = make("button", {class: "frame", type: "button", "aria-label": row.name}, ...parts);
  node.style.aspectRatio = ratio;
  node.style.setProperty("--ratio", ratio);
  const limit = height > 100 ? "100%" : "120px";
  node.style.width = wide ? `min(92vw, ${80 * ratio}vh)` : `min(${limit}, ${Math.round(height * ratio)}px)`;
  if (!wide) node.addEventListener("click", () => enlarge(row, withMap));
  return node;
}
function enlarge(row, withMap) {
  const dialog = document.getElementById("large");
  const link = row.file && make("a", {href: row.file.split("/").map(encodeURIComponent).join("/"), target: "_blank",
    text: words.open_overlay});
  dialog.replaceChildren(frame(row, withMap, 0, true),
    make("p", {}, make("strong", {text: row.name}), link,
      make("button", {type: "button", text: words.close, onclick: () => dialog.close()})));
  const other = !withMap && Boolean(row.map);
  dialog.querySelector(".frame").addEventListener("click", () => enlarge(row, other));
  if (!dialog.open) dialog.showModal();
}
function badge(row) { return make("span", {class: `badge ${row.verdict}`, text: words[row.verdict]}); }
function regionTable(row) {
  const heads = ["#", words.position, words.size, words.area, words.peak, words.mean];
  const cells = (region, index) => [index + 1, region.place, region.extent, region.area, region.peak, region.mean];
  const line = (tag, texts) => make("tr", {}, ...texts.map((text, column) =>
    make(tag, {text, class: column > 3 ? "number" : column > 1 && "whole"})));
  const table = make("table", {}, make("thead", {}, line("th", heads)),
    make("tbody", {}, ...row.regions.map((region, index) => line("td", cells(region, index)))));
  return row.more > 0 ? make("div", {}, table, make("p", {class: "evidence", text: `+ ${row.more}`})) : table;
}
function caption(node, text) { return make("figure", {}, node, make("figcaption", {text})); }
function pairs(row) {
  const detail = (address, text) => caption(make("img", {src: address, alt: text}), text);
  return make("div", {class: "beside"}, make("p", {class: "evidence", text: words.pairs}),
    make("div", {class: "pairs"}, ...row.pairs.map(({region, details}) => make("div", {},
      detail(details[0], fill(words.region_detail, {n: region})), detail(details[1], words.good_detail)))));
}
function sentences(texts, label) {
  return make("ul", {class: "evidence", "aria-label": label}, ...texts.map((text) => make("li", {text})));
}
function card(row) {
  const measure = (label, value) => make("span", {}, make("span", {text: label}), make("b", {text: value}));
  const facts = make("div", {class: "facts"}, path(row, "h2"),
    make("div", {class: "measures"}, badge(row), ...(row.verdict === "error" ? [] : [
      measure(row.calibrated ? words.ratio : words.score, fixed(row.score, 3))])),
    row.error ? make("p", {class: "warning", text: row.error}) : null,
    row.differs ? make("p", {class: "warning", text: row.differs}) : null,
    row.answer ? make("blockquote", {text: row.answer}) : null,
    row.regions.length ? make("div", {class: "wide"}, regionTable(row)) : null,
    row.evidence.length ? sentences(row.evidence, words.evidence) : null,
    row.statistics.length ? make("details", {class: "evidence"}, make("summary", {text: words.numbers}),
      row.odds == null && !row.probability ? null : make("div", {class: "measures"},
        row.odds == null ? null : measure(words.log_odds, (row.odds > 0 ? "+" : "") + fixed(row.odds, 2)),
        row.probability ? measure(words.probability, row.probability) : null),
      sentences(row.statistics, words.numbers)) : null);
  return make("article", {class: `card ${row.verdict}`},
    row.picture ? caption(frame(row, false, 300), words.photograph) : make("figure"),
    row.map ? caption(frame(row, true, 300), words.map)
      : row.picture && row.regions.length ? caption(frame(row, true, 300), words.region_list)
      : make("p", {class: "evidence", text: row.picture ? words.no_map : ""}),
    facts, row.pairs.length ? pairs(row) : null);
}
function table(list) {
  const heads = [["", ""], ["", ""], ["name", words.sort_name], ["worst", words.verdict],
    ["score", list.some((row) => row.calibrated) ? words.ratio : words.score],
    ["log_odds", words.log_odds], ["area", words.region_list], ["", words.answer]];
  const head = ([key, text]) => {
    if (!key) return make("th", {text});
    const chosen = state.sort === key, arrow = chosen ? (state.up ? " \u25b4" : " \u25be") : "";
    const choose = () => { state.up = chosen && !state.up; state.sort = key; state.page = 0; show(); };
    return make("th", {"aria-sort": chosen && (state.up ? "ascending" : "descending")},
      make("button", {type: "button", text: text + arrow, onclick: choose}));
  };
  const line = (row) => make("tr", {},
    make("td", {}, row.picture ? frame(row, false, 64) : ""),
    make("td", {}, row.map ? frame(row, true, 64) : ""), path(row, "td"),
    make("td", {}, badge(row)), make("td", {class: "number", text: fixed(row.score, 3)}),
    make("td", {class: "number", text: fixed(row.odds, 2)}),
    make("td", {text: [...new Set(row.regions.map((region) => region.place))].join(", ")}),
    make("td", {class: "answer", text: row.error || row.answer}));
  return make("div", {class: "list"}, make("table", {}, make("thead", {}, make("tr", {}, ...heads.map(head))),
    make("tbody", {}, ...list.map(line))));
}
function chosen() {
  const search = state.search.toLowerCase();
  const ofKind = (row) => state.filter === "differs" ? row.differs : row.verdict === state.filter;
  const found = (row) => `${row.name} ${row.answer} ${row.error}`.toLowerCase().includes(search);
  const fits = (row) => (state.filter === "all" || ofKind(row)) && (!search || found(row));
  const list = rows.filter(fits).sort((a, b) => orders[state.sort](a, b) || a.index - b.index);
  return state.up ? list.reverse() : list;
}
function show(everything = false) {
  const list = chosen(), size = everything ? sizes.print : sizes[state.view];
  const pages = Math.max(1, Math.ceil(list.length / size));
  state.page = Math.min(state.page, pages - 1);
  const start = everything ? 0 : state.page * size, part = list.slice(start, start + size);
  const results = document.getElementById("results");
  if (!part.length) results.replaceChildren(make("p", {class: "note", text: words.none}));
  else results.replaceChildren(...(state.view === "cards" ? part.map(card) : [table(part)]));
  if (everything && list.length > size)
    results.prepend(make("p", {class: "note", text: fill(words.print_limit, {n: size, all: list.length})}));
  const turn = (step, text) => make("button", {type: "button", text,
    disabled: (state.page + step < 0 || state.page + step >= pages) && "",
    onclick: () => { state.page += step; show(); document.getElementById("controls").scrollIntoView(); }});
  const where = fill(words.page, {from: list.length ? start + 1 : 0, to: start + part.length, n: list.length});
  const pager = [turn(-1, words.previous), make("span", {text: where}), turn(1, words.next)];
  document.getElementById("pages").replaceChildren(...pager);
  for (const tile of document.querySelectorAll(".tile"))
    tile.setAttribute("aria-pressed", tile.dataset.filter === state.filter);
  for (const key of ["filter", "sort", "view"]) document.getElementById(key).value = state[key];
}
function controls() {
  const select = (key, texts) => make("label", {}, texts.label, make("select", {id: key,
    onchange: (event) => { state[key] = event.target.value; state.up = false; state.page = 0; show(); }},
    ...Object.entries(texts.options).map(([value, text]) => make("option", {value, text}))));
  const pick = (names, prefix = "") => Object.fromEntries(names.map((name) => [name, words[prefix + name]]));
  document.getElementById("controls").append(
    select("filter", {label: words.filter, options: pick(["all", ...Object.keys(kinds), "differs"])}),
    select("sort", {label: words.sort, options: pick(Object.keys(orders), "sort_")}),
    select("view", {label: "", options: pick(["cards", "table"], "view_")}),
    make("input", {type: "search", placeholder: words.search, "aria-label": words.search,
      oninput: (event) => { state.search = event.target.value; state.page = 0; show(); }}),
    make("label", {}, words.heat, make("input", {type: "range", min: 0, max: 100, value: 100,
      oninput: (event) => document.body.style.setProperty("--heat", event.target.value / 100)})));
}
document.querySelectorAll(".tile").forEach((tile) => tile.addEventListener("click",
  () => { state.filter = tile.dataset.filter; state.page = 0; show(); }));
document.getElementById("print").addEventListener("click", () => window.print());
document.getElementById("theme").addEventListener("click", () => {
  const dark = document.documentElement.dataset.theme
    ? document.documentElement.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  document.documentElement.dataset.theme = dark ? "light" : "dark";
});
addEventListener("beforeprint", () => show(true));  // paper has no pages to turn, but nobody prints thousands
addEventListener("afterprint", () => show());
controls();
show();
