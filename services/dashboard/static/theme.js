// @ts-check
// Before the first paint: the theme that the reader chose, else the device's.
(() => {
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const apply = () => {
    document.documentElement.dataset.theme = localStorage.getItem("tppo-theme") ?? (dark.matches ? "dark" : "light");
  };
  dark.addEventListener("change", () => {
    apply();
    window.dispatchEvent(new Event("tppo-theme"));
  });
  apply();
})();
