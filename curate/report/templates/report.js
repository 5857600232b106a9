"use strict";
// Without this script the page still shows everything but the filters.
const main = document.getElementById("main"), top_ = document.querySelector("header");
const select = document.getElementById("class"), find = document.getElementById("find");
let opener = null;

function filter() {
  const wanted = select.value;
  let shown = 0;
  for (const item of document.querySelectorAll(".gallery li[data-class]")) {
    item.hidden = wanted === "" ? "more" in item.dataset : item.dataset.class !== wanted;
    shown += !item.hidden;
  }
  for (const pair of document.querySelectorAll(".pair")) pair.hidden = !pair.querySelector("li:not([hidden])");
  document.getElementById("said").textContent = wanted === "" ? "" : `${shown} shown`;
}

function search() {
  const wanted = find.value.trim().toLocaleLowerCase();
  for (const row of document.querySelectorAll("#by-class tbody tr"))
    row.hidden = !row.firstElementChild.textContent.toLocaleLowerCase().includes(wanted);
}

function follow() {
  const open = document.querySelector("article:target");
  main.inert = top_.inert = Boolean(open);
  if (open) open.focus();
  else if (opener) { opener.focus({ preventScroll: false }); opener = null; }
}

if (select) {
  document.getElementById("filter").hidden = false;
  select.addEventListener("change", filter);
}
if (find) find.addEventListener("input", search);
main.addEventListener("click", (event) => {
  const link = event.target.closest(".gallery a");
  if (link) opener = link;
});
document.getElementById("samples").addEventListener("click", (event) => {
  if (!event.target.closest(".close") || !opener) return;
  event.preventDefault();
  history.back();
});
document.addEventListener("keydown", (event) => {
  const open = document.querySelector("article:target");
  if (event.key === "Escape" && open) open.querySelector(".close").click();
});
addEventListener("hashchange", follow);
follow();
