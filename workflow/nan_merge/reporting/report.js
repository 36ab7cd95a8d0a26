// The page can be read without this script. It adds sorting, filtering and the comparison of two methods; it computes no number.
"use strict";
(() => {
  const all = (where, selector) => [...where.querySelectorAll(selector)];

  function make(tag, properties = {}, ...children) {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...children);
    return element;
  }

  // ---- tables: a header is a button; descending, ascending, then the order of the page

  function sortable(table) {
    const body = table.tBodies[0], original = [...body.rows];
    all(table, "thead th").forEach((header, column) => {
      const button = make("button", { type: "button" });
      button.append(...header.childNodes);
      header.append(button);
      button.addEventListener("click", () => {
        const next = { descending: "ascending", ascending: "" }[header.getAttribute("aria-sort")] ?? "descending";
        all(table, "[aria-sort]").forEach((other) => other.removeAttribute("aria-sort"));
        if (next) header.setAttribute("aria-sort", next);
        body.append(...(next ? sorted(original, column, next === "ascending" ? 1 : -1) : original));
        table.dispatchEvent(new CustomEvent("sorted", { bubbles: true }));
      });
    });
  }

  function sorted(rows, column, sign) {
    const keys = new Map(rows.map((row) => {
      const { number } = row.cells[column].dataset, text = row.cells[column].textContent.trim();
      return [row, number === undefined ? text : number === "" ? "" : Number(number)];
    }));
    return [...rows].sort((one, other) => {
      const [a, b] = [keys.get(one), keys.get(other)];
      if (a === "" || b === "") return (a === "") - (b === ""); // nothing comes last in both directions
      return sign * (typeof a === "number" ? a - b : a.localeCompare(b, "en"));
    });
  }

  // ---- rows of a suite: shown by group, by words in the name, and one by one

  function filtered(suite) {
    const form = suite.querySelector("form.filter"), chart = suite.querySelector(".chart ol");
    if (!form) return;
    const hidden = new Set(), rows = all(suite, "[data-method]"), total = new Set(rows.map((row) => row.dataset.method)).size;
    const apply = () => {
      const words = form.elements.words.value.toLowerCase().split(/\s+/).filter(Boolean), shown = new Set();
      const groups = new Set(all(form, "input[type=checkbox]:checked").map((box) => box.value));
      for (const row of rows) {
        const { method, group, label } = row.dataset, name = `${method} ${label}`.toLowerCase();
        const visible = groups.has(group) && !hidden.has(method) && words.every((word) => name.includes(word));
        row.hidden = !visible;
        if (visible) shown.add(method);
      }
      form.querySelector("output").value = `${shown.size} of ${total} methods shown`;
    };
    form.hidden = false;
    form.addEventListener("input", apply);
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("reset", () => { hidden.clear(); setTimeout(apply); });
    all(suite, ".chart button").forEach((button) => {
      button.hidden = false;
      button.addEventListener("click", () => {
        hidden.add(button.closest("li").dataset.method);
        apply();
        form.querySelector("[type=reset]").focus();
      });
    });
    suite.addEventListener("sorted", (event) => {
      if (!chart || !event.target.matches(".results")) return;
      const bars = new Map(all(chart, "[data-method]").map((bar) => [bar.dataset.method, bar]));
      chart.append(...all(event.target, "tbody tr").map((row) => bars.get(row.dataset.method)).filter(Boolean));
    });
    apply();
  }

  // ---- two methods side by side

  const turned = (text) => text.replace(/[+−]/, (sign) => (sign === "+" ? "−" : "+"));

  function pairRows(data, one, other) {
    const rows = data.pairs[`${one},${other}`];
    if (rows) return rows;
    return data.pairs[`${other},${one}`]?.map(([task, difference, low, high, gained, lost, ...rest]) =>
      [task, turned(difference), turned(high), turned(low), lost, gained, ...rest]);
  }

  function table(caption, header, rows, numeric, name) {
    const cell = (tag, content, column) => make(tag, { className: numeric.includes(column) ? "n" : "" }, content);
    const head = header.map((text, column) => Object.assign(cell("th", text, column), { scope: "col" }));
    const lines = rows.map((row) => make("tr", {}, ...row.map((text, column) => cell("td", text, column))));
    return make("table", { className: name }, make("caption", { textContent: caption }),
      make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...lines));
  }

  function scroll(content, label) {
    const box = make("div", { className: "scroll", tabIndex: 0 }, content);
    box.setAttribute("role", "region");
    box.setAttribute("aria-label", label);
    return box;
  }

  const KINDS = {
    gained: (right, a, b) => a === right && b !== right,
    lost: (right, a, b) => a !== right && b === right,
    wrong: (right, a, b) => a !== b && a !== right && b !== right,
  };

  function exampleRows(data, one, other, kind) {
    return data.examples.flatMap(({ task, classes, index, texts, images, right, answers }) => {
      const [a, b] = [answers[one], answers[other]];
      if (!a || !b) return [];
      const name = (index) => classes[index] ?? String(index);
      const shown = (i) => (texts ? texts[i] : make("img", { src: images[i], alt: `Image ${index[i]} of ${task}` }));
      const found = index.map((_, i) => i).filter((i) => KINDS[kind](right[i], a[i], b[i]));
      return found.map((i) => [task, shown(i), name(right[i]), name(a[i]), name(b[i])]);
    });
  }

  function comparing(suite) {
    const place = suite.querySelector(".compare"), source = suite.querySelector("script[type='application/json']");
    if (!place || !source) return;
    const data = JSON.parse(source.textContent), form = place.querySelector("form");
    const { one, other, kind } = form.elements, result = place.querySelector(".result"), status = place.querySelector("output");
    [one, other].forEach((select, index) => {
      select.append(...data.methods.map((label, value) => new Option(label, value)));
      select.value = data.start[index];
    });
    const apply = () => {
      const [a, b] = [data.methods[one.value], data.methods[other.value]], rows = pairRows(data, one.value, other.value);
      result.replaceChildren();
      status.value = "";
      if (!rows) {
        status.value = one.value === other.value ? "Choose two different methods." : "These two methods are not compared on this page.";
        return;
      }
      const header = ["Task", "Difference in points", "95 % interval", "Only the first is right", "Only the second is right",
        "Answers that differ", "Predictions", "p (Holm)"];
      const lines = rows.map(([task, difference, low, high, ...rest]) => [task, difference, `[${low}, ${high}]`, ...rest]);
      result.append(scroll(table(`${a} − ${b}`, header, lines, [1, 2, 3, 4, 5, 6, 7], "numbers"), "Comparison of two methods"));
      if (!data.examples.length) return;
      const found = exampleRows(data, one.value, other.value, kind.value);
      const what = kind.selectedOptions[0].textContent;
      status.value = `Examples, ${what.toLowerCase()}: ${found.length}.`;
      if (found.length) {
        const given = data.examples[0].texts ? "Text as the models read it" : "Image, small";
        const titles = ["Task", given, "Right answer", `Answer of ${a}`, `Answer of ${b}`];
        result.append(scroll(table(`Examples: ${what.toLowerCase()}`, titles, found, [], "example"), "Examples"));
      }
    };
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("input", apply);
    form.querySelector("button").addEventListener("click", () => {
      [one.value, other.value] = [other.value, one.value];
      apply();
    });
    place.hidden = false;
    apply();
  }

  all(document, "table.sortable").forEach(sortable);
  all(document, "section[data-suite]").forEach((suite) => { filtered(suite); comparing(suite); });
})();
