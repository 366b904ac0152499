"use strict";
// A text that the model goes on with, in place. Undo takes the last output away.
const Complete = {
  text: document.getElementById("complete-text"),
  undo: document.getElementById("complete-undo"),
  before: "",
  async send() {
    Complete.before = Complete.text.value;
    Complete.text.readOnly = true;
    await Generation.run("/v1/completions", { prompt: Complete.before }, ({ text }) => {
      Complete.text.value += text;
      Complete.text.scrollTop = Complete.text.scrollHeight;
    });
    Complete.text.readOnly = false;
    Complete.undo.disabled = Complete.text.value === Complete.before;
  },
  start() {
    document.getElementById("complete-form").addEventListener("submit", (event) => {
      event.preventDefault();
      if (!Generation.running) Complete.send();
    });
    Complete.undo.addEventListener("click", () => {
      Complete.text.value = Complete.before;
      Complete.undo.disabled = true;
      Complete.text.focus();
    });
  },
};
