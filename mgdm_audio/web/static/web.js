// A file is sent as soon as it is chosen or dropped; everything else is done by htmx.
const form = document.getElementById("drop");
const field = document.getElementById("file");
const sent = document.getElementById("sent");

field.addEventListener("change", () => field.files.length && form.requestSubmit());
for (const name of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(name, (event) => {
    event.preventDefault();
    form.classList.toggle("over", name === "dragover");
  });
}
document.addEventListener("drop", (event) => {
  if (event.dataTransfer.files.length) {
    field.files = event.dataTransfer.files;
    form.requestSubmit();
  }
});
form.addEventListener("htmx:xhr:progress", ({ detail }) => {
  if (detail.lengthComputable) sent.value = detail.loaded / detail.total;
});
form.addEventListener("htmx:beforeRequest", () => {
  sent.value = 0;
  sent.hidden = false;
});
form.addEventListener("htmx:afterRequest", () => {
  sent.hidden = true;
  form.reset();
});
