/* RSO Studio: Plotly charts from JSON that stands in the page.

   <figure class="chart" data-chart="ID" aria-label="what it shows"></figure>
   <script type="application/json" id="ID">{"data": […], "layout": {…}}</script>   (json_script, or {% chart %})

   or data-chart-url="…" instead of data-chart: fetched, and polled while the answer says {"running": true}.
   A colour may name a token of the stylesheet ("var(--rso)"), so that charts follow light and dark. When a polled
   part of the page is replaced, studio.js puts the old figure back in its place: zoom and open table stay.
   Under every chart is a table of the same values, for whoever cannot see or hover; "table": {"heads": […],
   "rows": [[label, value, …], …]} in the figure says them better than x and y would. Load after plotly.min.js. */
"use strict";

(() => {
  const drawn = new Map(); // figure element -> {plot, table, figure, text}
  const PALETTE = ["--rso", "--dpo", "--slic", "--raft", "--rest", "--coin", "--sft"]; // fixed order, Okabe–Ito
  const MOST_ROWS = 400;

  // Colours ---------------------------------------------------------------------------------------------
  const probe = document.createElement("span");
  function colour(token) {
    probe.style.color = `var(${token})`;
    document.body.append(probe);
    const value = getComputedStyle(probe).color;
    probe.remove();
    return value;
  }
  function resolved(value) {
    if (typeof value === "string") return value.startsWith("var(--") ? colour(value.slice(4, -1)) : value;
    if (Array.isArray(value)) return typeof value[0] === "number" ? value : value.map(resolved);
    if (value && typeof value === "object") return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, resolved(item)]));
    return value;
  }

  // Drawing ---------------------------------------------------------------------------------------------
  function layoutOf(figure) {
    const line = colour("--line"), muted = colour("--muted");
    const axis = { gridcolor: line, linecolor: colour("--line-strong"), zerolinecolor: line, automargin: true, ticks: "outside", tickcolor: line, ticklen: 4 };
    const base = {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", autosize: true, uirevision: "kept", transition: { duration: 0 },
      margin: { l: 48, r: 12, t: 12, b: 48 }, bargap: 0.06, legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0 },
      font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: muted }, colorway: PALETTE.map(colour),
      hoverlabel: { bgcolor: colour("--surface"), bordercolor: colour("--line-strong"), font: { color: colour("--text") } },
    };
    const given = resolved(figure.layout || {});
    const layout = { ...base, ...given, font: { ...base.font, ...given.font }, margin: { ...base.margin, ...given.margin } };
    const axes = new Set(["xaxis", "yaxis", ...Object.keys(given).filter((key) => /^[xy]axis\d*$/.test(key))]);
    for (const name of axes) layout[name] = { ...axis, ...given[name] };
    return layout;
  }
  function draw(state) {
    if (!window.Plotly) { state.details.open = true; return fillTable(state); }
    // The buttons are named one by one: among Plotly's own is one that sends the chart to its maker's server.
    const config = { displaylogo: false, displayModeBar: "hover", modeBarButtons: [["toImage", "zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d"]], showSendToCloud: false, plotlyServerURL: "", ...state.figure.config };
    window.Plotly.react(state.plot, resolved(state.figure.data), layoutOf(state.figure), config);
  }
  const resizes = new ResizeObserver((entries) => {
    for (const { target } of entries) if (target.isConnected && target.clientWidth && target.classList.contains("js-plotly-plot")) window.Plotly.Plots.resize(target);
  });

  // The same values as a table, made when somebody opens it ---------------------------------------------
  const titleOf = (axis, otherwise) => axis?.title?.text ?? (typeof axis?.title === "string" ? axis.title : otherwise);
  function written(value) {
    return typeof value === "number" ? value.toLocaleString("en", { maximumSignificantDigits: 6 }) : String(value ?? "–");
  }
  function columnsOf(figure) {
    if (figure.table) return { heads: figure.table.heads, rows: new Map(figure.table.rows.map(([label, ...values]) => [label, values])) };
    const traces = figure.data.filter((trace) => Array.isArray(trace.y) || Array.isArray(trace.x));
    const flat = traces.some((trace) => trace.orientation === "h");
    const [key, value] = flat ? ["y", "x"] : ["x", "y"];
    const rows = new Map();
    traces.forEach((trace, column) => (trace[value] || []).forEach((item, index) => {
      const label = trace[key]?.[index] ?? index;
      if (!rows.has(label)) rows.set(label, []);
      rows.get(label)[column] = item;
    }));
    const first = titleOf(figure.layout?.[`${key}axis`], "");
    return { heads: [first, ...traces.map((trace) => trace.name || titleOf(figure.layout?.[`${value}axis`], "value"))], rows };
  }
  function fillTable({ details, figure }) {
    if (!details.open) return;
    const { heads, rows } = columnsOf(figure);
    const table = document.createElement("table");
    const head = table.createTHead().insertRow();
    for (const text of heads) head.append(Object.assign(document.createElement("th"), { scope: "col", textContent: text, className: "num" }));
    const body = table.createTBody();
    // The last rows: of a long curve they are the ones that are new.
    for (const [label, values] of [...rows].slice(-MOST_ROWS)) {
      const row = body.insertRow();
      row.append(Object.assign(document.createElement("th"), { scope: "row", textContent: written(label), className: "num" }));
      for (let column = 0; column < heads.length - 1; column += 1) Object.assign(row.insertCell(), { textContent: written(values[column]), className: "num" });
    }
    if (rows.size > MOST_ROWS) table.createCaption().textContent = `The last ${MOST_ROWS} of ${rows.size} rows.`;
    details.querySelector(".table-wrap").replaceChildren(table);
  }

  // Mounting --------------------------------------------------------------------------------------------
  function stateOf(element) {
    if (drawn.has(element)) return drawn.get(element);
    const plot = Object.assign(document.createElement("div"), { className: "plot" });
    const details = document.createElement("details");
    details.append(Object.assign(document.createElement("summary"), { textContent: "Values as a table" }));
    // Scrolls, so it must be reachable by keyboard.
    details.append(Object.assign(document.createElement("div"), { className: "table-wrap clamp", tabIndex: 0 }));
    element.replaceChildren(plot, details);
    const state = { plot, details, figure: null, text: "" };
    details.addEventListener("toggle", () => fillTable(state));
    resizes.observe(plot);
    drawn.set(element, state);
    return state;
  }
  function show(element, text) {
    const state = stateOf(element);
    if (state.text === text) return;
    state.text = text;
    state.figure = JSON.parse(text);
    draw(state);
    fillTable(state);
  }
  function fetched(element) {
    if (drawn.has(element)) return;
    stateOf(element);
    window.Studio.poll(element, element.dataset.chartUrl, async (response) => {
      const text = await response.text();
      element.toggleAttribute("data-running", Boolean(JSON.parse(text).running));
      show(element, text);
    }).ask();
  }
  function mount(scope) {
    for (const element of scope.querySelectorAll("[data-chart]")) {
      const source = document.getElementById(element.dataset.chart);
      if (source) show(element, source.textContent);
    }
    scope.querySelectorAll("[data-chart-url]").forEach(fetched);
    for (const [element, state] of drawn) if (!element.isConnected) { window.Plotly?.purge(state.plot); resizes.unobserve(state.plot); drawn.delete(element); }
  }

  document.addEventListener("studio:prepare", (event) => mount(event.detail));
  document.addEventListener("studio:theme", () => { for (const state of drawn.values()) if (state.figure) draw(state); });
  if (document.readyState !== "loading") mount(document);
})();
