"use strict";
// Draws the figures and links them: a point that has a run and a step is marked in every figure of the page.
(async () => {
  const find = id => document.getElementById(id);
  async function unpacked(id) {
    const bytes = Uint8Array.from(atob(find(id).textContent.trim()), c => c.charCodeAt(0));
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
  }
  const page = JSON.parse(await unpacked("data"));
  const script = document.createElement("script");
  script.textContent = await unpacked("plotly");
  document.head.append(script);

  const dark = matchMedia("(prefers-color-scheme: dark)"), coarse = matchMedia("(pointer: coarse)").matches;
  let printing = false;
  const themed = value => !dark.matches || printing ? value
    : JSON.parse(JSON.stringify(value).replace(/#[0-9a-f]{6}\b/g, color => page.dark[color] || color));
  const ink = "#1f2328", muted = "#6b7480", paper = "#ffffff";
  const config = {responsive: true, displaylogo: false, displayModeBar: "hover"};
  const buttons = deep => [deep ? ["toImage", "orbitRotation", "pan3d", "resetCameraDefault3d"]
    : ["toImage", "zoom2d", "pan2d", "resetScale2d"]];
  const panels = [...document.querySelectorAll("[data-panel]")];
  const chainRun = find("chain-run"), chainPoint = find("chain-point"), runs = new Map(page.chains);
  const hover = "<b>%{fullData.name}</b>, step %{customdata:,}<br>";

  // What is drawn in a panel: its own traces, then the rings and the line of the marked step.
  function contents(panel) {
    const own = panel.id === "panel-chains-0" ? chainTraces() : page.panels[panel.id].traces;
    const traces = own.map(trace => trace.customdata
      ? {hovertemplate: `${hover}${trace.text ? "%{text}" : trace.z ? "" : "%{y:.4~g}"}<extra></extra>`, ...trace} : trace);
    const deep = traces.some(trace => trace.type === "scatter3d");
    const ring = {mode: "markers", hoverinfo: "skip", name: "marked", x: [], y: [],
      marker: {symbol: "circle-open", size: deep ? 9 : 15, color: ink, line: {width: 2.5, color: ink}}};
    const line = {type: "scatter", mode: "lines", x: [], y: [], yaxis: "y2", hoverinfo: "skip", name: "marked step",
      line: {color: muted, width: 1}};
    panel.rings = traces.length;
    return themed([...traces, deep ? {...ring, type: "scatter3d", z: []} : {...ring, type: "scatter"}, ...(deep ? [] : [line])]);
  }
  function arrangement(panel) {
    return themed({autosize: true, showlegend: false, hovermode: "closest", dragmode: coarse ? false : undefined,
      margin: {l: 8, r: 12, t: 26, b: 8}, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: {family: "system-ui,-apple-system,Segoe UI,Roboto,sans-serif", size: 12, color: ink},
      hoverlabel: {align: "left", bgcolor: paper, bordercolor: muted, font: {color: ink}},
      modebar: {bgcolor: "rgba(0,0,0,0)", color: muted, activecolor: ink},
      ...page.panels[panel.id].layout});
  }
  const drawn = panel => Plotly.react(panel, contents(panel), arrangement(panel),
    {...config, modeBarButtons: buttons(page.panels[panel.id].layout.scene), toImageButtonOptions: {format: "svg", filename: panel.id.slice(6)}});

  // The marked step: {run, step}, or null; `kept` is what a click or a key chose, and stays when the pointer leaves.
  let marked = null, kept = null, turn = 0;
  function near(steps, step) {
    let best = 0;
    steps.forEach((at, k) => { if (Math.abs(at - step) < Math.abs(steps[best] - step)) best = k; });
    return best;
  }
  function ring(panel) {
    const at = {x: [], y: [], z: []}, width = (page.panels[panel.id].layout.meta || {}).width;
    for (const trace of marked ? panel.data : []) {
      if (!trace.customdata || trace.meta !== marked.run || trace.visible === false) continue;
      const k = near(trace.customdata, marked.step), thinned = trace.customdata.length > 400;
      if (thinned || trace.customdata[k] === marked.step) for (const name of ["x", "y", "z"]) if (trace[name]) at[name].push(trace[name][k]);
    }
    const place = marked && width ? Math.log1p(marked.step / width) : null;
    const update = panel.data.length > panel.rings + 1
      ? [{x: [at.x, place === null ? [] : [place, place]], y: [at.y, place === null ? [] : [0, 1]]}, [panel.rings, panel.rings + 1]]
      : [{x: [at.x], y: [at.y], z: [at.z]}, [panel.rings]];
    return Plotly.restyle(panel, ...update);
  }
  async function mark(next) {
    if (JSON.stringify(next) === JSON.stringify(marked)) return;  // drawing a ring can repeat the event
    const mine = ++turn;
    marked = next;
    find("marked").textContent = marked ? `${marked.run}, step ${marked.step.toLocaleString("en")}` : "";
    await new Promise(requestAnimationFrame);
    const away = panel => { const box = panel.getBoundingClientRect(); return Math.max(box.top - innerHeight, -box.bottom, 0); };
    for (const panel of [...panels].sort((a, b) => away(a) - away(b))) {
      if (mine !== turn) return;
      if (away(panel)) await new Promise(done => setTimeout(done));
      if (mine === turn && panel.data) ring(panel);
    }
  }
  function keep(next) {
    kept = next;
    if (next && chainRun) choose(next.run, next.step);
    return mark(next);
  }

  // The chains of one LLC point.
  function point() { return chainRun ? runs.get(chainRun.value)[+chainPoint.value] : null; }
  function chainTraces() {
    const chosen = point(), [llc, low, high] = chosen.level, longest = Math.max(1, ...chosen.chains.flatMap(c => c.draws));
    const across = (y, more) => ({type: "scatter", mode: "lines", x: [0, longest], y: [y, y], hoverinfo: "skip", ...more});
    const flat = low === undefined ? [] : [across(low, {line: {width: 0}}),
      across(high, {line: {width: 0}, fill: "tonexty", fillcolor: muted, opacity: 0.3})];
    return [...flat, ...(llc === null ? [] : [across(llc, {line: {color: ink, dash: "dash", width: 1}})]),
      ...chosen.chains.flatMap(({color, draws, means, running}, k) => [
        {type: "scatter", mode: "lines", x: draws, y: means, opacity: 0.35, line: {color, width: 0.8}, hoverinfo: "skip"},
        {type: "scatter", mode: "lines", x: draws, y: running, line: {color, width: 2},
          hovertemplate: `chain ${k}, %{x:,} draws: mean %{y:.4~g}<extra></extra>`}])];
  }
  function choose(run, step) {
    const points = runs.get(run);
    if (!points) return;
    chainRun.value = run;
    chainPoint.max = points.length - 1;
    chainPoint.value = near(points.map(each => each.step), step);
    const chosen = point(), said = `step ${chosen.step.toLocaleString("en")} (${+chainPoint.value + 1} of ${points.length})`;
    find("chain-step").textContent = said + (chosen.converged ? "" : ", did not converge");
    chainPoint.setAttribute("aria-valuetext", said);
    find("chain-table").replaceChildren(...chosen.rows.map(([name, text]) => {
      const row = document.createElement("tr"), head = document.createElement("th"), cell = document.createElement("td");
      head.scope = "row"; head.textContent = name; cell.textContent = text;
      row.append(head, cell);
      return row;
    }));
    const panel = find("panel-chains-0");
    if (panel.data) drawn(panel);
  }
  if (chainRun) {
    for (const run of runs.keys()) chainRun.add(new Option(run, run));
    choose(chainRun.value, runs.get(chainRun.value).at(-1).step);
    chainRun.addEventListener("change", () => keep({run: chainRun.value, step: runs.get(chainRun.value).at(-1).step}));
    chainPoint.addEventListener("input", () => keep({run: chainRun.value, step: point().step}));
  }

  for (const panel of panels) {
    await drawn(panel);
    const pointed = event => {
      const at = event.points.find(each => each.customdata !== undefined && each.data.meta !== undefined);
      return at ? {run: at.data.meta, step: at.customdata} : null;
    };
    panel.on("plotly_hover", event => { const at = pointed(event); if (at) mark(at); });
    panel.on("plotly_unhover", () => mark(kept));
    panel.on("plotly_click", event => { const at = pointed(event); if (at) keep(at); });
    panel.addEventListener("keydown", event => {
      if (event.key === "Escape") return void keep(null);
      const way = {ArrowLeft: -1, ArrowRight: 1}[event.key];
      const lines = panel.data.filter(trace => trace.customdata);
      if (!way || event.target !== panel || !lines.length) return;
      event.preventDefault();
      const trace = lines.find(each => kept && each.meta === kept.run) || lines[0], steps = trace.customdata;
      const at = kept && trace.meta === kept.run ? near(steps, kept.step) + way : way > 0 ? 0 : steps.length - 1;
      keep({run: trace.meta, step: steps[Math.min(Math.max(at, 0), steps.length - 1)]});
    });
    await new Promise(done => setTimeout(done));
  }
  for (const button of document.querySelectorAll("[data-line]")) button.addEventListener("click", () => {
    const off = button.getAttribute("aria-pressed") === "true";
    button.setAttribute("aria-pressed", String(!off));
    for (const panel of button.closest("figure").querySelectorAll("[data-panel]")) {
      const which = panel.data.flatMap((trace, k) => trace.legendgroup === button.dataset.line ? [k] : []);
      for (const trace of (page.panels[panel.id] || {traces: []}).traces) if (trace.legendgroup === button.dataset.line) trace.visible = !off;
      if (which.length) Plotly.restyle(panel, {visible: !off}, which);
    }
  });
  const again = () => panels.forEach(panel => { drawn(panel); ring(panel); });
  dark.addEventListener("change", again);
  addEventListener("beforeprint", () => { printing = true; again(); });
  addEventListener("afterprint", () => { printing = false; again(); });
  document.documentElement.dataset.ready = "yes";
})().catch(error => {
  document.getElementById("marked").textContent = "The figures could not be drawn: " + error.message;
  console.error(error);
});
