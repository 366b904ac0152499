"use strict";
// One generation at a time: its settings, its Stop button, and what it took.
const Generation = {
  running: null,
  settings() {
    const fields = {};
    for (const name of ["temperature", "top_p", "max_tokens", "seed"]) {
      const value = document.getElementById(name).value;
      if (value !== "") fields[name] = Number(value);
    }
    const stop = document.getElementById("stop").value.split("\n").filter((line) => line);
    if (stop.length) fields.stop = stop;
    return fields;
  },
  say(text, bad = false) {
    const status = document.getElementById("status");
    status.textContent = text;
    status.classList.toggle("bad", bad);
  },
  busy(on) {
    for (const button of document.querySelectorAll("button.go")) button.disabled = on || button.dataset.off === "yes";
    for (const button of document.querySelectorAll("button.stop")) button.disabled = !on;
  },
  stop() {
    if (Generation.running) Generation.running.abort();
  },
  // Streams an answer; `take` gets each event's choice. Returns how it ended: a finish reason, "stopped" or "failed".
  async run(path, body, take) {
    if (Generation.running) return "failed";
    Generation.running = new AbortController();
    Generation.busy(true);
    Generation.say("Waiting for the first token…");
    const began = performance.now();
    let first = null, usage = null, end = "stop";
    try {
      const asked = { ...body, ...Generation.settings(), stream: true, stream_options: { include_usage: true } };
      for await (const event of Client.events(path, asked, Generation.running.signal)) {
        if (event.usage) usage = event.usage;
        const choice = event.choices && event.choices[0];
        if (!choice) continue;
        const text = choice.text || (choice.delta && (choice.delta.content || choice.delta.reasoning_content));
        if (text && first === null) {
          first = performance.now();
          Generation.say("Writing…");
        }
        take(choice);
        if (choice.finish_reason) end = choice.finish_reason;
      }
      Generation.say(Generation.summary(end, usage, began, first));
    } catch (error) {
      end = error.name === "AbortError" ? "stopped" : "failed";
      if (end === "stopped") Generation.say("Stopped.");
      else Generation.say(error.message, true);
    } finally {
      Generation.running = null;
      Generation.busy(false);
    }
    return end;
  },
  summary(end, usage, began, first) {
    const parts = [end === "length" ? "Ended at the limit of tokens" : "Done"];
    if (first !== null) parts.push(`TTFT ${(first - began).toFixed(0)} ms`);
    if (usage) {
      const seconds = (performance.now() - first) / 1000;
      const cached = usage.prompt_tokens_details && usage.prompt_tokens_details.cached_tokens;
      parts.push(`${usage.prompt_tokens} tokens in${cached ? `, ${cached} of them from the cache` : ""}`);
      parts.push(`${usage.completion_tokens} out`);
      if (first !== null && usage.completion_tokens > 1 && seconds > 0) {
        parts.push(`${((usage.completion_tokens - 1) / seconds).toFixed(0)} tokens/s`);
      }
    }
    return `${parts.join(" · ")}.`;
  },
  start() {
    for (const button of document.querySelectorAll("button.stop")) button.addEventListener("click", Generation.stop);
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape") Generation.stop();
    });
  },
};
