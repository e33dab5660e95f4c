// Shows a user, lets them meet or hide items, and asks the service anew each time.
"use strict";

const of = (id) => document.getElementById(id);
const K = 10;
let events = [];
let before = new Set();
let asked = 0;

function element(name, text, className) {
  const made = document.createElement(name);
  made.textContent = text; // a title is foreign text: never markup
  if (className) made.className = className;
  return made;
}

function button(text, label, act) {
  const made = element("button", text);
  made.type = "button";
  made.setAttribute("aria-label", label);
  made.addEventListener("click", act);
  return made;
}

async function ask(path, body) {
  const headers = { "Content-Type": "application/json" };
  if (of("key").value) headers["X-API-Key"] = of("key").value;
  const options = body ? { method: "POST", body: JSON.stringify(body), headers } : { headers };
  const answer = await fetch(path, options);
  const said = await answer.json();
  if (!answer.ok) throw new Error(typeof said.detail === "string" ? said.detail : `status ${answer.status}`);
  return said;
}

async function tell(work) {
  of("fault").textContent = "";
  try {
    await work();
  } catch (error) {
    of("fault").textContent = error.message;
  }
}

function about() {
  const user = of("user").value.trim();
  return { ...(user ? { user_id: user } : { history: [] }), events };
}

function title(item) {
  return item.title || item.item_id;
}

async function show() {
  const number = ++asked;
  const answer = await ask("recommend", { ...about(), k: K, with_history: true });
  if (number !== asked) return; // a later question was asked meanwhile
  of("model").textContent =
    `model ${answer.model_version}` + (answer.ds ? `, users and catalogue of ${answer.ds}` : "");
  of("history").replaceChildren(...answer.history.map((item) => {
    const row = element("li", "");
    row.append(element("span", title(item), "name"));
    row.append(button("do not use", `Do not use ${title(item)}`, () => add(item, "do_not_use")));
    return row;
  }));
  const isFirst = before.size === 0;
  of("list").replaceChildren(...answer.recommendations.map((item) => {
    const row = element("li", "", isFirst || before.has(item.item_id) ? "" : "new");
    row.append(element("span", item.rank, "number"), element("span", title(item), "name"));
    row.append(element("span", item.reason === "model" ? item.score.toFixed(2) : item.reason, "number"));
    row.append(button("why", `Why ${title(item)}`, () => tell(() => explain(item))));
    row.append(button("hide", `Hide ${title(item)}`, () => add(item, "hide")));
    return row;
  }));
  before = new Set(answer.recommendations.map((item) => item.item_id));
}

function add(item, eventType) {
  events.push({ item_id: item.item_id, event_type: eventType });
  return tell(show);
}

async function explain(item) {
  of("why").replaceChildren(element("p", "…"));
  const answer = await ask("explain", { ...about(), item_ids: [item.item_id] });
  const found = answer.items[0];
  const rows = found.history.slice(0, 8).map((met) => {
    const row = element("li", "");
    const strength = document.createElement("meter");
    strength.max = Math.max(...found.history.map((each) => each.left_out), 0.05);
    strength.value = Math.max(met.left_out, 0);
    row.append(element("span", title(met), "name"), strength);
    row.append(element("span", met.left_out.toFixed(2), "number"));
    return row;
  });
  const list = element("ol", "");
  list.append(...rows);
  const parts = [element("p", found.sentence), element("p", "What its score loses without each:", "aside"), list];
  if (found.words) {
    const most = Math.max(...found.words.map((word) => Math.abs(word.share)), 1e-6);
    const text = element("p", "", "words");
    for (const word of found.words) {
      const span = element("span", word.text);
      const strength = Math.abs(word.share) / most;
      span.style.backgroundColor = `rgba(${word.share > 0 ? "11,107,203" : "180,35,24"},${0.45 * strength})`;
      text.append(span, " ");
    }
    parts.push(element("p", "Which words of its text raise (blue) or lower (red) it:", "aside"), text);
  }
  parts.push(...answer.notes.map((note) => element("p", note, "aside")));
  of("why").replaceChildren(...parts);
}

async function find() {
  const wanted = of("title").value.trim();
  const items = wanted ? await ask(`items?n=6&title=${encodeURIComponent(wanted)}`) : [];
  if (wanted !== of("title").value.trim()) return;
  of("found").replaceChildren(...items.map((item) => {
    const row = element("li", "");
    row.append(element("span", title(item), "name"));
    row.append(button("add", `Add ${title(item)}`, () => {
      of("title").value = "";
      of("found").replaceChildren();
      return add(item, "view");
    }));
    return row;
  }));
}

function begin() {
  events = [];
  before = new Set();
  of("why").replaceChildren(element("p", "Choose a recommendation."));
  return tell(show);
}

of("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  begin();
});
of("title").addEventListener("input", () => tell(find));
tell(async () => {
  const users = await ask("users?n=20");
  of("users").replaceChildren(...users.map((user) => {
    const option = document.createElement("option");
    option.value = user;
    return option;
  }));
  of("user").value = users[0] || "";
  await begin();
});
