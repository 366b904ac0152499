"use strict";
// A conversation. A turn that failed or was stopped before its first token is taken back, and its message with it.
const Chat = {
  messages: [],
  log: document.getElementById("log"),
  input: document.getElementById("chat-input"),
  turn(role, text) {
    const turn = document.createElement("article"), head = document.createElement("h2");
    const body = document.createElement("div");
    turn.className = `turn ${role}`;
    head.textContent = role === "user" ? "You" : "Model";
    turn.append(head, body);
    Chat.log.append(turn);
    if (text) Markdown.render(text, body);
    Chat.log.scrollTop = Chat.log.scrollHeight;
    return turn;
  },
  thoughts(turn) {
    let box = turn.querySelector(".thoughts");
    if (!box) {
      const details = document.createElement("details"), summary = document.createElement("summary");
      summary.textContent = "Thoughts";
      box = document.createElement("div");
      box.className = "thoughts";
      details.append(summary, box);
      turn.insertBefore(details, turn.lastChild);
    }
    return box;
  },
  async send() {
    const text = Chat.input.value;
    if (!text.trim() || Generation.running) return;
    Chat.input.value = "";
    const asked = Chat.turn("user", text), turn = Chat.turn("assistant", "");
    const system = document.getElementById("system").value.trim();
    const before = Chat.messages, messages = [...before, { role: "user", content: text }];
    const sent = system ? [{ role: "system", content: system }, ...messages] : messages;
    let answer = "";
    Chat.log.setAttribute("aria-busy", "true");
    const end = await Generation.run("/v1/chat/completions", { messages: sent }, ({ delta }) => {
      if (delta.reasoning_content) Chat.thoughts(turn).textContent += delta.reasoning_content;
      if (!delta.content) return;
      const follow = Chat.log.scrollHeight - Chat.log.scrollTop - Chat.log.clientHeight < 40;
      answer += delta.content;
      Markdown.render(answer, turn.lastChild);
      if (follow) Chat.log.scrollTop = Chat.log.scrollHeight;
    });
    Chat.log.removeAttribute("aria-busy");
    if (Chat.messages !== before) return; // cleared meanwhile
    if (!answer && (end === "failed" || end === "stopped")) {
      asked.remove();
      turn.remove();
      Chat.input.value = text;
    } else {
      Chat.messages = [...messages, { role: "assistant", content: answer }];
    }
    Chat.input.focus();
  },
  start() {
    document.getElementById("chat-form").addEventListener("submit", (event) => {
      event.preventDefault();
      Chat.send();
    });
    Chat.input.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      Chat.send();
    });
    document.getElementById("chat-clear").addEventListener("click", () => {
      Generation.stop();
      Chat.messages = [];
      Chat.log.replaceChildren();
      Chat.input.focus();
    });
  },
};
