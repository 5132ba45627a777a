"use strict";
(() => {
  const EVERY_MS = 2000;
  const HANDS_OFF_MS = 10000;
  const SEARCH_EVERY = 5;
  const SHOWN = 50;
  const KEY = "lockstep-token";
  const at = (id) => document.getElementById(id);

  /* An element of text and other elements: nothing from the api ever becomes markup. */
  const element = (name, properties, ...children) => {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(properties || {})) {
      if (key === "class") made.className = value;
      else if (key === "data") made.dataset.label = value;
      else if (key === "click") made.addEventListener("click", value);
      else made[key] = value;
    }
    for (const child of children) if (child !== null && child !== undefined) made.append(child);
    return made;
  };
  const pill = (text, tone) => element("span", { class: tone ? "pill " + tone : "pill" }, text.replaceAll("_", " "));

  /* The token: from the address once (#token=…), then in this tab only. */
  const fragment = new URLSearchParams(location.hash.slice(1));
  const address = (identity) => history.replaceState(null, "", location.pathname
    + (identity ? "#identity=" + encodeURIComponent(identity) : ""));
  if (fragment.has("token")) {
    sessionStorage.setItem(KEY, fragment.get("token"));
    address(fragment.get("identity"));
  }
  let token = sessionStorage.getItem(KEY);

  class Refused extends Error {}

  const ask = async (path) => {
    const response = await fetch(path, { headers: { authorization: "Bearer " + token }, cache: "no-store" });
    if (response.status === 401) throw new Refused();
    const body = await response.json();
    if (!response.ok) throw new Error(body.error);
    return body;
  };

  const duration = (ms) => {
    const units = [[86400000, "d"], [3600000, "h"], [60000, "min"], [1000, "s"]];
    for (let i = 0; i < units.length; i++) {
      const [size, name] = units[i];
      if (ms < size) continue;
      const whole = Math.floor(ms / size);
      const next = units[i + 1];
      const rest = next ? Math.floor((ms - whole * size) / next[0]) : 0;
      return rest && whole < 10 ? `${whole} ${name} ${rest} ${next[1]}` : `${whole} ${name}`;
    }
    return `${Math.max(0, Math.round(ms))} ms`;
  };
  const when = (text) => {
    const gone = Date.now() - Date.parse(text);
    return element("time", { dateTime: text, title: text }, gone < 1000 && gone > -1000 ? "now"
      : gone >= 0 ? duration(gone) + " ago" : "in " + duration(-gone));
  };

  const table = (place, columns, rows, empty, total) => {
    if (!rows.length) return at(place).replaceChildren(element("p", { class: "empty" }, empty));
    const head = element("tr", {}, ...columns.map(([title]) => element("th", { scope: "col" }, title)));
    const body = rows.map((row) => element("tr", {}, ...columns.map(([title, cell, kind]) =>
      element("td", { data: title, class: kind || "" }, element("span", {}, cell(row))))));
    const whole = [element("table", {}, element("thead", {}, head), element("tbody", {}, ...body))];
    if (total > rows.length) whole.push(element("p", { class: "muted more" }, `${rows.length} of ${total} are shown`));
    at(place).replaceChildren(...whole);
  };

  const person = (row) => row.identity
    ? element("button", { type: "button", class: "link", click: () => open(row.identity) }, row.name || row.identity)
    : row.name || row.account;
  const target = (row) => row.target;
  const tone = (outcome) => ({ verified: "good", accepted: "", superseded: "", parked: "warn" })[outcome] ?? "bad";
  const waits = { guard: "a person (Guard)", dead_letter: "a person (dead letter)", worker: "the worker" };

  const show = {
    deprovisions: ({ items, total }) => table("deprovisions", [
      ["who", person], ["target", target],
      ["age", (row) => duration(row.age_seconds * 1000), "number"],
      ["deadline", (row) => row.overdue ? pill("overdue " + duration(Date.now() - Date.parse(row.deadline)), "bad")
        : when(row.deadline), "number"],
      ["waits for", (row) => waits[row.waits_for] || row.waits_for],
      ["last", (row) => row.last_outcome ? pill(row.last_error || row.last_outcome, tone(row.last_outcome)) : ""],
    ], items, "none: nobody has access that should be gone", total),
    held: ({ items, total }) => table("held", [
      ["who", person], ["target", target], ["source", (row) => row.source],
      ["since", (row) => when(row.since), "number"], ["tenant", (row) => row.tenant],
    ], items, "nothing is held", total),
    deadLetters: ({ items, total }) => table("dead-letters", [
      ["who", person], ["target", target], ["op", (row) => row.op],
      ["error", (row) => pill(row.error, "bad")], ["message", (row) => row.message],
      ["since", (row) => when(row.at), "number"],
    ], items, "none", total),
    quarantine: ({ items, total }) => {
      at("quarantine-section").hidden = !items.length;
      table("quarantine", [
        ["entity", (row) => row.entity], ["reason", (row) => row.reason], ["since", (row) => when(row.since), "number"],
        ["waiting", (row) => String(row.waiting), "number"], ["id", (row) => row.id],
      ], items, "none", total);
    },
    results: ({ items }) => table("results", [
      ["when", (row) => when(row.at), "number"], ["who", person], ["target", target], ["op", (row) => row.op],
      ["outcome", (row) => pill(row.error || row.outcome, tone(row.outcome))],
      ["since the event", (row) => duration(row.millis), "number"],
    ], items.slice(0, 15), "none yet"),
    identities: ({ items, next }) => {
      table("identities", [
        ["who", person], ["phase", (row) => pill(row.phase, row.phase === "active" ? "good" : "")],
        ["records", (row) => row.records.join(", ")],
        ["accounts", (row) => element("span", {}, ...row.accounts.map(account))],
      ], items, "no identity matches");
      if (next) at("identities").append(element("p", { class: "muted more" }, "there are more: search for one"));
    },
  };

  const account = (row) => element("span", { class: "account" }, `${row.target}: ${row.state}`,
    ...(row.outcome && row.outcome !== "verified" && !row.marks.includes("dead_letter") ? [pill(row.outcome, tone(row.outcome))] : []),
    ...row.marks.map((mark) => pill(mark, mark === "deprovisioning" ? "warn" : "bad")));

  const value = (of) => of === null || of === undefined ? "" : Array.isArray(of) ? of.map(value).join(", ") : String(of);
  const list = (pairs) => element("dl", {}, ...pairs.filter(([, of]) => value(of) !== "")
    .flatMap(([name, of]) => [element("dt", {}, name), element("dd", {}, value(of))]));

  /* The identity that is open, as it was drawn last: what has not changed is not drawn anew, for somebody may be reading. */
  let opened = null;
  let drawn = "";
  const close = () => {
    opened = null;
    at("identity").hidden = true;
    address();
    at("search").focus();
  };
  const draw = (page) => {
    if (JSON.stringify(page) === drawn) return;
    drawn = JSON.stringify(page);
    const parts = [
      element("button", { type: "button", class: "link close", click: close }, "close"),
      element("h2", {}, page.name || page.identity),
      list([["identity", page.identity], ["tenant", page.tenant], ["kind", page.kind], ["phase", page.phase],
        ["since", page.since], ["ended", page.ended], ["failing rules", page.failing],
        ["quarantined", page.quarantined ? "yes: see above" : ""]]),
    ];
    for (const row of page.account_rows) {
      parts.push(element("h3", {}, "Account at ", account(row)));
      parts.push(list([["account", row.account], ["external id", row.external_id], ["generation", row.generation], ["last op", row.last_op],
        ["last error", row.last_error], ["as of", row.at], ["effective", row.effective], ["deadline", row.deadline],
        ["delete due", row.delete_due], ["groups", row.groups], ...Object.entries(row.attributes || {})]));
    }
    for (const row of page.record_rows) {
      parts.push(element("h3", {}, `Record ${row.source}/${row.record}`));
      parts.push(list([["as of", row.time], ...Object.entries(row.attributes)]));
    }
    at("identity").replaceChildren(...parts);
  };

  const open = async (id) => {
    const page = await guarded(() => ask("/v1/identities/" + encodeURIComponent(id)));
    if (!page) return;
    opened = id;
    draw(page);
    const place = at("identity");
    place.hidden = false;
    address(id);
    place.focus({ preventScroll: true });
    place.scrollIntoView({ block: "nearest" });
  };

  const tiles = (counts) => at("tiles").replaceChildren(...counts.map(([name, count, tone]) =>
    element("li", { class: count ? tone : "" }, element("b", {}, count.toLocaleString("en")), name)));

  const problem = (text) => {
    at("problem").hidden = !text;
    at("problem").textContent = text || "";
  };

  const signIn = (why) => {
    at("sign-in").hidden = false;
    at("pages").hidden = true;
    if (why) at("sign-in-why").textContent = why;
  };

  /* Runs one thing that asks the api; says what went wrong where everybody looks. */
  const guarded = async (run) => {
    try {
      const answer = await run();
      problem("");
      return answer;
    } catch (error) {
      if (error instanceof Refused) {
        sessionStorage.removeItem(KEY);
        const was = token;
        token = null;
        signIn(was ? "That is not this lockstep's token. `lockstep token path` says where it is." : "");
      } else {
        problem(error instanceof TypeError ? "the api doesn't answer; trying again" : error.message);
      }
      return null;
    }
  };

  const readiness = async () => {
    const place = at("readiness");
    try {
      const response = await fetch("/readyz", { cache: "no-store" });
      const lines = (await response.text()).trim().split("\n");
      const waiting = lines.filter((line) => !line.endsWith("... yes") && !/^(not )?ready$/.test(line));
      place.className = response.ok ? "pill good" : "pill warn";
      place.textContent = response.ok ? "ready" : "not ready: " + waiting.join("; ");
    } catch {
      place.className = "pill bad";
      place.textContent = "not reached";
    }
  };

  const refresh = () => guarded(async () => {
    const limit = "?limit=" + SHOWN;
    const [deprovisions, held, deadLetters, quarantine, results] = await Promise.all(
      ["deprovisions", "guard", "dead-letters", "quarantine", "results"].map((list) => ask(`/v1/${list}${limit}`)));
    const { overdue } = deprovisions;
    tiles([["open deprovisions", deprovisions.total, overdue ? "bad" : "warn"], ["of them overdue", overdue, "bad"],
      ["held by the Guard", held.total, "warn"], ["dead letters", deadLetters.total, "bad"],
      ["quarantined", quarantine.total, "bad"]]);
    show.deprovisions(deprovisions);
    show.held(held);
    show.deadLetters(deadLetters);
    show.quarantine(quarantine);
    show.results(results);
    at("as-of").textContent = "as of " + new Date().toLocaleTimeString();
    at("sign-in").hidden = true;
    at("pages").hidden = false;
  });

  /* Rows that are being gone through by keyboard must not jump, for as long as somebody is at it. */
  let touched = 0;
  for (const kind of ["keydown", "pointerdown"]) addEventListener(kind, () => { touched = Date.now(); });
  const busy = () => document.hidden
    || (Boolean(document.activeElement?.closest("table")) && Date.now() - touched < HANDS_OFF_MS);

  let searched = 0;
  const search = async () => {
    const mine = ++searched;
    const text = at("search").value.trim();
    const path = "/v1/identities?limit=20" + (text ? "&q=" + encodeURIComponent(text) : "");
    const found = await guarded(() => ask(path));
    if (found && mine === searched) show.identities(found);
  };

  const begin = async () => {
    await refresh();
    if (!token) return;
    await search();
    if (fragment.has("identity")) open(fragment.get("identity"));
  };

  let typing;
  at("search").addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(search, 200);
  });
  at("sign-in").addEventListener("submit", (event) => {
    event.preventDefault();
    token = at("token").value.trim();
    at("token").value = "";
    sessionStorage.setItem(KEY, token);
    begin();
  });
  let turns = 0;
  const turn = async () => {
    if (!document.hidden) await readiness();
    if (token && !busy()) {
      await refresh();
      /* A search goes through all identities: less often than a list of the first. */
      if (token && (!at("search").value.trim() || ++turns % SEARCH_EVERY === 0)) await search();
      const id = opened;
      const page = token && id && await guarded(() => ask("/v1/identities/" + encodeURIComponent(id)));
      if (page && opened === id) draw(page);
    }
    setTimeout(turn, EVERY_MS);
  };
  if (token) begin(); else signIn();
  turn();
})();
