"use strict";
// What belongs between two texts. "Take it" moves the output to the text before the cursor.
const Fill = {
  prefix: document.getElementById("fill-prefix"),
  suffix: document.getElementById("fill-suffix"),
  out: document.getElementById("fill-out"),
  take: document.getElementById("fill-take"),
  async send() {
    Fill.out.textContent = "";
    Fill.take.disabled = true;
    const body = { prompt: Fill.prefix.value, suffix: Fill.suffix.value };
    await Generation.run("/v1/completions", body, ({ text }) => {
      Fill.out.textContent += text;
    });
    Fill.take.disabled = !Fill.out.textContent;
  },
  start() {
    document.getElementById("fill-form").addEventListener("submit", (event) => {
      event.preventDefault();
      if (!Generation.running) Fill.send();
    });
    Fill.take.addEventListener("click", () => {
      Fill.prefix.value += Fill.out.textContent;
      Fill.out.textContent = "";
      Fill.take.disabled = true;
      Fill.prefix.focus();
    });
  },
};
