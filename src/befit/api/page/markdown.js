"use strict";
// The little of Markdown that answers about code need: fenced blocks apart, with a button that copies. What a model wrote
// is only ever set as text, never as HTML.
const Markdown = {
  render(text, into) {
    const parts = [];
    let open = null;
    for (const line of text.split("\n")) {
      const fence = line.match(/^\s*(`{3,}|~{3,})(.*)$/);
      if (open) {
        if (fence && fence[1].startsWith(open.fence) && !fence[2].trim()) open = null;
        else open.lines.push(line);
      } else if (fence) {
        open = { fence: fence[1], code: true, lines: [] };
        parts.push(open);
      } else {
        const last = parts[parts.length - 1];
        if (last && !last.code) last.lines.push(line);
        else parts.push({ code: false, lines: [line] });
      }
    }
    into.replaceChildren(...parts.map((part) => Markdown.part(part.code, part.lines.join("\n"))));
  },
  part(code, text) {
    if (!code) {
      const paragraph = document.createElement("p");
      paragraph.textContent = text;
      paragraph.hidden = !text.trim();
      return paragraph;
    }
    const block = document.createElement("div"), pre = document.createElement("pre");
    const button = document.createElement("button");
    block.className = "block";
    pre.textContent = text;
    pre.tabIndex = 0;
    button.type = "button";
    button.textContent = "Copy";
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(text);
      button.textContent = "Copied";
    });
    block.append(pre, button);
    return block;
  },
};
