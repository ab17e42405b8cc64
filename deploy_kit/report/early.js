// Before anything is drawn: that there is a script, and which colours were chosen.
document.documentElement.classList.add("js");
try {
  const kept = localStorage.getItem("deploykit-theme");
  if (kept === "light" || kept === "dark") document.documentElement.dataset.theme = kept;
} catch (error) {
  // a browser that keeps nothing for files
}
