"use strict";
// What the server is doing, asked once a second while the page is looked at.
const Meters = {
  history: [],
  last: null,
  show(id, text) {
    document.getElementById(id).textContent = text;
  },
  // Rates come from two readings; a quiet second has no TTFT of its own, so the latest one stays.
  update(now) {
    const before = Meters.last;
    Meters.last = now;
    Meters.show("m-kv", (100 * now.kv_usage).toFixed(0));
    document.getElementById("m-kv-bar").value = now.kv_usage;
    Meters.show("m-running", now.running);
    Meters.show("m-waiting", now.waiting);
    const read = now.prompt_tokens_total;
    Meters.show("m-cached", read ? (100 * now.cached_tokens_total / read).toFixed(0) : "–");
    if (!before || now.time <= before.time || now.output_tokens_total < before.output_tokens_total) return;
    const rate = (now.output_tokens_total - before.output_tokens_total) / (now.time - before.time);
    Meters.show("m-rate", rate.toFixed(rate < 10 ? 1 : 0));
    const first = now.time_to_first_token, count = first.count - before.time_to_first_token.count;
    if (count > 0) Meters.show("m-ttft", (1000 * (first.sum - before.time_to_first_token.sum) / count).toFixed(0));
    Meters.history = [...Meters.history, rate].slice(-120);
    Meters.draw();
  },
  draw() {
    const top = Math.max(1, ...Meters.history);
    const points = Meters.history.map((rate, at) => `${120 - Meters.history.length + at},${30 - 28 * rate / top}`);
    document.getElementById("m-line").setAttribute("points", points.join(" "));
  },
  async poll() {
    if (document.hidden) return;
    try {
      Meters.update(await Client.get("/stats"));
      Meters.onAnswer(null);
    } catch (error) {
      Meters.onAnswer(error);
    }
  },
  start(onAnswer) {
    Meters.onAnswer = onAnswer;
    setInterval(Meters.poll, 1000);
    return Meters.poll();
  },
};
