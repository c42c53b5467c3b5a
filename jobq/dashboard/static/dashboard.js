// One box checks all of the others.
document.addEventListener("change", (event) => {
  const name = event.target.dataset.all;
  if (!name) return;
  for (const box of event.target.form.elements) {
    if (box.name === name) box.checked = event.target.checked;
  }
});
