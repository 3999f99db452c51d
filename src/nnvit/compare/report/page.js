"use strict";
// The page reads without this: it adds the theme switch, sorting, filtering, the choice of metric and the slider.
(() => {
  const root = document.documentElement;
  root.classList.add("js");
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const memory = {
    get(key) { try { return localStorage.getItem(key); } catch { return null; } },
    set(key, value) { try { localStorage.setItem(key, value); } catch { /* a page without storage forgets */ } },
  };

  // theme: as the system has it, light, or dark
  const setTheme = (name) => {
    if (name === "light" || name === "dark") root.dataset.theme = name;
    else delete root.dataset.theme;
  };
  const kept = memory.get("nnvit-theme") || "system";
  setTheme(kept);
  all('input[name="theme"]').forEach((input) => {
    input.checked = input.value === kept;
    input.addEventListener("change", () => { setTheme(input.value); memory.set("nnvit-theme", input.value); });
  });
  all("[data-print]").forEach((button) => button.addEventListener("click", () => window.print()));

  // tables: a click on a heading sorts, a second one turns the order; what has no value stays last
  const valueOf = (row, column) => {
    const cell = row.cells[column];
    return cell.dataset.value !== undefined ? cell.dataset.value : cell.textContent.trim();
  };
  const compare = (a, b) => {
    const x = Number(a), y = Number(b);
    if (a !== "" && b !== "" && !Number.isNaN(x) && !Number.isNaN(y)) return x - y;
    return a.localeCompare(b, undefined, { numeric: true });
  };
  const sort = (table, column, direction) => {
    all("thead th", table).forEach((heading, i) => heading.setAttribute("aria-sort", i === column ? direction : "none"));
    const sign = direction === "ascending" ? 1 : -1;
    const rows = [...table.tBodies[0].rows].map((row) => [valueOf(row, column), row]);
    rows.sort(([a], [b]) => (a === "") - (b === "") || sign * compare(a, b));
    table.tBodies[0].append(...rows.map(([, row]) => row));
  };
  all("table.sortable").forEach((table) => {
    all("thead th", table).forEach((heading, column) => {
      const button = heading.querySelector("button");
      if (!button) return;
      button.addEventListener("click", () => {
        const first = heading.classList.contains("number") ? "descending" : "ascending";
        const other = first === "ascending" ? "descending" : "ascending";
        sort(table, column, heading.getAttribute("aria-sort") === first ? other : first);
      });
    });
  });

  // filters: words that must all be in the row, and values that a column must have
  all("[data-filters]").forEach((tools) => {
    const table = document.getElementById(tools.dataset.filters);
    const rows = [...table.tBodies[0].rows];
    const search = tools.querySelector('input[type="search"]');
    const choices = all("select[data-field]", tools);
    const count = tools.querySelector("output");
    const apply = () => {
      const words = search ? search.value.toLowerCase().split(/\s+/).filter(Boolean) : [];
      let shown = 0;
      rows.forEach((row) => {
        const text = row.textContent.toLowerCase();
        const fits = words.every((word) => text.includes(word))
          && choices.every((choice) => choice.value === "" || row.dataset[choice.dataset.field] === choice.value);
        row.hidden = !fits;
        shown += fits;
      });
      if (count) count.textContent = `${shown} of ${rows.length} rows`;
    };
    if (search) search.addEventListener("input", apply);
    choices.forEach((choice) => choice.addEventListener("change", apply));
    apply();
  });

  // the cases' table holds one metric at a time
  const store = document.getElementById("case-data");
  const metric = document.getElementById("case-metric");
  if (store && metric) {
    const data = JSON.parse(store.textContent);
    const table = document.getElementById("cases");
    const text = (value, digits) => (value === null ? "–" : value.toFixed(digits).replace("-", "−"));
    const put = (cell, value, digits) => {
      cell.textContent = text(value, digits);
      cell.dataset.value = value === null ? "" : value;
    };
    metric.addEventListener("change", () => {
      const chosen = data[metric.value];
      all("tbody tr", table).forEach((row) => {
        const values = chosen.values[Number(row.dataset.row)];
        const known = values.filter((value) => value !== null);
        all("[data-arm]", row).forEach((cell, i) => put(cell, values[i], chosen.digits));
        put(row.querySelector("[data-spread]"), known.length > 1 ? Math.max(...known) - Math.min(...known) : null, chosen.digits);
      });
      all("[data-metric-name]", table).forEach((name) => { name.textContent = chosen.name; });
      const sorted = all("thead th", table).findIndex((heading) => /ending$/.test(heading.getAttribute("aria-sort") || ""));
      if (sorted >= 0) sort(table, sorted, all("thead th", table)[sorted].getAttribute("aria-sort"));
    });
  }

  // overlays: the range input is the slider; dragging on the picture moves the same input
  all("[data-overlay]").forEach((figure) => {
    const range = figure.querySelector(".wipe");
    if (!range) return;
    const stage = figure.querySelector(".stage");
    const svg = stage.querySelector("svg");
    const width = svg.viewBox.baseVal.width;
    const sides = ["left", "right"].map((name) => ({
      clip: svg.querySelector(`[data-clip="${name}"]`),
      label: stage.querySelector(`.${name}`),
      choice: figure.querySelector(`select[data-side="${name}"]`),
      outline: svg.querySelector(`[data-layer="${name}-outline"]`),
      errors: svg.querySelector(`[data-layer="${name}-errors"]`),
    }));
    const edge = svg.querySelector("[data-edge]");
    const move = () => {
      const at = (width * range.value) / 100;
      sides[0].clip.setAttribute("width", at);
      sides[1].clip.setAttribute("x", at);
      sides[1].clip.setAttribute("width", width - at);
      edge.setAttribute("x1", at);
      edge.setAttribute("x2", at);
      const names = sides.map(({ choice }) => choice.selectedOptions[0].textContent);
      range.setAttribute("aria-valuetext", `${range.value}% ${names[0]}, ${100 - range.value}% ${names[1]}`);
    };
    const choose = ({ label, choice, outline, errors }) => {
      const option = choice.selectedOptions[0];
      label.textContent = option.dataset.label;
      outline.setAttribute("href", `#${choice.value}-outline`);
      errors.setAttribute("href", `#${choice.value}-errors`);
      move();
    };
    sides.forEach((side) => { side.choice.addEventListener("change", () => choose(side)); choose(side); });
    range.addEventListener("input", move);
    const drag = (event) => {
      const box = stage.getBoundingClientRect();
      range.value = Math.round((100 * (event.clientX - box.left)) / box.width);
      move();
    };
    stage.addEventListener("pointerdown", (event) => { stage.setPointerCapture(event.pointerId); drag(event); });
    stage.addEventListener("pointermove", (event) => { if (event.buttons) drag(event); });
  });
  all("[data-layers] input").forEach((tick) => {
    const box = document.getElementById("overlays");
    const set = () => box.classList.toggle(tick.value, tick.dataset.when === "on" ? tick.checked : !tick.checked);
    tick.addEventListener("change", set);
    set();
  });

  // text to paste
  all("[data-copy]").forEach((button) => {
    button.addEventListener("click", async () => {
      const source = document.getElementById(button.dataset.copy);
      try {
        await navigator.clipboard.writeText(source.innerText);
        button.textContent = "copied";
      } catch {
        window.getSelection().selectAllChildren(source);
        button.textContent = "selected: copy with Ctrl+C";
      }
    });
  });
})();
