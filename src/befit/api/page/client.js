"use strict";
// Requests to this server, with the key that was typed in. It is kept as long as the tab is open, and sent nowhere else.
const Client = {
  get key() {
    return sessionStorage.getItem("befit.key") || "";
  },
  set key(value) {
    if (value) sessionStorage.setItem("befit.key", value);
    else sessionStorage.removeItem("befit.key");
  },
  async ask(path, options = {}) {
    const headers = { ...options.headers };
    if (Client.key) headers.authorization = `Bearer ${Client.key}`;
    const answer = await fetch(path, { ...options, headers });
    if (!answer.ok) throw await Client.problem(answer);
    return answer;
  },
  async get(path) {
    return (await Client.ask(path)).json();
  },
  // What the server says was wrong; `status` is the answer's.
  async problem(answer) {
    const text = await answer.text();
    let message = text;
    try {
      const { error } = JSON.parse(text);
      message = error.message || error;
    } catch { /* not ours: shown as it is */ }
    return Object.assign(new Error(message || `HTTP ${answer.status}`), { status: answer.status });
  },
  // The events of a streamed answer, until [DONE]. An error in the stream is thrown.
  async *events(path, body, signal) {
    const answer = await Client.ask(path, {
      method: "POST", signal, body: JSON.stringify(body), headers: { "content-type": "application/json" },
    });
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done) throw new Error("The connection ended before the answer did.");
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const line of lines) {
        if (!line.startsWith("data: ")) continue;
        if (line === "data: [DONE]") return;
        const event = JSON.parse(line.slice(6));
        if (event.error) throw new Error(event.error.message);
        yield event;
      }
    }
  },
};
