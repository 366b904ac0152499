"use strict";
// Puts the page together: the key, what the model is and can do, and what is wrong, if anything is.
const Page = {
  known: false,
  async describe() {
    const [models, props] = await Promise.all([Client.get("/v1/models"), Client.get("/props")]);
    const model = models.data[0];
    document.getElementById("model").textContent = `${model.id} · ${model.max_model_len} tokens of context`;
    document.title = `befit · ${model.id}`;
    document.getElementById("chat-about").textContent = `Chat template: ${props.chat_template_source}.`;
    const fills = props.infill !== null;
    document.getElementById("fill-about").textContent = fills
      ? `The prompt is written as ${props.infill.family} was trained to fill in.`
      : "This model was not trained to fill in the middle: its vocabulary has no tokens for that.";
    const button = document.querySelector("#fill-form .go");
    button.dataset.off = fills ? "no" : "yes";
    Generation.busy(Boolean(Generation.running));
    Page.known = true;
  },
  // After each reading of the meters: the first that succeeds also tells what is served.
  async onAnswer(error) {
    if (!error && !Page.known) error = await Page.describe().then(() => null, (failed) => failed);
    const notice = document.getElementById("notice");
    const text = !error ? "" : error.status === 401
      ? "The server wants an API key, or another one: type it in above."
      : `The server does not answer: ${error.message}`;
    if (notice.textContent !== text) notice.textContent = text;
    notice.hidden = !text;
  },
  start() {
    const key = document.getElementById("key");
    key.value = Client.key;
    key.addEventListener("change", () => {
      Client.key = key.value.trim();
      Page.known = false;
      Meters.poll();
    });
    Tabs.start();
    Generation.start();
    Chat.start();
    Fill.start();
    Complete.start();
    Meters.start(Page.onAnswer);
  },
};
Page.start();
