"use strict";
// The routes as /openapi.json describes them, with its examples as commands to paste.
const Docs = {
  element(name, text, attributes = {}) {
    const made = document.createElement(name);
    if (text) made.textContent = text;
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    return made;
  },
  resolve(schema) {
    return schema && schema.$ref ? Docs.schemas[schema.$ref.split("/").pop()] : schema;
  },
  // A type in a few words; null is left out, because it means "not given" everywhere.
  type(schema) {
    if (!schema) return "";
    if (schema.$ref) return schema.$ref.split("/").pop();
    if (schema.anyOf) return schema.anyOf.map(Docs.type).filter((one) => one && one !== "null").join(" or ");
    if (schema.enum) return schema.enum.map((one) => JSON.stringify(one)).join(" or ");
    if ("const" in schema) return JSON.stringify(schema.const);
    if (schema.type === "array") return `list of ${Docs.type(schema.items) || "anything"}`;
    return Array.isArray(schema.type) ? schema.type.join(" or ") : schema.type || "anything";
  },
  fields(schema) {
    const table = Docs.element("table"), head = Docs.element("tr");
    head.append(...["Field", "Type", ""].map((title) => Docs.element("th", title, { scope: "col" })));
    table.append(head);
    for (const [name, field] of Object.entries(schema.properties || {})) {
      const row = Docs.element("tr"), cell = Docs.element("td");
      cell.append(Docs.element("code", name));
      row.append(cell, Docs.element("td", Docs.type(field)));
      row.append(Docs.element("td", (schema.required || []).includes(name) ? "required" : ""));
      table.append(row);
    }
    return table;
  },
  command(source) {
    const here = source.replaceAll("http://127.0.0.1:8000", location.origin);
    return Client.key ? here.replace(/^curl /, 'curl -H "authorization: Bearer $BEFIT_API_KEY" ') : here;
  },
  sample(source) {
    const block = Docs.element("div", "", { class: "block" }), button = Docs.element("button", "Copy", { type: "button" });
    const text = Docs.command(source);
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(text);
      button.textContent = "Copied";
    });
    block.append(Docs.element("pre", text, { tabindex: "0" }), button);
    return block;
  },
  route(path, method, operation) {
    const route = Docs.element("details", "", { class: "route" }), summary = Docs.element("summary");
    const about = operation.description || "";
    summary.append(Docs.element("b", method.toUpperCase()), Docs.element("code", path), about);
    route.append(summary);
    const inside = Docs.element("div");
    for (const sample of operation["x-codeSamples"] || []) {
      inside.append(Docs.element("h3", sample.label), Docs.sample(sample.source));
    }
    const body = operation.requestBody && Docs.resolve(operation.requestBody.content["application/json"].schema);
    if (body) inside.append(Docs.element("h3", "Fields of the body"), Docs.fields(body));
    route.append(inside);
    route.dataset.words = [path, about, ...Object.keys((body && body.properties) || {})].join(" ").toLowerCase();
    return route;
  },
  show(description) {
    Docs.schemas = description.components.schemas;
    const groups = new Map();
    for (const [path, methods] of Object.entries(description.paths)) {
      for (const [method, operation] of Object.entries(methods)) {
        const tag = (operation.tags || ["other"])[0];
        if (!groups.has(tag)) groups.set(tag, []);
        groups.get(tag).push(Docs.route(path, method, operation));
      }
    }
    const sections = [...groups].map(([tag, routes]) => {
      const section = Docs.element("section", "", { "aria-label": tag });
      section.append(Docs.element("h2", tag), ...routes);
      return section;
    });
    document.getElementById("main").replaceChildren(...sections);
    document.getElementById("model").textContent = `API · version ${description.info.version}`;
  },
  find() {
    const asked = document.getElementById("find").value.trim().toLowerCase();
    for (const route of document.querySelectorAll(".route")) route.hidden = !route.dataset.words.includes(asked);
    for (const section of document.querySelectorAll("main section")) {
      section.hidden = !section.querySelector(".route:not([hidden])");
    }
  },
  async load() {
    const notice = document.getElementById("notice");
    try {
      Docs.show(await Client.get("/openapi.json"));
      Docs.find();
      notice.hidden = true;
    } catch (error) {
      notice.textContent = error.status === 401
        ? "The server wants an API key, or another one: type it in above." : error.message;
      notice.hidden = false;
    }
  },
  start() {
    const key = document.getElementById("key");
    key.value = Client.key;
    key.addEventListener("change", () => {
      Client.key = key.value.trim();
      Docs.load();
    });
    document.getElementById("find").addEventListener("input", Docs.find);
    Docs.load();
  },
};
Docs.start();
