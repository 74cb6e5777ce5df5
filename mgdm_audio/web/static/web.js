// A file is sent as soon as it is chosen or dropped; everything else is done by htmx.
const form = document.getElementById("drop");
const field = document.getElementById("file");
const sent = document.getElementById("sent");
const trouble = document.getElementById("trouble");

field.addEventListener("change", () => field.files.length && form.requestSubmit());
for (const name of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(name, (event) => {
    event.preventDefault();
    form.classList.toggle("over", name === "dragover");
  });
}
document.addEventListener("drop", (event) => {
  waiting.push(...event.dataTransfer.files);
  if (sent.hidden) sendNext();
});
// One after the other, as the field takes one file.
const waiting = [];
function sendNext() {
  if (!waiting.length) return;
  const one = new DataTransfer();
  one.items.add(waiting.shift());
  field.files = one.files;
  form.requestSubmit();
}
form.addEventListener("htmx:xhr:progress", ({ detail }) => {
  if (detail.lengthComputable) sent.value = detail.loaded / detail.total;
});
form.addEventListener("htmx:beforeRequest", ({ target }) => {
  if (target !== form) return;
  sent.value = 0;
  sent.hidden = false;
});
form.addEventListener("htmx:afterRequest", ({ target }) => {
  if (target !== form) return;
  sent.hidden = true;
  form.reset();
  sendNext();
});

// What htmx does not put into the page: refusals, until something else is done, and a server that
// is gone, until it answers (cards of what runs ask all the time).
let gone = false;
function tell(text, isGone = false) {
  gone = isGone;
  trouble.hidden = !text;
  trouble.textContent = text;
}
document.addEventListener("htmx:responseError", ({ detail }) => tell(detail.xhr.responseText || `error ${detail.xhr.status}`));
document.addEventListener("htmx:sendError", () => tell("The server does not answer. Start it again, then reload the page.", true));
document.addEventListener("htmx:afterRequest", ({ detail }) => {
  if (detail.successful && (gone || detail.requestConfig.verb !== "get")) tell("");
});
